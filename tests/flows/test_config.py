import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from urllib.request import proxy_bypass

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from data.errors import ConfigError, OptScaleError
from flows import cli, cli_offline
from flows.config import Config, enter_home, load_config
from flows.output import print_answer
from predictor.policies import FixedN

run = CliRunner().invoke


def test_later_sources_win(tmp_path, monkeypatch):
    file = tmp_path / "c.yaml"
    file.write_text("collect: {candidates: 8, seed: 3}\npredictor: {lora: {rank: 2}}\n")
    monkeypatch.setenv("OPTSCALE_COLLECT__CANDIDATES", "9")
    config = load_config(file, ("predictor.lora.rank=4",))
    assert (config.collect.candidates, config.collect.seed, config.predictor.lora.rank) == (9, 3, 4)
    assert config.predictor.lora.alpha == Config().predictor.lora.alpha


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("predictor.lora.rnk=4", "rnk"),
        ("colect.candidates=4", "colect"),
        ("collect.candidates=0", "candidates"),
        ("collect.candidates=many", "candidates"),
        ("policy.round_price=-1", "round_price"),
        ("folds.train=0.9", "sum to"),
        ("generator.sampling.temperature=-1", "temperature"),
        (
            "policy.kind=magic",
            r"config: policy\.kind is 'magic': allowed: fixed, schedule, optscale, .*own_rule$",
        ),
        ("policy.round_price=-2", r"config: policy\.round_price is -2: .* greater than or equal to 0$"),
        (
            "policy={kind: fixed, cpa: 4}",
            r"policy\.cpa is unknown; allowed: target, cap, .*kind$",
        ),
        (
            "generator={kind: vllm}",
            r"config: generator\.kind is 'vllm': allowed: local, vllm-offline, openai$",
        ),
        ("generator={kind: openai, model: m}", r"config: generator\.base_url is missing$"),
        ("reward={kind: vllm, batch_size: many}", r"reward\.batch_size is 'many': .*integer"),
        ("gateway={generator: {}}", r"gateway\.generator\.model is missing; gateway\.reward is missing$"),
        ("collect.limt=4", r"collect\.limt is unknown; allowed: questions, candidates, .*limit"),
        ("serve=http://user:secret@host", r"serve: (?!.*secret)"),
        ("nonsense", "section.key=value"),
        ("policy=[", "--set policy=.*not YAML"),
        ("policy=" + "[" * 100_000, "not YAML"),
    ],
)
def test_a_misspelt_or_impossible_setting_is_named(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, (override,))


def test_broken_files_and_variables_are_named(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "none.yaml")
    file = tmp_path / "c.yaml"
    file.write_text("a: [")
    with pytest.raises(ConfigError, match="not YAML"):
        load_config(file)
    monkeypatch.setenv("OPTSCALE_COLECT__SEED", "1")
    with pytest.raises(ConfigError, match="OPTSCALE_COLECT__SEED"):
        load_config()


@pytest.mark.parametrize(
    "content", [b"[1, 2]", b"text", b"5", b"1: 2", b"home: \xff\xfe", b"a: 2026-99-99", None]
)
def test_a_file_that_holds_no_settings_is_named(tmp_path, content):
    file = tmp_path / "c.yaml"
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(ConfigError, match="c.yaml"):
        load_config(file)


def test_a_setting_below_a_single_value_is_named():
    with pytest.raises(ConfigError, match="policy.target=.9: policy is a single value"):
        load_config(None, ("policy=1", "policy.target=.9"))


@pytest.mark.parametrize("value", ["{", "[1]", "text"])
def test_a_variable_that_cannot_be_read_is_named(monkeypatch, value):
    monkeypatch.setenv("OPTSCALE_COLLECT", value)
    with pytest.raises(ConfigError, match="(?i)collect"):
        load_config()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("plan --questions q.jsonl -s home=file", "state folder .*file"),
        ("plan --questions q.jsonl --pool file", "file"),
        ("collect --dry-run --pool broken", "broken"),
        ("certify --pool none --output file/below/c.json", "--output"),
        ("replay --pool none --output file/below", "--output"),
        ("validate --output file/below", "--output"),
        ("schedule --cron nonsense", "--cron 'nonsense'"),
        ("plan --questions q.jsonl --pool 5", "no pool at 5"),
    ],
)
def test_what_a_command_cannot_use_is_an_error_of_ours(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "q.jsonl").write_text('{"question": "1 + 1?"}')
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    monkeypatch.setenv("OPTSCALE_COLLECT__QUESTIONS", '["q.jsonl"]')
    with pytest.raises(OptScaleError, match=message):
        run(cli.app, arguments.split(), catch_exceptions=False)


