"""The whole loop in a real MLflow and a real Prefect: real models collect, a tiny backbone reads."""

import json
from functools import cache
from pathlib import Path

import pytest

from data.errors import BundleError, PoolError, TrackingError
from data.pool import Pool
from data.question import Question
from data.questions import write_questions
from flows.config import Config
from models.tokenizer import open_tokenizer
from predictor.prior import Prior
from serving.bundle import Bundle
from tests.helpers import make_pool, make_uneven_pool
from tests.models.tiny import save_qwen_tokenizer

pytestmark = pytest.mark.slow


def small_config(home, **changes):
    values = {
        "home": home,
        "collect": {"candidates": 3, "part_questions": 2, "questions": (str(home / "q.jsonl"),)},
        "predictor": {"lora": {"rank": 2, "alpha": 4, "batch_size": 8, "max_steps": 4, "evaluate_every": 2}},
        "policy": {"kind": "value", "cap": 6, "target": 0.9},
        "goal": {"lose": 0.3},
        "certify": {"orders": 2},
        "gate": {"mean_skill": -9, "std_skill": -9, "evidence_gain": -9, "refutation_level": 1e-9},
    }
    return Config.model_validate(values | changes)


def write_small_questions(path, count):
    asked = [
        Question.ask(f"Compute {n} + {n % 7 + 1}.", answer=str(n + n % 7 + 1)) for n in range(3, 3 + count)
    ]
    write_questions(asked, path)


@pytest.fixture(scope="module")
def looped(tmp_path_factory, trunk, prefect_server):
    """A pool of made-up scores, few of most train questions, trained on, validated and shipped."""
    from flows.ship import ship
    from flows.train import train
    from flows.validate import validate

    home = tmp_path_factory.mktemp("loop")
    (home / "tokenizer").mkdir()
    at = "http://127.0.0.1:9/v1"  # nobody is there, and shipping does not mind
    generator = {"base_url": at, "model": "g", "revision": "1", "prompt_template": "t"}
    reward = {"base_url": at, "model": "r", "revision": "1", "convention": "lines", "aggregation": "min"}
    reward |= {"tokenizer": save_qwen_tokenizer(home / "tokenizer")}
    config = small_config(
        home,
        gateway={"generator": generator, "reward": reward},
        folds={"train": 0.4, "tune": 0.2, "calibration": 0.2, "test": 0.2},
        collect={"candidates": 6, "train_candidates": 2, "full_train": 16},
    )
    make_uneven_pool(config, 80)
    predictor = config.predictor.model_copy(update={"backbone": trunk})
    config = config.model_copy(update={"predictor": predictor})
    trained = train(config, home / "out")
    validated = validate(config)
    shipped = ship(config)
    return config, trained, validated, shipped


def test_collect_fills_the_pool_and_goes_on_where_it_was(tmp_path, prefect_server, monkeypatch):
    from flows import collect as module
    from flows.collect import collect, estimate

    for load in ("load_generator", "load_reward_model"):  # the same models both times
        monkeypatch.setattr(module, load, cache(getattr(module, load)))
    draws = {"candidates": 3, "train_candidates": 2, "full_train": 1, "part_questions": 2}
    folds = {"train": 0.45, "tune": 0.15, "calibration": 0.2, "test": 0.2}  # one tune question, four of train
    config = small_config(tmp_path, collect=draws | {"questions": (str(tmp_path / "q.jsonl"),)}, folds=folds)
    write_small_questions(tmp_path / "q.jsonl", 5)
    assert estimate(config)["candidates"] == 12
    first = collect(config.model_copy(update={"collect": config.collect.model_copy(update={"limit": 3})}))
    assert (first.questions, first.candidates) == (3, 8)
    rest = collect(config)
    assert (rest.questions, rest.candidates) == (2, 4)
    rows = list(Pool.open(config.pool_location).rows())
    assert len(rows) == 12
    assert all(0 <= r["score"] <= 1 for r in rows if r["status"] == "complete")
    assert sum(r["correct"] for r in rows) > 8
    assert estimate(config)["candidates"] == 0


