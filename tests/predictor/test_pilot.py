"""What a pilot shows: dependence only where it was made, a verifier that helps, a plan that fits."""

import numpy as np
import pytest

from data.candidates import Candidates
from data.errors import ConfigError
from predictor.pilot import ANY, BEST, MAJORITY, TOP, VOTE, examine, plan


def make(questions=300, n=16, seed=0, copies=1, skill=1.0, cost=20.0):
    """Candidates of two answers whose scores tell right from wrong by ``skill``; each in ``copies``."""
    rng = np.random.default_rng(seed)
    chance = rng.beta(1.2, 1.2, (questions, 1))
    correct = (rng.random((questions, n // copies)) < chance).astype(float)
    scores = 1 / (1 + np.exp(-skill * (2 * correct - 1) - rng.normal(0, 1, correct.shape)))
    correct, scores = (np.repeat(v, copies, axis=1) for v in (correct, scores))
    return Candidates(
        scores, correct, np.full(correct.shape, 10.0), np.full(correct.shape, cost), correct.astype(int)
    )


@pytest.mark.slow
def test_independent_draws_are_worth_what_they_are():
    found = examine(make())
    assert {curve.name for curve in found.curves} == {TOP, ANY, BEST, VOTE}
    assert not any(curve.matters for curve in found.curves)
    for curve in found.curves[:2]:
        assert [block.draws for block in curve.blocks] == [2, 4, 8]
        for block in curve.blocks:
            assert block.low <= block.draws <= block.high
            assert block.effective == pytest.approx(block.draws, rel=0.15)


@pytest.mark.suite
@pytest.mark.slow
def test_independence_is_denied_about_as_often_as_the_level_allows():
    found = [examine(make(80, 4, seed=seed), seed=seed).curves for seed in range(20)]
    assert sum(curve.shown for curves in found for curve in curves) <= 4  # of 80, at 1 % each


@pytest.mark.slow
def test_copies_are_worth_fewer_draws_than_they_are():
    found = examine(make(copies=2))
    for curve in found.curves[:2]:
        assert curve.matters
        assert curve.difference.high < 0
        assert all(block.high < block.draws for block in curve.blocks)
    # In random orders a copy is seldom beside its like: two neighbours are one draw.
    assert found.curves[0].blocks[0].effective == pytest.approx(1.05, abs=0.1)


@pytest.mark.suite
@pytest.mark.slow
def test_a_verifier_is_kept_where_its_scores_tell_right_from_wrong():
    good, useless = examine(make(skill=1.5)), examine(make(skill=0.0))
    assert good.verifier.keep
    assert not useless.verifier.keep
    assert good.accuracy[VOTE].mean > good.accuracy[MAJORITY].mean + 0.05
    assert (good.verifier.tokens, good.verifier.share, good.verifier.fewer) == (320, 2, 5)
    assert good.verifier.at_equal_cost.mean <= good.verifier.vote.mean
    cheap = examine(make(skill=1.5), price=0.1).verifier
    assert cheap.fewer == 13
    assert good.gain.low > 0


def test_without_scores_or_verdicts_the_rest_is_told():
    whole = make()
    nothing = np.full(whole.scores.shape, np.nan)
    votes = examine(whole._replace(scores=nothing))
    assert set(votes.accuracy) == {"single", MAJORITY}
    assert votes.verifier is None
    assert {curve.name for curve in votes.curves} == {ANY, MAJORITY}
    scores = examine(whole._replace(correct=nothing))
    assert (scores.accuracy, scores.gain, scores.verifier) == ({}, None, None)
    assert {curve.name for curve in scores.curves} == {TOP}
    assert examine(whole.first(2)).curves == ()


@pytest.mark.parametrize(
    ("budget", "available", "planned"),
    [
        (3_200_000, 1000, (300, 32)),
        (400_000, 1000, (125, 32)),
        (200_000, 1000, (125, 16)),
        (200_000, 60, (60, 32)),
        (25_000, 1000, (62, 4)),
        (32_000, 10, (10, 32)),
        (100, 1, (1, 1)),
    ],
)
def test_a_plan_fits_into_its_budget(budget, available, planned):
    found = plan(budget, 100.0, available, cap=1 if budget == 100 else 32)
    assert found == planned
    assert found.questions * found.candidates * 100 <= budget


def test_a_budget_that_is_too_small_says_what_would_do():
    with pytest.raises(ConfigError, match="50 questions with 4 candidates of 100 tokens take 20,000"):
        plan(19_000, 100.0, 500, cap=32)
