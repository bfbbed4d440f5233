import numpy as np
import pytest
from scipy.stats import binomtest

from data.candidates import Candidates
from data.errors import ConfigError
from predictor import planning
from predictor.families import get_family
from predictor.planning import ReferenceQuestions, estimate
from predictor.policies import FixedN, Predictive, Value
from predictor.prior import Prior, PriorBatch
from predictor.replay import outcome, replay

pytestmark = pytest.mark.slow

CAP = 16
POPULATION = Prior(location=(0.5, -1.5), spread=(1.2, 0.7), correlation=-0.3)
PREDICTIVE = Predictive(target=0.9, confidence=0.9, cap=CAP, batch=4)
FIXED = FixedN(target=0.9, cap=CAP)


@pytest.fixture(autouse=True)
def few_runs(monkeypatch):
    monkeypatch.setattr(planning, "RUNS", 256)


def sample(rng, priors):
    """Candidates whose laws follow the priors, and whose length falls with the mean of the scores."""
    family = get_family("beta")
    laws = [rng.choice(len(family.mean), p=np.exp(p.log_weights())) for p in priors]
    mean, total = family.mean[laws], 1 / (family.std[laws] ** 2 / (family.mean * (1 - family.mean))[laws]) - 1
    shape = (CAP, len(laws))
    scores = np.clip(
        rng.beta(np.maximum(mean * total, 1e-3), np.maximum((1 - mean) * total, 1e-3), shape).T, 0, 1
    )
    tokens = rng.poisson(np.array(200 - 150 * mean), shape).T.astype(float)
    return Candidates(scores, np.full(scores.shape, np.nan), tokens, tokens + 20, np.zeros(scores.shape, int))


def make_donors(rng, count=150):
    return ReferenceQuestions(sample(rng, [POPULATION] * count), np.full(count, 20.0), POPULATION)


def same(count):
    return PriorBatch.of([POPULATION] * count)


def realise(policy, priors, found):
    course = replay(policy, found.scores, priors, found.tokens)
    drawn = np.arange(CAP) < course.drawn[:, None]
    return {
        "candidates": course.drawn.sum(),
        "tokens": np.where(drawn, found.tokens, 0).sum(),
        "reward_tokens": np.where(drawn, found.reward_tokens, 0).sum(),
        "reached": course.hit.mean(),
    }


def count_inside(pool, priors, trials=40, heed=True):
    """How many of ``trials`` question sets, each planned from a pool of its own, lie in their ranges."""
    inside = dict.fromkeys(("candidates", "tokens", "reward_tokens", "reached"), 0)
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        reference, asked = pool(rng), priors(rng)
        batch = PriorBatch.of(asked) if heed else same(len(asked))
        told = estimate(PREDICTIVE, batch, reference, replicates=300, seed=seed)
        for name, value in realise(PREDICTIVE, batch, sample(rng, asked)).items():
            stated = getattr(told, name)
            inside[name] += stated.low <= value <= stated.high
    return inside


def refuted(count, trials=40):
    return binomtest(count, trials, 0.95, alternative="less").pvalue < 0.01


def test_as_many_totals_lie_in_the_range_as_it_says():
    inside = count_inside(make_donors, lambda rng: [POPULATION] * 50)
    assert not any(refuted(count) for count in inside.values()), inside


@pytest.mark.suite
def test_priors_of_questions_that_are_harder_than_the_pool_are_heeded():
    def harder(rng):
        """Questions below the pool's, each with a prior that is right of it."""
        centres = rng.normal(-0.3, 0.7, 20)
        return [POPULATION.model_copy(update={"location": (c, -1.5), "spread": (0.6, 0.7)}) for c in centres]

    inside = count_inside(make_donors, harder)
    assert not any(refuted(count) for count in inside.values()), inside
    deaf = count_inside(make_donors, harder, heed=False)
    assert refuted(deaf["candidates"])


@pytest.mark.suite
def test_the_check_finds_a_pool_of_other_questions_out():
    easier = POPULATION.model_copy(update={"location": (1.2, -1.5)})

    def other(rng):
        return ReferenceQuestions(sample(rng, [easier] * 150), np.full(150, 20.0), POPULATION)

    inside = count_inside(other, lambda rng: [POPULATION] * 50)
    assert refuted(inside["candidates"])
    assert refuted(inside["tokens"])


def test_fixed_n_draws_what_it_says_and_no_range():
    told = estimate(FIXED, same(10), make_donors(np.random.default_rng(0)))
    assert (told.candidates.low, told.candidates.mean, told.candidates.high) == (160, 160, 160)
    assert told.rounds.low == told.rounds.high == 10
    assert told.prompt_tokens.low == told.prompt_tokens.high == 200
    assert told.tokens.low < told.tokens.mean < told.tokens.high


