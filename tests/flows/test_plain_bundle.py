"""A gateway without a predictor: what `init` writes starts, and draws the reference until it knows better."""

import os
import re
import shlex
import subprocess
import sys

import httpx
import pytest
from typer.testing import CliRunner

from data.errors import ConfigError, ContractError
from flows import cli
from flows.config import enter_home, load_config
from flows.examine import examine
from flows.init import init
from flows.plain_bundle import build_plain, contract_of, first_policy
from tests.conftest import ROOT
from tests.helpers import make_pool
from tests.servers import free_port, running

pytestmark = pytest.mark.slow


@pytest.fixture
def config(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPTSCALE_HOME", str(tmp_path / "home"))
    file = tmp_path / "config.yaml"
    init(file, server.url("plain").removesuffix("/v1"))
    config = load_config(file, ("policy.cap=4",))
    enter_home(config)
    return config


@pytest.mark.suite
def test_the_pages_five_minutes(server, tokenizer, tmp_path, monkeypatch):
    """Its own commands and its own code, with the addresses of servers that are here."""
    page = (ROOT / "serving" / "gateway.md").read_text().split("## Five minutes")[1].split("\n## ")[0]
    commands = re.findall(r"^optscale (.*)$", page, re.MULTILINE)
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    port, url = free_port(), server.url("plain").removesuffix("/v1")
    for given in ("http://127.0.0.1:8000", "http://127.0.0.1:8001"):
        commands = [command.replace(given, url) for command in commands]
    init_, serve = (shlex.split(command) for command in commands)
    assert (init_[0], serve[0]) == ("init", "serve")
    program = [sys.executable, "-m", "flows.cli"]
    environment = {**os.environ, "OPTSCALE_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    monkeypatch.chdir(tmp_path)
    subprocess.run([*program, *init_, "--tokenizer", str(tokenizer)], env=environment, check=True)
    command = [*program, *serve, "-s", f"serve.port={port}", "-s", "policy.cap=4"]
    found = {}
    with running(command, f"http://127.0.0.1:{port}/readyz", tmp_path / "log", environment):
        exec(code.replace("127.0.0.1:3000", f"127.0.0.1:{port}"), found)
        told = httpx.post(f"http://127.0.0.1:{port}/describe", json={}, timeout=60).json()
    answer = found["answer"]
    assert answer.choices[0].message.content
    assert (answer.optscale["drawn"], answer.optscale["promise"]) == (4, None)
    assert answer.usage.completion_tokens == answer.optscale["tokens"]["generated"]
    assert "nothing is certified: the reference, all 4 candidates by weighted vote" in told["says"]
    assert "Nothing is certified yet" in (tmp_path / "log").read_text()


def test_without_scores_the_vote_is_the_majoritys(config):
    assert first_policy(config, contract_of(config)).selection.kind == "majority"


def test_a_certificate_of_another_contract_is_refused(config, tmp_path):
    make_pool(tmp_path / "other", questions=180)
    other = load_config(None, (f"pool={tmp_path / 'other'}", "policy.cap=6", "goal.lose=0.2"))
    certificate = examine(other)[1].certificate
    with pytest.raises(ContractError, match="certificate"):
        build_plain(config, certificate)


def test_without_a_gateway_there_is_nothing_to_serve(tmp_path):
    config = load_config(None, (f"home={tmp_path}",))
    with pytest.raises(ConfigError, match="optscale init writes such a config"):
        build_plain(config)
    done = CliRunner().invoke(cli.app, ["serve", "-s", f"home={tmp_path}"])
    assert isinstance(done.exception, ConfigError)
