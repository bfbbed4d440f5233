"""What a collection would take, told from a pool of made-up scores."""

import pytest

from data.questions import write_questions
from flows.collect import computed_in, estimate
from flows.config import Config
from tests.helpers import make_pool, make_questions

pytestmark = pytest.mark.slow


@pytest.fixture
def config(tmp_path):
    write_questions(make_questions(50), tmp_path / "q.jsonl")
    collect = {"questions": (str(tmp_path / "q.jsonl"),), "candidates": 4, "limit": 7}
    return Config.model_validate({"home": tmp_path, "pool": str(tmp_path / "pool"), "collect": collect})


def counts(told):
    return told["questions"], told["already collected"], told["beyond the limit"], told["candidates"]


def test_questions_beyond_the_limit_are_not_called_collected(config):
    assert counts(estimate(config)) == (7, 0, 43, 28)
    make_pool(config.pool, questions=20)
    assert counts(estimate(config)) == (7, 20, 23, 28)
    make_pool(config.home / "whole", questions=60)
    assert counts(estimate(config.model_copy(update={"pool": str(config.home / "whole")}))) == (0, 50, 0, 0)


def test_a_dry_run_reads_no_text_of_the_pool(config, monkeypatch):
    pool = make_pool(config.pool, questions=20)
    rows = list(pool.rows())
    monkeypatch.setattr(type(pool), "tables", None)
    told = estimate(config)
    tokens = [row["completion_tokens"] for row in rows]
    assert told["generated tokens"] == round(28 * sum(tokens) / len(tokens))
    assert told["prompt tokens"] == 7 * 12
    assert told["minutes"] == round(told["generated tokens"] / sum(tokens) / 60, 1)


def test_a_record_says_what_was_computed_in():
    told = computed_in(Config())
    assert all(
        told[f"{name} computed in"].startswith("float32 on ") for name in ("generator", "reward model")
    )
    generator = {"kind": "openai", "base_url": "http://h/v1", "model": "m"}
    there = computed_in(Config.model_validate({"generator": generator}))
    assert there["generator computed in"] == "what its server does"
