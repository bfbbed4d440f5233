"""The value of priors in decisions, on laws that are known."""

import numpy as np
import pytest

from data.pool import Pool
from data.question import Question
from data.rows import make_row
from data.scores import load_scores
from flows.config import Config
from flows.model_card import model_card
from predictor.learned.card import ComparedKind, PredictorCard
from predictor.learned.settings import PredictorSettings
from predictor.prior import Prior, PriorBatch, fit_population
from predictor.prior_value import BASELINE, POPULATION, PREDICTOR, PriorValue, measure_prior_value
from predictor.scored_questions import ScoredQuestions
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


def value_of(setting, make_prior, reading):
    config, _, table = setting
    chosen, held = (np.isin(table.folds, names) for names in (("train", "tune"), "test"))
    population = fit_population(table.fold("train", "tune").scores)
    priors = PriorBatch.of([make_prior(question, population) for question in table.questions])
    target, cap, questions = config.policy.target, config.policy.cap, ScoredQuestions(table, priors)
    return measure_prior_value(target, cap, questions, population, chosen, held, lambda question: reading)


def the_law(question, population):
    a, b = next(law for kind, law in LAWS.items() if kind in question.text)
    return Prior.centred(a / (a + b), (a * b / ((a + b) ** 2 * (a + b + 1))) ** 0.5, spread=0.2)


def test_a_predictor_that_knows_saves_and_one_that_repeats_the_population_does_not(setting):
    good = value_of(setting, the_law, reading=1.0)
    idle = value_of(setting, lambda question, population: population, reading=1.0)
    assert good.saved.mean > 0.2 * good.tokens[BASELINE]
    assert good.break_even == pytest.approx(20 / good.saved.mean)  # candidates have 20 tokens
    assert good.round_price == pytest.approx(40)
    assert good.gap_closed.mean == pytest.approx(1, abs=0.2)
    assert idle.tokens[PREDICTOR] == idle.tokens[POPULATION]
    assert idle.saved.mean <= 0
    assert idle.break_even is None
    assert "It does not pay here" in idle.statement


def test_the_saving_is_the_cost_at_the_stated_prices(setting):
    value = value_of(setting, the_law, reading=1.0)

    def cost(name):
        return (
            value.tokens[name] + value.round_price * value.rounds[name] - value.hit_price * value.hits[name]
        )

    assert value.saved.mean == pytest.approx(cost(BASELINE) - cost(PREDICTOR))
    assert cost(BASELINE) <= cost(POPULATION) + 3  # the cheaper on other questions


@pytest.mark.parametrize("score", [0.0, 0.5, 0.95, 1.0])
def test_where_all_scores_are_alike_knowing_them_saves_nothing(score, tmp_path):
    alike = make_setting(tmp_path, 60, lambda kind: np.full(12, score))
    value = value_of(alike, lambda question, population: population, reading=1.0)
    assert value.gap_closed is None
    assert "Knowing each question's law would save nothing" in value.statement
    assert PriorValue.model_validate_json(value.model_dump_json()) == value


def test_its_own_cost_is_counted(setting):
    dear = value_of(setting, the_law, reading=1e4)
    assert "It does not pay here" in dear.statement
    assert f"{dear.break_even:.0f} tokens a candidate" in dear.statement


def test_the_card_states_data_choice_and_results(setting):
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
