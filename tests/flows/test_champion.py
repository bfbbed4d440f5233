"""By hand: back to a former champion, promotions held or approved, the full cap; without a registry too."""

import json
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from data.errors import BundleError, GateError
from flows import champion as module
from flows import cli
from flows.config import Config
from serving.champion import Champion, change

pytestmark = pytest.mark.slow
GONE = "sqlite:////dev/null/gone.db"
"""A registry that fails at once; one that does not answer is waited for."""


@pytest.fixture
def config(tmp_path):
    """Versions 1 to 3 were champion; the bundle of 2 is gone; no registry answers."""
    tracking = {"uri": GONE}
    config = Config.model_validate({"home": tmp_path, "tracking": tracking})
    for version in "123":
        folder = tmp_path / version
        folder.mkdir()
        values = {"contract": "c", "promise": f"promise {version}", "since": datetime.now(UTC)}
        new = Champion(version=version, tag=f"optscale:{version}", bundle=str(folder), **values)
        change(config.champion_location, lambda now, new=new: now.name(new))
    (tmp_path / "2").rmdir()
    return config


def test_a_rollback_takes_the_latest_whose_bundle_is_here(config):
    found = module.rollback(config)
    assert (found["champion"], found["promise"], found["former"]) == ("1", "promise 1", ["3", "2"])
    assert found["by"] == module.who()
    assert GONE in found["registry"]
    assert module.rollback(config, to="3")["champion"] == "3"
    with pytest.raises(BundleError, match=r"version 2 whose bundle is here \(former: 1, 2\).* stays 3"):
        module.rollback(config, to="2")


def test_what_is_held_is_not_promoted(config):
    assert module.hold(config, "new reward model")["held"] == "new reward model"
    with pytest.raises(GateError, match=r"promotions are held \(new reward model\).*optscale release"):
        module.require_not_held(config)
    assert module.release(config)["held"] is None
    module.require_not_held(config)


def test_a_person_approves_of_what_waits(config, tmp_path):
    with pytest.raises(GateError, match="no version waits"):
        module.approve(config)
    new = module.manifest(config).champion.model_copy(update={"version": "4", "tag": "optscale:4"})
    change(config.champion_location, lambda now: now.model_copy(update={"waiting": new}))
    assert module.status(config)["waiting"] == "4"
    found = module.approve(config)
    assert (found["champion"], found["waiting"], found["by"]) == ("4", None, module.who())


def test_the_commands_answer_in_json(config, tmp_path, monkeypatch):
    monkeypatch.setenv("OPTSCALE_HOME", str(tmp_path))
    away = ["-s", f"tracking.uri={GONE}", "--json"]
    for line, key, value in (
        (["status"], "champion", "3"),
        (["hold", "--why", "w"], "held", "w"),
        (["release"], "held", None),
        (["full-cap", "on"], "full_cap", True),
        (["rollback", "--to", "1"], "champion", "1"),
    ):
        done = CliRunner().invoke(cli.app, [*line, *away], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)[key] == value


@pytest.mark.suite
def test_bundles_that_nobody_goes_back_to_are_deleted(config, tmp_path, monkeypatch):
    """Of five, those of the champion and the one before stay, and one that is young."""
    import bentoml

    from flows.clean import clean

    def build(name):
        (context := tmp_path / name).mkdir(exist_ok=True)
        (context / "service.py").write_text("import bentoml\n@bentoml.service(name='s')\nclass S: ...\n")
        return str(bentoml.build("service:S", name=name, build_ctx=str(context)).tag)

    others, listed = {str(one.tag) for one in bentoml.list()}, bentoml.list
    mine = lambda name=None: [one for one in listed(name) if str(one.tag) not in others]  # noqa: E731
    monkeypatch.setattr(bentoml, "list", mine)
    module.note_trained(config)  # beside the manifest, and none itself
    tags = [build("optscale") for _ in range(4)]
    other = build("another")
    for number, tag in enumerate(tags[:3]):
        values = {"bundle": str(tmp_path), "contract": "c", "promise": None, "since": datetime.now(UTC)}
        new = Champion(version=f"1{number}", tag=tag, **values)
        change(config.champion_location, lambda now, new=new: now.name(new))
    (tmp_path / "tmp" / "killed").mkdir(parents=True)
    assert clean(config, keep=1, hours=24)["bundles"] == []
    found = clean(config, keep=1, hours=0)
    assert set(found["bundles"]) == {tags[0], tags[3]}
    assert set(found["kept"]) >= {tags[1], tags[2]}
    assert (found["temporary"], found["bytes"] > 0) == (["killed"], True)
    assert {str(one.tag) for one in bentoml.list("optscale")} == {tags[1], tags[2]}
    bentoml.delete(other)