def test_training_is_tracked_and_registered(looped):
    import mlflow

    config, trained, _, _ = looped
    client = mlflow.MlflowClient(config.tracking_uri)
    run = client.get_run(trained.run_id)
    assert run.data.params["predictor.lora.rank"] == "2"
    assert run.data.tags["computed_in"].startswith("float32 on ")
    assert run.inputs.dataset_inputs[0].dataset.digest == trained.digest
    assert client.get_metric_history(trained.run_id, "lora.eval_loss")
    assert trained.kind == "lora" or not run.data.metrics.keys() & {"eval_loss", "tune_loss", "train_loss"}
    model = mlflow.pyfunc.load_model(f"models:/{config.tracking.model}@challenger")
    answer = model.predict(["Compute 3 plus 9."])
    assert set(answer.columns) == {"mean", "std", "prior"}
    assert 0 < answer["mean"][0] < 1
    assert (config.home / "out" / "predictor.json").exists()


def test_every_kind_was_compared_and_the_card_says_so(looped):
    config, trained, _, _ = looped
    card = (config.home / "out" / "README.md").read_text()
    assert all(f"| {kind}" in card for kind in ("population", "text", "states", "lora"))
    assert f"kind `{trained.kind}`" in card
    assert trained.digest in card
    assert "worth in decisions" in (config.home / "report" / "model-card.md").read_text()


def test_predict_answers_problems_and_ignores_what_it_does_not_know(looped, tmp_path):
    from typer.testing import CliRunner

    from flows.cli import app

    config, _, _, _ = looped
    lines = [{"problem": "Compute 7 plus 99.", "score_mean": 0.3, "level": 5}, {"question": "What is 2 + 2?"}]
    file = tmp_path / "asked.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = ["predict", "--json", "--predictor", str(config.home / "out"), "--questions", str(file)]
    answered = json.loads(CliRunner().invoke(app, arguments).stdout)
    assert len(answered) == 2
    for line in answered:
        assert 0 < line["mean"] < 1
        assert 0 < line["std"] < 0.5
        assert Prior.model_validate(line["prior"]).moments() == pytest.approx((line["mean"], line["std"]))


def test_the_same_data_is_not_fitted_twice(looped):
    from flows.train import train

    config, trained, _, _ = looped
    again = train(config)
    assert (again.run_id, again.version) == (trained.run_id, trained.version)


def test_the_report_can_be_read(looped):
    config, _, validated, _ = looped
    page = (config.home / "report" / "report.html").read_text()
    assert 'fixed N <span class="soft">6<' in page
    assert validated.certificate.statement in page
    assert "http://" not in page.replace("http://www.w3.org", "")  # nothing is fetched
    assert (config.home / "report" / "frontier.png").stat().st_size > 10_000
    rows = {(row.policy, row.setting): row for row in validated.policies if not row.chosen}
    one, full, shipped = (rows[key] for key in (("fixed N", "1"), ("fixed N", "6"), ("shipped policy", "")))
    assert one.draws == 1
    assert full.changed == 0
    assert one.tokens <= shipped.tokens <= full.tokens


def test_the_bundle_carries_the_certificate(looped):
    import bentoml

    _, _, validated, shipped = looped
    card = Bundle.open(Path(bentoml.get(shipped.tag).path) / "src" / "bundle").card
    assert card.certificate == validated.certificate
    assert card.policy == (validated.certificate.policy or validated.certificate.fallback)
    promised = validated.certificate.policy is not None
    assert shipped.answer["promise"] == (validated.certificate.statement if promised else None)


def test_the_bundle_carries_the_gateway_and_the_tokenizer_it_needs(looped):
    import bentoml

    config, _, _, shipped = looped
    bundle = Bundle.open(Path(bentoml.get(shipped.tag).path) / "src" / "bundle")
    assert bundle.card.gateway.generator == config.gateway.generator
    tokenizer = open_tokenizer(bundle.resolve(bundle.card.gateway).reward.tokenizer)
    assert tokenizer("<extra_0>").input_ids == [tokenizer.convert_tokens_to_ids("<extra_0>")]


