import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor import FixedN, OptScale, Prior, decide, load_policy, required_samples, truncnorm
from predictor.errors import ConfigError, ScoreError
from predictor.replay import best_of, replay

unit = st.floats(0, 1)
PAPER = OptScale(target=0.9, confidence=0.9, cap=16, floor=3, prior=False)


@given(st.lists(unit, max_size=16))
@settings(deadline=None)
def test_a_decision_is_consistent(scores):
    decision = decide(PAPER, scores)
    assert (decision.action == "sample") == (decision.more > 0)
    assert decision.drawn + decision.more <= PAPER.cap
    assert 1 <= decision.required_samples <= PAPER.cap
    if decision.action == "accept":
        assert decision.feasible or max(scores) >= PAPER.target


def test_sequential_policy_draws_one_by_one_until_the_bound():
    scores = [0.6, 0.7, 0.65]
    decision = decide(PAPER, scores)
    (mu,), (sigma,) = truncnorm.fit(np.mean(scores), np.mean(np.square(scores)), 3)
    assert decision.required_samples == required_samples(mu, sigma, 0.9, 0.9, 16)
    assert (decision.action, decision.more) == ("sample", 1)


def test_a_batch_never_overshoots_bound_or_cap():
    batched = PAPER.model_copy(update={"batch": 5, "cap": 7})
    assert decide(batched, [0.1, 0.2, 0.3]).more == 4
    assert decide(batched, [0.1] * 7).action == "give up"


def test_one_shot_draws_all_at_once_and_never_again():
    one_shot = PAPER.model_copy(update={"one_shot": True})
    scores = [0.6, 0.85, 0.7]
    first = decide(one_shot, scores)
    assert first.more == first.required_samples - 3 > 1
    after = decide(one_shot, scores + [0.1] * first.more)
    assert after.more == 0
    assert after.required_samples == first.required_samples


def test_prior_moves_the_decision():
    with_prior = PAPER.model_copy(update={"prior": True, "floor": 0})
    easy, hard = Prior.centred(0.93, 0.05), Prior.centred(0.6, 0.15)
    asked = [decide(with_prior, [], prior).required_samples for prior in (easy, hard)]
    assert asked[0] < asked[1]


def test_a_policy_that_needs_a_prior_says_so():
    with pytest.raises(ConfigError, match="prior"):
        decide(OptScale(), [0.5])


def test_failed_candidates_count_as_misses():
    assert (
        decide(PAPER, [0.8, 0.8, 0.8], failed=4).required_samples >= decide(PAPER, [0.8] * 3).required_samples
    )
    assert decide(FixedN(n=4), [0.5], failed=3).action == "accept"
    assert decide(FixedN(n=4), [], failed=4).action == "give up"


@pytest.mark.parametrize("scores", [[1.2], [-0.1], [float("nan")], [float("inf")], ["x"], [None]])
def test_a_score_outside_the_unit_interval_is_an_error(scores):
    with pytest.raises(ScoreError):
        decide(PAPER, scores)


def test_more_scores_than_the_cap_are_an_error():
    with pytest.raises(ScoreError, match="cap of 16"):
        decide(PAPER, [0.5] * 17)


def test_policies_are_json_in_and_out():
    for policy in (PAPER, FixedN(n=3)):
        assert load_policy(policy.model_dump_json()) == policy
    for broken in ('{"kind": "optscale", "targt": 0.9}', '{"kind": "what"}', "{", json.dumps({"n": 3})):
        with pytest.raises(ConfigError):
            load_policy(broken)


def test_replay_agrees_with_deciding_step_by_step():
    rng = np.random.default_rng(0)
    scores = rng.beta(4, 2, (12, 16))
    priors = [Prior.centred(0.7, 0.15)] * 12
    for policy in (PAPER, PAPER.model_copy(update={"prior": True, "batch": 3}), FixedN(n=5)):
        course = replay(policy, scores, priors)
        for row, values in enumerate(scores):
            drawn = 0
            while (step := decide(policy, values[:drawn], priors[row])).action == "sample":
                drawn += step.more
            assert course.drawn[row] == drawn
            assert course.best[row] == pytest.approx(values[:drawn].max())


def test_replay_refuses_a_cap_beyond_the_pool():
    with pytest.raises(ConfigError, match="lower the cap"):
        replay(FixedN(n=9), np.zeros((2, 8)))


def test_best_takes_the_first_of_equals_and_skips_missing_scores():
    best, column = best_of(np.array([[0.2, 0.9, 0.9], [np.nan, 0.1, np.nan], [np.nan] * 3]))
    assert column.tolist() == [1, 1, -1]
    assert best[:2].tolist() == [0.9, 0.1]
    assert np.isnan(best[2])