def test_more_questions_cost_more_and_no_less_a_question():
    reference = make_donors(np.random.default_rng(0))
    few, many = (estimate(PREDICTIVE, same(count), reference) for count in (20, 200))
    for name in ("candidates", "tokens", "reward_tokens", "prompt_tokens", "rounds"):
        assert getattr(few, name).high < getattr(many, name).low
        assert getattr(many, name).mean == pytest.approx(10 * getattr(few, name).mean, rel=0.05)
    assert few.reached.high - few.reached.low > many.reached.high - many.reached.low


def test_the_pools_own_finiteness_does_not_average_out():
    rng = np.random.default_rng(0)
    small, large = make_donors(rng, 30), make_donors(rng, 400)
    widths = []
    for reference in (small, large):
        told = estimate(PREDICTIVE, same(20_000), reference, replicates=400)
        widths.append((told.candidates.high - told.candidates.low) / told.candidates.mean)
    # Around 1 / sqrt(reference), whatever the number of questions.
    assert widths[0] > 2 * widths[1] > 0.05


def test_a_higher_target_never_costs_less_or_is_reached_more_often():
    reference = make_donors(np.random.default_rng(0))
    policies = [
        FIXED.model_copy(update={"target": t, "stop_on_hit": True, "batch": 1}) for t in (0.8, 0.9, 0.95)
    ]
    told = [estimate(policy, same(30), reference) for policy in policies]
    assert sorted(f.candidates.mean for f in told) == [f.candidates.mean for f in told]
    assert sorted(f.reached.mean for f in told)[::-1] == [f.reached.mean for f in told]


def test_questions_of_their_own_get_draws_of_their_own():
    easy = POPULATION.model_copy(update={"location": (1.5, -1.5), "spread": (0.4, 0.4)})
    hard = POPULATION.model_copy(update={"location": (-1.5, -1.5), "spread": (0.4, 0.4)})
    reference = make_donors(np.random.default_rng(0))
    two, one = (
        estimate(PREDICTIVE, PriorBatch.of([p, hard]), reference).candidates.mean for p in (easy, hard)
    )
    assert two < one - 2


def test_a_prior_that_no_donor_fits_still_has_a_plan():
    odd = Prior(location=(-20, -20), spread=(0.01, 0.01))
    told = estimate(PREDICTIVE, PriorBatch.of([odd]), make_donors(np.random.default_rng(0), 20))
    assert np.isfinite(told.candidates.mean)


def test_money_is_a_range_of_the_sum_and_unknown_where_a_part_is():
    reference = make_donors(np.random.default_rng(0))
    told = estimate(PREDICTIVE, same(20), reference)
    cost = told.weigh(tokens=2.0, prompt_tokens=0.5)
    assert cost.mean == pytest.approx(2 * told.tokens.mean + 0.5 * told.prompt_tokens.mean)
    blank = reference._replace(candidates=reference.candidates._replace(tokens=np.zeros((150, CAP))))
    told = estimate(PREDICTIVE, same(20), blank)
    assert told.tokens is None
    assert told.reward_tokens is not None
    assert told.weigh(tokens=2.0) is None
    assert told.weigh(tokens=0.0, reward_tokens=1.0) == told.reward_tokens


def test_a_forecast_is_json_without_its_arrays():
    told = estimate(
        Value(target=0.9, cap=CAP, token_price=0.01), same(5), make_donors(np.random.default_rng(0))
    )
    assert told.model_dump().keys() == {
        *("questions", "candidates", "rounds", "tokens"),
        *("reward_tokens", "prompt_tokens", "reached"),
    }
    assert told.model_dump_json()


def test_the_same_seed_tells_the_same():
    reference = make_donors(np.random.default_rng(0))
    first, again, other = (estimate(PREDICTIVE, same(20), reference, seed=s).model_dump() for s in (1, 1, 2))
    assert first == again != other


def test_ranges_hold_what_held_out_questions_take():
    rng = np.random.default_rng(1)
    reference, held = make_donors(rng, 300), sample(rng, [POPULATION] * 300)
    told, run = estimate(PREDICTIVE, same(60), reference), outcome(PREDICTIVE, held, same(300))
    subsets = [rng.choice(300, 60, replace=False) for _ in range(60)]
    for planned, took in (
        (told.candidates, run.candidates),
        (told.rounds, run.rounds),
        (told.tokens, run.tokens),
    ):
        inside = [planned.low <= took[rows].sum() <= planned.high for rows in subsets]
        assert np.mean(inside) >= 0.8


def test_what_cannot_be_planned_is_said():
    reference = make_donors(np.random.default_rng(0), 10)
    with pytest.raises(ConfigError, match="0 questions"):
        estimate(FIXED, same(3)[np.zeros(3, bool)], reference)
    none = ReferenceQuestions(
        Candidates(*(values[:0] for values in reference.candidates)), np.empty(0), POPULATION
    )
    with pytest.raises(ConfigError, match="0 pool questions"):
        estimate(FIXED, same(3), none)
    with pytest.raises(ConfigError, match="lower the cap"):
        estimate(FixedN(cap=CAP + 1), same(3), reference)
    with pytest.raises(ConfigError, match="population"):
        estimate(FIXED, PriorBatch.of([POPULATION.model_copy(update={"family": "atoms"})]), reference)
