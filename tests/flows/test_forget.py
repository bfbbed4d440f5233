"""The command: pool, log and caches at once, and a record that has no content."""

import json

import pytest
from typer.testing import CliRunner

from data.errors import ConfigError
from data.pool import Pool
from flows import cli
from flows.config import Config
from flows.forget import forget
from tests.helpers import make_pool, make_questions

pytestmark = pytest.mark.slow


def test_it_is_gone_everywhere_and_the_record_says_how_much(tmp_path, monkeypatch):
    monkeypatch.setenv("OPTSCALE_HOME", str(tmp_path))
    for place in ("pool", "pilot/one"):
        make_pool(tmp_path / place, questions=20)
    (tmp_path / "states").mkdir()
    (tmp_path / "states" / "read.npy").write_bytes(b"of questions")
    first, second = (question.id for question in make_questions(2))
    line = ["forget", "--question", first, "--question", second, "--json"]
    done = CliRunner().invoke(cli.app, line, catch_exceptions=False)
    told = json.loads(done.stdout)
    assert (told["questions"], told["candidates"], told["old_parts"]) == (4, 24, 2)
    assert not (tmp_path / "states").exists()
    for place in ("pool", "pilot/one"):
        assert len(Pool.open(str(tmp_path / place)).question_ids) == 18
    (record,) = (tmp_path / "forgotten.jsonl").read_text().splitlines()
    assert json.loads(record)["questions"] == 4
    assert first not in record


def test_nothing_named_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="--question ID, or --before DATE"):
        forget(Config(home=tmp_path), (), None, 0.0)
