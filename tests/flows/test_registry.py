"""Which version is trained, validated and shipped: on the cheapest predictor, in a real registry."""

import shutil
from datetime import UTC, datetime

import mlflow
import pytest

from data.errors import BundleError, ConfigError, GateError, TrackingError
from data.pool import Pool
from flows.champion import current, manifest
from flows.config import Config
from flows.serve import champion_bento
from flows.ship import require_shippable
from flows.tracking import (
    BUNDLE,
    CHALLENGER,
    CHAMPION_THEN,
    VALIDATED,
    VALIDATION_RUN,
    Tracking,
)
from flows.train import _exclusive_lock, replace_predictor, train
from serving.champion import Champion, change
from tests.helpers import make_contract, make_pool, make_questions, score_rows

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]
LAX = {"mean_skill": -9, "std_skill": -9, "evidence_gain": -9, "refutation_level": 1e-9}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    home = tmp_path_factory.mktemp("registry")
    make_pool(home / "pool", questions=80)
    return Config.model_validate(
        {
            "home": home,
            "predictor": {"compare": ["text"], "family": "beta"},
            "policy": {"kind": "value", "cap": 6, "target": 0.9},
            "goal": {"lose": 0.3},
            "certify": {"orders": 1},
            "gate": LAX,
        }
    )


@pytest.mark.suite
def test_a_version_that_is_refused_later_is_not_shipped(config, monkeypatch):
    from flows.validate import validate

    version, tracking, tagged = train(config).version, Tracking(config), []
    set_tag = mlflow.MlflowClient.set_model_version_tag

    def noted(client, name, number, key, value):
        tagged.append(key)
        set_tag(client, name, number, key, value)

    monkeypatch.setattr(mlflow.MlflowClient, "set_model_version_tag", noted)
    assert validate(config).version == version
    assert tagged[-1] == VALIDATED  # a kill before it leaves no verdict without its run
    require_shippable(config, tracking, version, named=False)
    artifacts = config.home / "artifacts"
    artifacts.rename(config.home / "away")
    with pytest.raises(TrackingError, match="train again"):
        validate(config)
    shutil.rmtree(artifacts)  # the refused run has written its config
    (config.home / "away").rename(artifacts)
    require_shippable(config, tracking, version, named=False)  # an outage is no verdict
    name(config, version)
    strict = Config.model_validate(
        config.model_dump() | {"gate": LAX | {"mean_skill": 2.0, "evidence_gain": 5}}
    )
    with pytest.raises(GateError, match=r"mean_skill is .* evidence_gain is"):
        validate(strict, version=version)
    assert not {VALIDATED, VALIDATION_RUN, CHAMPION_THEN} & set(tracking.tags(version))
    with pytest.raises(GateError, match="run validate"):
        require_shippable(config, tracking, version, named=True)
    assert current(config) == version  # what is served stays


@pytest.mark.suite
def test_lost_files_are_found_and_fitted_anew(config):
    first, tracking = train(config), Tracking(config)
    assert tracking.holds(first.version)
    (config.home / "artifacts").rename(config.home / "lost")
    assert not tracking.holds(first.version)
    again = train(config)
    assert again.version != first.version
    assert tracking.holds(again.version)
    shutil.copytree(config.home / "lost", config.home / "artifacts", dirs_exist_ok=True)


def with_model(config, model, **changes):
    """With a registered model of its own in the same database, whose making takes seconds."""
    return Config.model_validate(config.model_dump() | {"tracking": {"model": model}} | changes)


@pytest.fixture
def versions(config, tmp_path):
    """A registered model with versions 1 to 3 and nothing behind them."""
    tracking = Tracking(with_model(config, tmp_path.name))
    tracking.client.create_registered_model(tracking.model)
    with tracking.run("nothing") as run:
        for _ in range(3):
            tracking.client.create_model_version(tracking.model, f"runs:/{run}/predictor", run_id=run)
    return tracking


def name(config, version):
    """Let the manifest name a version, as `promote` does."""
    values = {"bundle": f"/bundles/{version}", "contract": "c", "promise": None}
    new = Champion(version=version, tag=f"optscale:{version}", since=datetime.now(UTC), **values)
    change(config.champion_location, lambda now: now.name(new))


def passed(tracking, version, champion=""):
    tracking.tag(version, **{CHAMPION_THEN: champion, VALIDATION_RUN: "r", VALIDATED: "d"})


