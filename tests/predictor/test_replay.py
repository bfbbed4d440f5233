import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.candidates import Candidates
from predictor.policies import FixedN, Predictive, Schedule, Value
from predictor.prior import Prior, PriorBatch
from predictor.replay import bootstrap, outcome, outcomes, replay
from predictor.state import NoHitCache

SCORES = np.array([[0.2, 0.95, 0.3, 0.4], [0.5, 0.5, 0.5, 0.5], [0.97, 0.1, 0.99, 0.2]])
CORRECT = np.array([[0.0, 1.0, 0.0, 0.0], [np.nan] * 4, [1.0, 0.0, 0.0, 0.0]])
TOKENS = np.array([[10.0, 20.0, 30.0, 40.0]] * 3)
SHOWN = Candidates(SCORES, CORRECT, TOKENS, 2 * TOKENS, np.zeros((3, 4), dtype=np.int64))


def test_rounds_and_hits_are_counted():
    course = replay(Schedule(target=0.9, cap=4, start=1, factor=2), SCORES, None, TOKENS)
    assert course.drawn.tolist() == [3, 4, 1]
    assert course.rounds.tolist() == [2, 3, 1]
    assert course.hit.tolist() == [True, False, True]
    assert course.chosen.tolist() == [1, 0, 0]


def test_tokens_are_those_of_the_candidates_drawn():
    found = outcome(Schedule(target=0.9, cap=4, start=1, factor=2), SHOWN)
    assert found.tokens.tolist() == [10 + 20 + 30, 10 + 20 + 30 + 40, 10]
    assert found.reward_tokens.tolist() == [120, 200, 20]


def test_a_higher_aim_is_judged_by_the_target_that_was_promised():
    found = outcome(Schedule(target=0.98, cap=4, start=1), SHOWN, None, 0.9)
    assert found.reached.tolist() == [1, 0, 1]


def test_orders_shuffle_candidates_within_a_question_and_keep_columns_together():
    mixed = SHOWN.shuffled(1)
    assert np.sort(mixed.scores).tolist() == np.sort(SCORES).tolist()
    assert (mixed.reward_tokens == 2 * mixed.tokens).all()
    right = mixed.correct == 1
    assert sorted(mixed.scores[right].tolist()) == [0.95, 0.97]
    several = outcomes([FixedN(cap=1, target=0.9)], SHOWN, orders=400)[0]
    assert several.reached[[0, 2]] == pytest.approx([0.25, 0.5], abs=0.08)


@given(st.integers(1, 12), st.integers(0, 2**31))
@settings(deadline=None, max_examples=20)
def test_questions_do_not_depend_on_their_neighbours(questions, seed):
    rng = np.random.default_rng(seed)
    scores = rng.random((questions, 8))
    priors = PriorBatch.of([Prior.centred(m, 0.1) for m in rng.uniform(0.2, 0.9, questions)])
    policy = Predictive(target=0.9, cap=8, confidence=0.7, floor=1, batch=2)
    together = replay(policy, scores, priors)
    for row in range(questions):
        alone = replay(policy, scores[row : row + 1], priors[row : row + 1])
        assert alone.drawn[0] == together.drawn[row]


def test_a_cache_changes_nothing_and_holds_only_what_was_asked_for():
    rng = np.random.default_rng(0)
    questions, cap = 40, 400
    scores = rng.beta(4, 2, (questions, cap))
    priors = PriorBatch.of([Prior.centred(m, 0.15) for m in rng.uniform(0.3, 0.9, questions)])
    cache = NoHitCache()
    for price in (1e-5, 1e-4, 1e-3):
        policy = Value(target=0.95, cap=cap, token_price=price, round_price=0.01)
        for alone, beside in zip(
            replay(policy, scores, priors), replay(policy, scores, priors, cache=cache), strict=True
        ):
            assert (alone == beside).all()
    (curves,) = cache.curves.values()
    assert sum(curve.size for curve in curves.values()) < questions * cap**2 / 10
    by_one = FixedN(target=0.99, cap=30, stop_on_hit=True, batch=1, give_up=0.01)
    for _ in range(2):
        assert (
            replay(by_one, scores, priors, cache=cache).drawn == replay(by_one, scores, priors).drawn
        ).all()


def test_hindsight_knows_what_the_scores_will_be():
    rng = np.random.default_rng(0)
    mean = np.where(rng.random(100) < 0.5, 0.9, 0.3)[:, None]
    scores = rng.beta(20 * mean, 20 * (1 - mean), (100, 32))
    population = Prior(location=(0.5, -2.0), spread=(2.0, 1.0))
    priors = PriorBatch.oracle(population, scores)
    assert np.abs(priors.moments[0] - scores.mean(axis=1)).max() < 0.02


def test_bootstrap_interval_covers_a_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        low, high = bootstrap(rng.normal(1.0, 2.0, 80), resamples=400, seed=seed)[1:]
        covered += low <= 1.0 <= high
    assert 0.9 <= covered / 200 <= 0.985


@settings(max_examples=20)
@given(st.integers(1, 60), st.integers(1, 300), st.booleans())
def test_bootstrap_draws_the_same_however_many_at_once(count, at_once, ratio):
    values, weights = np.random.default_rng(count).normal(2.0, 1.0, (2, count))
    chosen = np.random.default_rng(3).integers(0, count, (101, count))  # all at once
    below = weights if ratio else np.ones(count)
    means = values[chosen].sum(axis=1) / below[chosen].sum(axis=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(bootstrap.__globals__, "_AT_ONCE", at_once)
        found = bootstrap(values, weights if ratio else None, resamples=101, seed=3)
    expected = (values.sum() / below.sum(), *np.nanquantile(means, [0.025, 0.975]))
    assert found == pytest.approx(expected) or count == 1


def test_bootstrap_of_many_questions_needs_little_memory():
    values = np.random.default_rng(0).normal(size=6000)
    tracemalloc.start()
    try:
        bootstrap(values)
        assert tracemalloc.get_traced_memory()[1] < 50e6  # all resamples at once: 300 MB
    finally:
        tracemalloc.stop()


def test_bootstrap_of_a_ratio_and_of_nothing():
    found = bootstrap(np.array([1.0, 2.0, np.nan]), np.array([2.0, 4.0, 9.0]))
    assert tuple(found) == (0.5, 0.5, 0.5)
    assert np.isnan(bootstrap(np.array([np.nan])).mean)
