"""``make test-clients``: published client libraries, each in a process, against a real gateway."""

import subprocess
from pathlib import Path

import pytest

from serving.settings import LogSettings
from tests.serving.conftest import gateway_settings, make_bundle, serve
from tests.serving.upstream import Upstream

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-clients/bin/python"
LIBRARIES = sorted(path.stem for path in Path(__file__).parent.glob("use_*.py"))


@pytest.fixture(scope="module")
def url(trunk, tmp_path_factory):
    from tests.models.tiny import save_qwen_tokenizer

    folder = tmp_path_factory.mktemp("clients")
    for part in ("bundle", "checkpoints", "served", "tokenizer"):
        (folder / part).mkdir()
    make_bundle(folder / "bundle", folder / "checkpoints", trunk)
    upstream = Upstream(tokenizer := save_qwen_tokenizer(folder / "tokenizer"))
    at = upstream.url("plain")
    settings = gateway_settings(at, at, tokenizer, log=LogSettings(explore=0))
    with serve(folder / "bundle", settings, folder / "served") as (url, _):
        yield f"{url}/v1"
    upstream.close()


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_client_changes_its_base_url_and_nothing_else(url, library):
    command = [PYTHON, "-m", f"tests.clients.{library}", url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-4000:]}"
    assert "passed" in done.stdout