def test_what_another_run_trained_meanwhile_does_not_matter(versions):
    name(versions.config, "1")
    passed(versions, "2", champion="1")
    versions.set_alias(CHALLENGER, "3")
    require_shippable(versions.config, versions, "2", named=False)
    with pytest.raises(GateError, match="version 3 .*not validated"):
        require_shippable(versions.config, versions, "3", named=False)


def test_what_another_run_shipped_meanwhile_is_not_undone(versions):
    passed(versions, "2", champion="1")
    name(versions.config, "3")
    with pytest.raises(GateError, match=r"overtaken: the champion was version 1 .* is version 3 now"):
        require_shippable(versions.config, versions, "2", named=False)
    require_shippable(versions.config, versions, "2", named=True)


def test_a_rollback_is_not_undone_unless_a_person_says_so(versions):
    passed(versions, "2", champion="1")
    versions.tag("2", **{BUNDLE: "optscale:2"})
    name(versions.config, "2")
    require_shippable(versions.config, versions, "2", named=False)  # the champion's bundle may be built anew
    name(versions.config, "1")
    with pytest.raises(GateError, match="shipped before, and the champion is version 1 now"):
        require_shippable(versions.config, versions, "2", named=False)
    require_shippable(versions.config, versions, "2", named=True)


def test_a_champion_whose_bundle_is_not_on_this_machine_says_what_to_do(versions):
    name(versions.config, "1")
    with pytest.raises(BundleError, match="optscale:1 is not on this machine.*bentoml import.*--version 1"):
        champion_bento(manifest(versions.config).champion)


@pytest.mark.suite
def test_scores_that_are_all_alike_are_validated(config, tmp_path):
    """A pool that tells nothing: there is no share of what knowing the laws would save."""
    from flows.validate import validate

    contract = make_contract()
    rows = score_rows(make_questions(60), contract)
    Pool.create(str(tmp_path / "pool"), contract).append([row | {"score": 0.95} for row in rows])
    changes = {"pool": str(tmp_path / "pool"), "predictor": {"compare": ["text"]}}
    alike = with_model(config, tmp_path.name, **changes)
    train(alike)
    found = validate(alike, tmp_path / "report")
    assert "prior_gap_closed" not in found.metrics
    assert "loss" in found.metrics
    run_id = Tracking(alike).tags(found.version)[VALIDATION_RUN]
    assert "prior_gap_closed" not in mlflow.get_run(run_id).data.metrics
    assert "would save nothing" in (tmp_path / "report" / "model-card.md").read_text()


@pytest.mark.suite
def test_a_number_that_another_run_has_now_is_fitted_again(config):
    first, tracking = train(config), Tracking(config)
    assert train(config)[:2] == first[:2]
    tracking.client.delete_registered_model(tracking.model)
    with tracking.run("other") as other:
        tracking.client.create_registered_model(tracking.model)
        source = f"runs:/{other}/predictor"
        for _ in range(int(first.version)):
            taken = tracking.client.create_model_version(tracking.model, source, run_id=other)
    assert str(taken.version) == first.version
    again = train(config)
    assert tracking.run_of(again.version) == again.run_id != other
    assert tracking.version_of(CHALLENGER) == again.version


def test_a_second_run_of_the_same_fit_is_told(tmp_path):
    with _exclusive_lock(tmp_path / "c"):
        with pytest.raises(ConfigError, match="another run"), _exclusive_lock(tmp_path / "c"):
            pass
        with _exclusive_lock(tmp_path / "of other settings"):
            pass
    assert not list(tmp_path.iterdir())
    with _exclusive_lock(tmp_path / "c"):
        pass


def test_output_holds_one_predictor_and_nothing_of_an_older_one(config, tmp_path):
    output = tmp_path / "out"
    (output / "refit").mkdir(parents=True)
    for old in ("predictor.json", "network.safetensors", "refit/predictor.json"):
        (output / old).write_text("old")
    new = tmp_path / "new"
    new.mkdir()
    (new / "predictor.json").write_text("new")
    replace_predictor(output, new)
    assert {f.name: f.read_text() for f in output.iterdir()} == {"predictor.json": "new"}
    assert sorted(f.name for f in tmp_path.iterdir()) == ["new", "out"]


@pytest.mark.parametrize("kind", ["file", "folder of something else", "below a file"])
def test_output_that_is_something_else_is_refused_before_the_fit(config, tmp_path, kind):
    notes = tmp_path / "notes"
    notes.write_text("mine")
    output = {"file": notes, "folder of something else": tmp_path, "below a file": notes / "out"}[kind]
    with pytest.raises(ConfigError, match="--output"):
        train(config.model_copy(update={"pool": "not looked at"}), output)
    assert notes.read_text() == "mine"
