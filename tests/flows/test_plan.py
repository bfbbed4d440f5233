import json

import pytest

from data.errors import ConfigError, ContractError, ModelError, PoolError, QuestionError
from data.questions import write_questions
from flows.config import load_config
from flows.plan import plan
from predictor.prior import Prior
from tests.helpers import make_pool, make_questions

pytestmark = pytest.mark.slow

PRICES = ("prices.generator_per_million=2", "prices.reward_per_million=1", "prices.prompt_per_million=0.5")
RATES = ("prices.generator_per_second=1000", "prices.reward_per_second=10000")
POLICY = ("policy.target=0.8", "policy.cap=6")


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    location = tmp_path_factory.mktemp("plan") / "pool"
    make_pool(location, questions=80)
    return str(location)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    file = tmp_path_factory.mktemp("plan") / "questions.jsonl"
    write_questions(make_questions(10, start=1000), file)
    return file


def configure(pool, *more):
    return load_config(None, (f"pool={pool}", *POLICY, *more))


def test_a_row_a_policy_with_money_and_hours_that_add_up(pool, asked):
    rows = plan(configure(pool, *PRICES, *RATES), asked, confidences=(0.8, 0.95))
    assert [row["target"] for row in rows] == [0.8] + [0.75] * 3 + [0.8] * 3 + [0.85] * 3
    assert [row["policy"] for row in rows[:4]] == [
        "config's policy",
        "fixed N = 6",
        "predictive",
        "predictive",
    ]
    assert [row["confidence"] for row in rows[:4]] == [None, None, 0.8, 0.95]
    for row in rows:
        assert row["questions"] == 10
        told = {name: row[name]["mean"] for name in row if isinstance(row[name], dict)}
        tokens = [told[f"{kind} tokens"] for kind in ("generated", "reward-model", "prompt")]
        assert told["cost (USD)"] == pytest.approx(
            (2 * tokens[0] + tokens[1] + tokens[2] / 2) / 1e6, abs=1e-4
        )
        assert told["GPU hours"] == pytest.approx((tokens[0] / 1e3 + tokens[1] / 1e4) / 3600, abs=1e-4)
        for name in told:
            assert row[name]["low"] <= row[name]["mean"] <= row[name]["high"]
        assert told["candidates"] <= 60
    fixed = next(row for row in rows if row["policy"].startswith("fixed"))
    assert fixed["candidates"] == {"mean": 60, "low": 60, "high": 60}
    assert json.dumps(rows)


def test_a_high_target_has_no_plan_for_a_score_of_one(pool, asked):
    rows = plan(configure(pool, "policy.target=0.95"), asked, confidences=())
    assert [row["target"] for row in rows] == [0.95, 0.9, 0.95]


def test_hours_are_unknown_without_a_throughput(pool, asked):
    for rates in ((), RATES[:1], RATES[1:]):
        assert plan(configure(pool, *rates), asked, targets=(0.8,), confidences=())[0]["GPU hours"] is None


def test_a_predictors_priors_tell_questions_apart(pool, asked, monkeypatch):
    from predictor.learned import store
    from tests.helpers import make_contract

    class Card:
        population = Prior.centred(0.6, 0.2, 1.5)
        contract = make_contract().fingerprint

    class Stub:
        card = Card()

        def __init__(self, mean):
            self.mean = mean

        def predict(self, questions):
            return [Prior.centred(self.mean, 0.15)] * len(questions)

    drawn = []
    for mean in (0.3, 0.85):
        monkeypatch.setattr(store, "load_predictor", lambda directory, mean=mean: Stub(mean))
        drawn.append(
            plan(configure(pool), asked, pool, targets=(0.8,), confidences=())[0]["candidates"]["mean"]
        )
    assert drawn[0] > drawn[1]
    monkeypatch.setattr(Card, "contract", "another")
    with pytest.raises(ContractError):
        plan(configure(pool), asked, pool)


def test_what_cannot_be_planned_is_said(pool, asked, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(QuestionError, match="no question"):
        plan(configure(pool), empty)
    with pytest.raises(PoolError, match="no pool"):
        plan(configure(tmp_path / "none"), asked)
    with pytest.raises(PoolError, match="lower the"):
        plan(configure(pool, "policy.cap=7"), asked)
    with pytest.raises(ModelError, match="no predictor"):
        plan(configure(pool), asked, tmp_path)
    with pytest.raises(ConfigError, match="policy"):
        configure(pool, "policy.kind=magic")
    for wrong in ({"targets": (1.2,)}, {"targets": (0.8123,)}, {"confidences": (1.0,)}):
        with pytest.raises(ConfigError):
            plan(configure(pool), asked, **wrong)