def test_the_shipped_bundle_answers_elsewhere(looped):
    from flows.tracking import CHAMPION, Tracking

    config, trained, _, shipped = looped
    assert shipped.answer["action"] in {"sample", "accept", "give up"}
    assert Tracking(config).version_of(CHAMPION) == trained.version


@pytest.mark.suite
def test_a_bundle_that_does_not_start_leaves_the_champion(looped, monkeypatch):
    import bentoml

    from flows import ship as module
    from flows.tracking import CHAMPION, Tracking

    config, trained, _, _ = looped
    before = {str(b.tag) for b in bentoml.list()}

    def broken(bundle, card):
        (bundle / "bundle.json").write_text("{}")

    monkeypatch.setattr(module, "write_card", broken)
    impatient = config.model_copy(update={"serve": config.serve.model_copy(update={"start_timeout": 5})})
    with pytest.raises(BundleError, match="did not start|was not ready"):
        module.ship(impatient)
    assert Tracking(config).version_of(CHAMPION) == trained.version
    assert {str(b.tag) for b in bentoml.list()} == before


def test_a_registry_that_fails_at_the_last_step_follows_later(looped, monkeypatch):
    from flows import champion
    from flows import ship as module
    from flows.tracking import CHAMPION, Tracking

    config, *_ = looped

    def gone(self, alias, version):
        raise TrackingError("MLflow went away")

    monkeypatch.setattr(Tracking, "set_alias", gone)
    monkeypatch.setattr(module, "check", lambda config, tag: {})  # it is started and asked above
    shipped = module.ship(config)
    told = champion.status(config)
    assert (told["bundle"], told["registry"]) == (shipped.tag, "its alias names the champion")
    tracking = Tracking(config)
    tracking.client.delete_registered_model_alias(tracking.model, CHAMPION)
    assert champion.status(config)["registry"] == "MLflow went away"
    monkeypatch.undo()
    champion.status(config)
    assert tracking.version_of(CHAMPION) == told["champion"]
    assert tracking.tags(told["champion"])["bundle"] == shipped.tag


def test_a_pool_too_small_to_fit_says_so(tmp_path, prefect_server):
    from flows.train import train

    make_pool(tmp_path / "pool", questions=4)
    with pytest.raises(PoolError, match="collect or import more questions"):
        train(small_config(tmp_path))


def test_an_mlflow_server_that_is_away_is_named(tmp_path, prefect_server):
    from flows.train import train

    make_pool(tmp_path / "pool", questions=4)
    tracking = {"uri": "http://127.0.0.1:9", "timeout": 1}
    with pytest.raises(TrackingError, match="http://127.0.0.1:9"):
        train(small_config(tmp_path, tracking=tracking))


@pytest.mark.suite
def test_retraining_takes_in_the_log_and_ends_where_nothing_is_new(looped, tmp_path, monkeypatch):
    """Last: it ships another version."""
    from flows import champion
    from flows import retrain as module
    from flows.collect import NOTHING
    from predictor.policies import FixedN
    from tests.decision_log import ASKED, write_log

    config, trained, _, _ = looped
    monkeypatch.setattr(module, "collect", lambda config: NOTHING)  # no question of a file is new
    log = config.gateway.log.model_copy(update={"folder": str(tmp_path / "log")})
    config = config.model_copy(update={"gateway": config.gateway.model_copy(update={"log": log})})
    found = module.retrain(config)
    assert (found.imported, found.trained.version, found.shipped) == ({}, trained.version, None)
    contract = Pool.open(config.pool_location).manifest.contract
    asks = [(question, True) for question in ASKED]
    write_log(tmp_path / "log", asks, text=True, contract=contract, policy=FixedN(cap=6))
    found = module.retrain(config)
    assert found.imported["questions"] == len(ASKED)
    assert found.trained.version != trained.version
    assert champion.current(config) == found.shipped.version == found.trained.version
    again = module.retrain(config)
    assert (again.imported["held"], again.shipped) == (len(ASKED), None)
    assert champion.rollback(config)["champion"] == trained.version
