"""Which version is trained, validated and shipped: on the cheapest predictor, in a real registry."""

import mlflow
import pytest

from data.pool import Pool
from flows.config import Config
from flows.ship import choose
from flows.tracking import CHALLENGER, CHAMPION, VALIDATED, VALIDATION_RUN, Tracking
from flows.train import _alone, replace_predictor, train
from predictor.errors import ConfigError, GateError
from tests.helpers import make_contract, make_pool, make_questions, score_rows

pytestmark = pytest.mark.slow
LAX = {"mean_skill": -9, "std_skill": -9, "evidence_gain": -9, "refuted": 1e-9}


@pytest.fixture(scope="module", autouse=True)
def prefect_server():
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    home = tmp_path_factory.mktemp("registry")
    make_pool(home / "pool", questions=80)
    return Config.model_validate(
        {
            "home": home,
            "predictor": {"rivals": ["description"]},
            "policy": {"kind": "value", "cap": 6, "target": 0.9},
            "certify": {"lost_hit": 0.2, "lost_answer": 0.2, "orders": 1},
            "gate": LAX,
        }
    )


def test_a_version_that_is_refused_later_is_not_shipped(config, monkeypatch):
    from flows.validate import validate

    version, tracking, tagged = train(config).version, Tracking(config), []
    set_tag = mlflow.MlflowClient.set_model_version_tag

    def noted(client, name, number, key, value):
        tagged.append(key)
        set_tag(client, name, number, key, value)

    monkeypatch.setattr(mlflow.MlflowClient, "set_model_version_tag", noted)
    validate(config)
    assert tagged == [VALIDATION_RUN, VALIDATED]  # a kill between the two leaves no verdict without its run
    assert choose(config, tracking) == version
    tracking.point(CHAMPION, version)
    strict = Config.model_validate(config.model_dump() | {"gate": LAX | {"mean_skill": 2.0}})
    with pytest.raises(GateError, match="mean_skill"):
        validate(strict)
    assert not {VALIDATED, VALIDATION_RUN} & set(tracking.tags(version))
    with pytest.raises(GateError, match="run validate"):
        choose(config, tracking)
    assert tracking.version_of(CHAMPION) == version  # what is served stays


def test_scores_that_are_all_alike_are_validated(config, tmp_path):
    """A pool that tells nothing: there is no share of what knowing the laws would save."""
    from flows.validate import validate

    contract = make_contract()
    rows = score_rows(make_questions(60), contract)
    Pool.create(str(tmp_path / "pool"), contract).append([row | {"score": 0.95} for row in rows])
    alike = Config.model_validate(config.model_dump() | {"home": tmp_path})
    train(alike)
    found = validate(alike)
    assert "prior_gap_closed" not in found.metrics
    assert "lost_hits" in found.metrics
    run_id = Tracking(alike).tags(found.version)[VALIDATION_RUN]
    assert "prior_gap_closed" not in mlflow.get_run(run_id).data.metrics
    assert "would save nothing" in (tmp_path / "report" / "model-card.md").read_text()


def test_a_number_that_another_run_has_now_is_fitted_again(config):
    first, tracking = train(config), Tracking(config)
    assert train(config)[:2] == first[:2]
    tracking.client.delete_registered_model(tracking.model)
    with tracking.run("other") as other:
        tracking.client.create_registered_model(tracking.model)
        source = f"runs:/{other}/predictor"
        taken = tracking.client.create_model_version(tracking.model, source, run_id=other)
    assert str(taken.version) == first.version
    again = train(config)
    assert tracking.run_of(again.version) == again.run_id != other
    assert tracking.version_of(CHALLENGER) == again.version


def test_a_second_run_of_the_same_fit_is_told(tmp_path):
    with _alone(tmp_path / "c"):
        with pytest.raises(ConfigError, match="another run"), _alone(tmp_path / "c"):
            pass
        with _alone(tmp_path / "of other settings"):
            pass
    assert not list(tmp_path.iterdir())
    with _alone(tmp_path / "c"):
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