@pytest.mark.parametrize(
    "arguments",
    [
        "replay --policy none.json",
        "replay --output file",
        "decide --policy none.json",
        "decide --policy .",
        "certify --output .",
        "validate --output file",
        "train --output file",
    ],
)
def test_a_path_of_the_wrong_kind_is_refused_at_once(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    result = run(cli.app, arguments.split())
    assert result.exit_code == 2
    assert "Invalid value" in result.output


def test_the_example_of_decide_works():
    import shlex

    (example,) = [line for line in cli_offline.decide.__doc__.splitlines() if "optscale decide" in line]
    result = run(cli.app, shlex.split(example.partition("optscale ")[2]), catch_exceptions=False)
    assert result.output.splitlines()[0].split() == ["action", "sample"]


def test_a_seeding_that_is_interrupted_leaves_no_pool_and_can_be_repeated(tmp_path, monkeypatch):
    from data.pool import Pool
    from flows import demo

    def fails(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.copy2", fails)
        patch.setattr("shutil.copy", fails)
        with pytest.raises(KeyboardInterrupt):
            demo.seed(tmp_path / "pool")
    assert not Pool.exists(str(tmp_path / "pool"))
    demo.seed(tmp_path / "pool")
    assert Pool.open(str(tmp_path / "pool")).manifest == Pool.open(str(demo.POOL)).manifest


def test_the_demonstration_caps_lora_unless_told_otherwise():
    from flows.demo import LORA_STEPS, shortened

    capped = shortened(Config().predictor).lora
    assert capped.max_steps == LORA_STEPS >= capped.evaluate_every
    told = load_config(None, ("predictor.lora.max_steps=7",)).predictor
    assert shortened(told) == told


def test_every_command_shows_an_example_and_the_version_is_told():
    commands = typer.main.get_command(cli.app).commands
    assert len(commands) > 15
    for name, command in commands.items():
        assert f": optscale {name}" in command.help, name
    told = run(cli.app, ["--version"])
    assert told.stdout == f"optscale {version('optscale')}\n"


def test_several_losses_share_the_level_of_the_gate():
    gate = Config().gate
    assert gate.thresholds(1)["refutation_p_value"] == gate.refutation_level
    assert gate.thresholds(2)["refutation_p_value"] == gate.refutation_level / 2


@pytest.mark.slow
def test_what_commands_print_is_json(capsys):
    from flows.validate import Validated

    policy = FixedN(cap=4, target=0.7)
    found = Validated("3", {"auc": float("nan"), "n": np.int64(2)}, [{"x": np.float64(0.5)}], policy)
    print_answer(
        found._asdict() | {"folder": Path("a"), "big": float("inf"), "sure": np.bool_(True)}, as_json=True
    )
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert FixedN(**told.pop("certificate")) == policy
    assert told == {
        "version": "3",
        "metrics": {"auc": None, "n": 2},
        "policies": [{"x": 0.5}],
        "folder": "a",
        "big": None,
        "sure": True,
    }


def test_every_setting_is_documented():
    schema = json.loads(run(cli.app, ["config", "--schema"]).output)
    undocumented = [
        f"{name}.{key}"
        for name, part in {**schema["$defs"], "Config": schema}.items()
        if name.endswith(("Settings", "Config", "FixedN", "OptScale"))
        for key, field in part["properties"].items()
        if "description" not in field and key not in {"kind", "sampling", "currency"}
    ]
    assert undocumented == []


@pytest.mark.slow
def test_decide_needs_no_heavy_library():
    import subprocess
    import sys

    code = (
        "import sys; from typer.testing import CliRunner; from flows.cli import app;"
        "r = CliRunner().invoke(app, 'decide --json [0.5,0.7,0.6] -s policy.kind=schedule'.split());"
        "assert r.exit_code == 0, r.output; print(r.output);"
        "assert not {'torch', 'prefect', 'mlflow', 'bentoml'} & set(sys.modules), sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["drawn"] == 3


def test_errors_of_ours_are_one_line_and_status_one(capsys, monkeypatch):
    monkeypatch.setattr(
        "sys.argv", ["optscale", "decide", "[1.5]", "--set", "policy={kind: schedule, cap: 8}"]
    )
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    assert "score 0 is 1.5" in capsys.readouterr().err


def test_the_embedded_config_is_the_default():
    assert load_config("flows/configs/embedded.yaml") == load_config()


def test_the_papers_config_is_the_papers_setting():
    config = load_config("flows/configs/paper.yaml")
    assert config.generator.kind == "openai"
    assert (config.generator.sampling.temperature, config.generator.sampling.top_p) == (0.7, 0.95)
    assert (config.reward.kind, config.reward.convention, config.reward.aggregation) == (
        "vllm",
        "qwen",
        "mean",
    )
    assert config.collect.candidates == config.policy.cap == 64
    assert config.predictor.lora.rank == load_config().predictor.lora.rank


@pytest.mark.slow
def test_the_local_vllm_config_is_the_embedded_contract():
    from data.files import short_digest
    from models import backbone

    config = load_config("flows/configs/local-vllm.yaml")
    here = load_config()
    tokenizer = backbone.load_tokenizer(here.generator.backbone, here.generator.adapter)
    assert config.generator.revision == backbone.revision(here.generator.backbone, here.generator.adapter)
    assert config.generator.prompt_template == short_digest(tokenizer.chat_template)
    assert config.generator.sampling == here.generator.sampling
    assert config.reward == here.reward


def test_another_kind_leaves_the_defaults_of_the_usual_one_behind():
    config = load_config(None, ("policy={kind: fixed, cap: 4}", "policy.target=0.7"))
    assert config.policy == FixedN(cap=4, target=0.7)
    with pytest.raises(ConfigError, match="base_url"):
        load_config(None, ("generator={kind: openai, model: m}",))


def test_a_user_without_a_home_has_the_state_folder(tmp_path, monkeypatch):
    """As in a container whose user has no entry in the password file."""

    def nobody(number):
        raise KeyError(number)

    monkeypatch.setattr("pwd.getpwuid", nobody)
    monkeypatch.setenv("HOME", "")  # put back afterwards
    monkeypatch.delenv("HOME")
    for name in ("OPTSCALE_HOME", "PREFECT_HOME", "BENTOML_HOME"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    enter_home(Config(home=tmp_path))
    assert Path.home() == tmp_path


@pytest.mark.slow
def test_a_locale_without_a_character_gets_the_rest():
    code = "from flows import cli; cli.app = lambda: print('hits ± 2, score ≥ .5'); cli.main()"
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
    told = subprocess.run(
        [sys.executable, "-c", code], env=ascii_only, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "hits ? 2, score ? .5"


def test_serve_listens_where_it_says(monkeypatch, capsys):
    """What takes the process over is BentoML; the line that it is started with is what counts."""
    from flows import serve

    started = []
    monkeypatch.setattr(serve, "_bento", lambda config, certificate: "optscale:1")
    monkeypatch.setattr(serve.os, "execv", lambda program, line: started.append(line[3:]))
    serve.serve_bundle(Config())
    assert started.pop() == ["serve", "optscale:1", "--host", "127.0.0.1", "--port", "3000"]
    assert capsys.readouterr().err == "optscale:1 on http://127.0.0.1:3000\n"
    with pytest.raises(ConfigError, match="0.0.0.0 can be reached .* no API keys .* or say --open"):
        serve.serve_bundle(Config(), host="0.0.0.0")
    assert not started
    serve.serve_bundle(Config(), host="0.0.0.0", open_to_all=True)
    assert "--host 0.0.0.0" in " ".join(started.pop())
    monkeypatch.setenv("OPTSCALE_API_KEYS", "k")
    serve.serve_bundle(Config(), host="0.0.0.0")
    assert "--host 0.0.0.0" in " ".join(started.pop())
    with pytest.raises(ConfigError, match="--also: its home is elsewhere"):
        serve.serve_bundle(Config(), also=[Config(home="elsewhere")])


def test_a_further_bundle_is_served_and_the_first_champion_is_followed(monkeypatch):
    import bentoml

    from flows import serve

    class Built:
        def __init__(self, tag):
            self.tag = tag

        def path_of(self, item):
            return f"/{self.tag}/{item}"

    def bento(config, certificate):
        os.environ["OPTSCALE_CHAMPION"] = config.tracking.model
        return config.tracking.model

    started = []
    monkeypatch.setenv("OPTSCALE_CHAMPION", "")
    monkeypatch.setenv("OPTSCALE_MORE_BUNDLES", "")
    monkeypatch.setattr(bentoml, "get", Built)
    monkeypatch.setattr(serve, "_bento", bento)
    monkeypatch.setattr(serve.os, "execv", lambda program, line: started.append(line[4]))
    first, *others = (Config.model_validate({"tracking": {"model": name}}) for name in "abc")
    serve.serve_bundle(first, also=others)
    assert started == ["a"]
    assert os.environ["OPTSCALE_CHAMPION"] == "a"
    assert os.environ["OPTSCALE_MORE_BUNDLES"] == "/b/src/bundle:/c/src/bundle"


def test_variables_that_kubernetes_sets_for_a_service_stop_nothing(monkeypatch):
    for name, value in {
        "OPTSCALE_PORT": "tcp://10.0.0.1:80",
        "OPTSCALE_SERVICE_HOST": "10.0.0.1",
        "OPTSCALE_SERVICE_PORT": "80",
        "OPTSCALE_SERVICE_PORT_HTTP": "80",
        "OPTSCALE_PORT_80_TCP": "tcp://10.0.0.1:80",
        "OPTSCALE_PORT_80_TCP_ADDR": "10.0.0.1",
        "OPTSCALE_GATEWAY_PORT": "tcp://10.0.0.2:80",
        "OPTSCALE_GATEWAY_SERVICE_HOST": "10.0.0.2",
    }.items():
        monkeypatch.setenv(name, value)
    assert load_config().serve == Config().serve
    monkeypatch.setenv("OPTSCALE_SERVE_PORT", "8080")  # a misspelt OPTSCALE_SERVE__PORT
    with pytest.raises(ConfigError, match="OPTSCALE_SERVE_PORT"):
        load_config()


def test_a_file_for_the_gateway_is_no_setting_and_its_settings_are(monkeypatch, tmp_path):
    monkeypatch.setenv("OPTSCALE_GATEWAY_FILE", str(tmp_path / "gateway.yaml"))
    monkeypatch.setenv("OPTSCALE_GATEWAY", str(tmp_path / "gateway.yaml"))  # its name before
    assert load_config().gateway is None
    monkeypatch.setenv(
        "OPTSCALE_GATEWAY", '{"generator": {"base_url": "http://h/v1", "model": "m"}, "reward": null}'
    )
    monkeypatch.setenv("OPTSCALE_CERTIFY__CHOOSE", "true")
    assert load_config().gateway.generator.model == "m"


@pytest.mark.parametrize(
    ("given", "found"), [("", "127.0.0.1,localhost"), ("a,b", "a,b,127.0.0.1,localhost")]
)
def test_a_proxy_in_the_environment_does_not_stand_before_our_own_servers(
    monkeypatch, tmp_path, given, found
):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("OPTSCALE_HOME", "")  # and put back
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, given)
    enter_home(Config(home=tmp_path))
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == found
    assert proxy_bypass("127.0.0.1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "*")
    enter_home(Config(home=tmp_path))
    assert os.environ["NO_PROXY"] == "*"


def test_a_state_folder_of_another_user_is_one_line(tmp_path, monkeypatch):
    """Whoever may write everywhere, as tests in a container may, cannot be shown one."""
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / "theirs")
    with pytest.raises(ConfigError, match="theirs .home, OPTSCALE_HOME. cannot be written by this user"):
        enter_home(Config(home=tmp_path / "theirs"))
