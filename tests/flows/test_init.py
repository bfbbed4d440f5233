"""A config for one's own servers: they are tried first, and what fails is told in their words."""

import json

import pytest
from typer.testing import CliRunner

from data.errors import ConfigError, ModelError
from flows import cli
from flows.config import load_config
from flows.init import init

pytestmark = pytest.mark.slow


def test_a_config_that_is_written_is_read_and_names_the_servers(server, tokenizer, tmp_path):
    file, url = tmp_path / "c.yaml", server.url("plain")
    line = ["init", "--generator", url.removesuffix("/v1"), "--reward", url, "--tokenizer", tokenizer]
    done = CliRunner().invoke(cli.app, [*line, "--output", str(file), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["generator"]["model"] == "m"
    assert told["generator"]["tokens"] == 10
    assert len(told["reward"]["step_scores"]) == 2
    config = load_config(file)
    assert (config.generator.base_url, config.generator.model) == (url, "m")
    assert (config.reward.tokenizer, config.reward.convention) == (tokenizer, "qwen")
    assert config.gateway.generator == config.generator
    assert config.gateway.reward == config.reward
    assert config.generator.retries > 0
    assert "part of the score contract" in file.read_text()
    with pytest.raises(ConfigError, match="there already"):
        init(file, url)


@pytest.mark.parametrize(
    ("way", "cause"),
    [
        ("locked", "no such key"),
        ("refusing", "too long"),
        ("page", "no completion"),
        ("error", "out of order"),
    ],
)
def test_what_fails_is_told_in_the_servers_words(server, tmp_path, way, cause):
    with pytest.raises(ModelError, match=cause):
        init(tmp_path / "c.yaml", server.url(way))
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there_is_said(tmp_path):
    with pytest.raises(ModelError, match="127.0.0.1:9.*onnect"):
        init(tmp_path / "c.yaml", "http://127.0.0.1:9")


def test_a_reward_model_that_gives_no_score_is_told(server, tokenizer, tmp_path):
    with pytest.raises(ModelError, match=r"reward model at .* gave no score: .*out of order"):
        init(tmp_path / "c.yaml", server.url("plain"), reward=server.url("error"), tokenizer=tokenizer)
    with pytest.raises(ModelError, match="tokenizer"):
        init(tmp_path / "c.yaml", server.url("plain"), reward=server.url("plain"), tokenizer=str(tmp_path))


def test_another_name_than_the_servers_is_refused(server, tmp_path):
    with pytest.raises(ModelError, match="--model: there is no 'gpt'; the server has m"):
        init(tmp_path / "c.yaml", server.url("plain"), model="gpt")


def test_where_nobody_can_be_asked_the_flag_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(ConfigError, match="--generator is missing"):
        init(tmp_path / "c.yaml")


def test_on_a_terminal_it_asks(server, tokenizer, tmp_path, monkeypatch):
    asked = []

    def prompt(what, default, err):
        asked.append(what)
        return server.url("plain")

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.prompt", prompt)
    told = init(tmp_path / "c.yaml", tokenizer=tokenizer)
    assert len(asked) == 2
    assert told["reward"]["model"] == "m"


def test_without_a_reward_model_decisions_go_by_answers(server, tmp_path):
    told = init(tmp_path / "c.yaml", server.url("plain"))
    assert told["reward"] is None
    config = load_config(tmp_path / "c.yaml")
    assert (config.reward, config.gateway.reward) == (None, None)
