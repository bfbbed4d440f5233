"""A gateway without a predictor: what `init` writes starts, and draws the reference until it knows better."""

import httpx
import pytest
from typer.testing import CliRunner

from data.errors import ConfigError, ContractError
from flows import cli
from flows.config import enter_home, load_config
from flows.examine import examine
from flows.init import init
from flows.plain_bundle import build_plain, contract_of, first_policy
from serving.bento import serve_bento
from tests.helpers import make_pool

pytestmark = pytest.mark.slow


@pytest.fixture
def config(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPTSCALE_HOME", str(tmp_path / "home"))
    file = tmp_path / "config.yaml"
    init(file, server.url("plain").removesuffix("/v1"))
    config = load_config(file, ("policy.cap=4",))
    enter_home(config)
    return config


def test_what_init_writes_starts_and_draws_the_full_cap(config):
    with serve_bento(build_plain(config)) as url:
        told = httpx.post(f"{url}/describe", json={}, timeout=60).json()
        asked = {"model": "m", "messages": [{"role": "user", "content": "What is 2 + 3?"}]}
        answer = httpx.post(f"{url}/v1/chat/completions", json=asked, timeout=60).json()
    assert "nothing is certified: the reference, all 4 candidates by majority" in told["says"]
    assert answer["optscale"]["drawn"] == 4
    assert answer["optscale"]["promise"] is None
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
