"""The account of what priors are worth, on laws that are known."""

import numpy as np
import pytest

from data.pool import Pool, make_row
from data.question import Question
from data.scores import load_scores
from flows.config import Config
from flows.model_card import model_card
from predictor.learned.card import ComparedKind, PredictorCard
from predictor.learned.settings import PredictorSettings
from predictor.prior import Prior, PriorBatch, fit_population
from predictor.prior_value import KNOWN, POPULATION, PREDICTOR, PolicyRun, PriorValue, _mixture, prior_value
from tests.helpers import make_contract

pytestmark = pytest.mark.slow

LAWS = {"easy": (30.0, 2.0), "middling": (8.0, 2.0), "hopeless": (80.0, 20.0)}


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """Questions that say which of three laws their scores follow; a config that aims at .9 of 12."""
    rng = np.random.default_rng(0)
    return make_setting(tmp_path_factory.mktemp("value"), 300, lambda kind: rng.beta(*LAWS[kind], 12))


def make_setting(home, count, draw):
    contract, rows = make_contract(), []
    for number in range(count):
        kind = list(LAWS)[number % 3]
        question = Question.ask(f"An {kind} question, number {number}.", answer="1")
        for candidate, score in enumerate(draw(kind)):
            values = {"candidate": candidate, "round": 0, "completion": None, "completion_tokens": 20}
            values |= {"prompt_tokens": 9, "status": "complete", "step_scores": None, "correct": None}
            values |= {"score": round(float(score), 4), "reward_tokens": 30, "seed": 0}
            rows.append(make_row(question, contract, **values))
    pool = Pool.create(str(home / "pool"), contract)
    pool.append(rows)
    policy = {"kind": "value", "cap": 12, "target": 0.9}
    config = Config.model_validate({"home": home, "policy": policy})
    return config, pool, load_scores(pool, config.folds)


def account(setting, believe, reading):
    config, _, table = setting
    known, told = (np.flatnonzero(np.isin(table.folds, names)) for names in (("train", "tune"), "test"))
    population = fit_population(table.fold("train", "tune").scores)
    priors = {
        POPULATION: PriorBatch.of([population] * len(table)),
        PREDICTOR: PriorBatch.of([believe(question, population) for question in table.questions]),
        KNOWN: PriorBatch.oracle(population, table.scores),
    }
    return prior_value(config.policy.target, config.policy.cap, table, priors, [(known, told)], reading)


def the_law(question, population):
    a, b = next(law for kind, law in LAWS.items() if kind in question.text)
    return Prior.centred(a / (a + b), (a * b / ((a + b) ** 2 * (a + b + 1))) ** 0.5, spread=0.2)


def test_a_predictor_that_knows_saves_and_one_that_repeats_the_population_does_not(setting):
    good = account(setting, the_law, reading=1.0)
    idle = account(setting, lambda question, population: population, reading=1.0)
    assert good.saved[0] > 0
    assert good.break_even == pytest.approx(20 / good.saved[0])  # candidates have 20 tokens
    assert good.round_price > 0
    assert good.gap_closed[0] == pytest.approx(1, abs=0.2)
    assert good.rounds[PREDICTOR] < good.rounds_allowed + 0.3
    assert idle.saved == (0.0, 0.0, 0.0)
    assert idle.break_even is None
    assert idle.gap_closed[0] == 0
    assert "It does not pay here" in idle.statement


@pytest.mark.parametrize("score", [0.0, 0.5, 0.95, 1.0])
def test_where_all_scores_are_alike_knowing_them_saves_nothing(score, tmp_path):
    alike = make_setting(tmp_path, 60, lambda kind: np.full(12, score))
    value = account(alike, lambda question, population: population, reading=1.0)
    assert value.gap_closed is None
    assert "Knowing each question's law would save nothing" in value.statement
    assert PriorValue.model_validate_json(value.model_dump_json()) == value


def test_a_hit_costs_what_the_mixture_would_pay_for_it():
    cheap, dear = (PolicyRun(*(np.full(4, v) for v in values)) for values in ((10, 0.5, 1), (30, 0.9, 1)))
    weights, (hit, waited) = _mixture([cheap, dear], hits=0.7, rounds=2.0)
    assert weights == pytest.approx([0.5, 0.5])
    assert hit == pytest.approx(20 / 0.4)
    assert waited == pytest.approx(0)


def test_its_own_cost_is_counted(setting):
    dear = account(setting, the_law, reading=1e4)
    assert "It does not pay here" in dear.statement
    assert f"{dear.break_even:.0f} tokens a candidate" in dear.statement


def test_the_card_tells_data_choice_and_results(setting):
    config, pool, table = setting
    compared = ComparedKind(
        kind="text",
        evidence=-3.0,
        behind=0.0,
        behind_error=0.0,
        hit_score=-0.5,
        hit_behind=0.0,
        hit_behind_error=0.0,
        seconds=1.0,
    )
    card = PredictorCard(
        kind="text",
        settings=PredictorSettings(family="beta"),
        population=fit_population(table.scores),
        strength=1.0,
        contract=pool.manifest.contract.fingerprint,
        data_digest=pool.manifest.digest,
        results={},
        questions=130,
        compared=(compared,),
    )
    text = model_card(config, card, pool.manifest, table, {"mean_skill": (0.5, 0.4, 0.6)}, "It pays here.")
    for part in (pool.manifest.digest, card.contract, "text (this one)", "0.400 to 0.600", "It pays here."):
        assert part in text
    assert f"test {int(np.sum(table.folds == 'test'))}" in text
