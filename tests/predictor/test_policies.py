import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import ConfigError, ScoreError
from predictor import (
    FixedN,
    OptScale,
    Predictive,
    Prior,
    PriorBatch,
    Quantile,
    Schedule,
    Value,
    decide,
    load_policy,
    required_samples,
    truncnorm,
)
from predictor.families import get_family
from predictor.replay import best_of, replay
from predictor.state import State

unit = st.floats(0, 1)
PAPER = OptScale(target=0.9, confidence=0.9, cap=16, floor=3, prior=False)
CAP16 = {"target": 0.9, "cap": 16}
POLICIES = [
    FixedN(cap=5),
    FixedN(stop_on_hit=True, batch=3, give_up=0.05, **CAP16),
    Schedule(start=2, factor=1.5, **CAP16),
    Predictive(confidence=0.8, floor=2, batch=4, give_up=0.05, **CAP16),
    Quantile(confidence=0.8, risk=0.2, **CAP16),
    Value(token_price=0.0005, candidate_tokens=20, round_price=0.02, **CAP16),
    Value(token_price=0.0002, candidate_tokens=20, utility=(0.0, 0.1, 0.5, 0.6, 1.0), **CAP16),
]
BELIEF = Prior(location=(1.0, -1.5), spread=(1.0, 0.7))


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
    assert decide(FixedN(cap=4), [0.5], failed=3).action == "accept"
    assert decide(FixedN(cap=4), [], failed=4).action == "give up"


@pytest.mark.parametrize("scores", [[1.2], [-0.1], [float("nan")], [float("inf")], ["x"], [None]])
def test_a_score_outside_the_unit_interval_is_an_error(scores):
    with pytest.raises(ScoreError):
        decide(PAPER, scores)


def test_more_scores_than_the_cap_are_an_error():
    with pytest.raises(ScoreError, match="cap of 16"):
        decide(PAPER, [0.5] * 17)


def test_policies_are_json_in_and_out():
    for policy in (PAPER, *POLICIES):
        assert load_policy(policy.model_dump_json()) == policy
    for broken in ('{"kind": "optscale", "targt": 0.9}', '{"kind": "what"}', "{", json.dumps({"cap": 3})):
        with pytest.raises(ConfigError):
            load_policy(broken)


@pytest.mark.parametrize("policy", [*POLICIES, PAPER.model_copy(update={"prior": True, "batch": 3})])
def test_replay_agrees_with_deciding_step_by_step(policy):
    rng = np.random.default_rng(0)
    scores = rng.beta(4, 2, (12, 16))
    tokens = rng.integers(5, 50, (12, 16)).astype(float)
    priors = [Prior.centred(m, 0.15) for m in np.linspace(0.3, 0.9, 12)]
    course = replay(policy, scores, PriorBatch.of(priors), tokens)
    for row, values in enumerate(scores):
        drawn = rounds = 0
        while (
            step := decide(policy, values[:drawn], priors[row], tokens=tokens[row, :drawn])
        ).action == "sample":
            drawn, rounds = drawn + step.more, rounds + 1
        assert (course.drawn[row], course.rounds[row]) == (drawn, rounds)
        assert drawn == 0 or course.best[row] == pytest.approx(values[:drawn].max())


def test_replay_refuses_a_cap_beyond_the_pool():
    with pytest.raises(ConfigError, match="lower the cap"):
        replay(FixedN(cap=9), np.zeros((2, 8)))


def test_best_takes_the_first_of_equals_and_skips_missing_scores():
    best, column = best_of(np.array([[0.2, 0.9, 0.9], [np.nan, 0.1, np.nan], [np.nan] * 3]))
    assert column.tolist() == [1, 1, -1]
    assert best[:2].tolist() == [0.9, 0.1]
    assert np.isnan(best[2])


@pytest.mark.parametrize("policy", POLICIES)
@given(st.lists(unit, max_size=16), st.integers(0, 16))
@settings(deadline=None, max_examples=25)
def test_every_policy_decides_consistently(policy, scores, failed):
    scores, failed = scores[: policy.cap], min(failed, policy.cap - len(scores[: policy.cap]))
    decision = decide(policy, scores, BELIEF, failed)
    assert (decision.action == "sample") == (decision.more > 0)
    assert decision.drawn + decision.more <= policy.cap
    if policy.stop_on_hit and scores and max(scores) >= policy.target:
        assert (decision.action, decision.reason) == ("accept", "a score has reached the target")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("scores", [[0.0], [1.0], [0.0] * 5, [1.0] * 5, [0.5] * 5, [0.0, 1.0]])
def test_equal_scores_and_scores_at_the_ends_are_decided(policy, scores):
    decision = decide(policy, scores, BELIEF)
    if max(scores) == 1.0 and policy.stop_on_hit:
        assert decision.action == "accept"


def test_posterior_predictive_chance_is_the_sum_over_laws():
    scores = [0.3, 0.55, 0.8]
    state = State(np.array([scores]), np.array([3]), PriorBatch.of([BELIEF]))
    family = get_family("beta")
    log_weight = BELIEF.log_weights() + family.log_likelihood([scores])[0]
    weight = np.exp(log_weight) / np.exp(log_weight).sum()
    miss = np.exp(family.log_miss(0.9))
    assert state.no_hit(0.9, 4)[0] == pytest.approx([weight @ miss**m for m in range(5)])


def test_one_question_and_many_have_the_same_posterior():
    rng = np.random.default_rng(3)
    scores, drawn = rng.random((7, 9)), rng.integers(0, 10, 7)
    priors = PriorBatch.of([BELIEF] * 7)
    together = State(scores, drawn, priors).weights
    for row in range(7):
        alone = State(scores[row : row + 1], drawn[row : row + 1], priors[row : row + 1]).weights
        assert alone[0] == pytest.approx(together[row])


def test_miss_quantile_leaves_the_stated_chance_above():
    state = State(np.array([[0.4, 0.7]]), np.array([2]), PriorBatch.of([BELIEF]))
    log_miss = get_family("beta").log_miss(0.9)
    found = state.miss_quantile(0.9, 0.95)[0]
    assert state.weights[0][log_miss > found].sum() <= 0.05
    assert state.weights[0][log_miss >= found].sum() > 0.05


def test_a_schedule_grows_by_its_factor_up_to_the_cap():
    course = [0]
    policy = Schedule(target=0.9, cap=16, start=2, factor=2)
    while more := decide(policy, [0.1] * course[-1]).more:
        course.append(course[-1] + more)
    assert course == [0, 2, 6, 14, 16]


def test_a_dearer_token_never_draws_more_and_a_dearer_round_never_takes_more_rounds():
    rng = np.random.default_rng(5)
    scores = rng.beta(5, 2, (200, 16))
    priors = PriorBatch.of([BELIEF] * 200)

    def run(token, round_):
        return replay(Value(token_price=token, round_price=round_, target=0.95, cap=16), scores, priors)

    draws = [run(price, 0.01).drawn.mean() for price in (0.0005, 0.005, 0.02, 0.5)]
    assert draws == sorted(draws, reverse=True)
    assert draws[-1] == 1  # an answer is owed
    rounds = [run(0.002, price).rounds.mean() for price in (0.0, 0.02, 0.1)]
    assert rounds == sorted(rounds, reverse=True)


def test_long_candidates_are_worth_fewer_rounds():
    policy = Value(token_price=0.001, candidate_tokens=20, target=0.9, cap=16)
    scores = [0.5, 0.6, 0.55]
    short, long = (decide(policy, scores, BELIEF, tokens=[n] * 3).more for n in (5, 400))
    assert short > long


def test_after_a_hit_nothing_is_left_to_gain_but_a_better_score():
    hit = [0.3, 0.95]
    plain = Value(target=0.9, cap=16, token_price=0.0001, stop_on_hit=False)
    assert decide(plain, hit[:1], BELIEF).action == "sample"
    assert decide(plain, hit, BELIEF).action == "accept"
    assert decide(plain.model_copy(update={"utility": (0.0, 0.5, 1.0)}), [0.3, 0.9], BELIEF).more > 0


@pytest.mark.parametrize(
    "policy",
    [
        Value(target=0.9, cap=16, token_price=0.01),
        Predictive(target=0.9, cap=16, confidence=0.8, give_up=0.1),
    ],
)
def test_the_first_candidate_is_drawn_however_hopeless_the_question(policy):
    hopeless = Prior.centred(0.1, 0.05, spread=0.1)
    first = decide(policy, [], hopeless)
    assert (first.action, first.more) == ("sample", 1)
    assert decide(policy, [0.1], hopeless).action == "give up"


def test_giving_up_says_so():
    policy = FixedN(stop_on_hit=True, batch=4, give_up=0.2, target=0.995, cap=16)
    decision = decide(policy, [0.3] * 8, BELIEF)
    assert decision.action == "give up"
    assert decision.reason == "a score at the target is too unlikely within the cap"


@pytest.mark.parametrize(
    "document",
    [
        '{"kind": "predictive", "confidence": 0.9, "give_up": 0.1}',
        '{"kind": "fixed", "cap": 4, "floor": 5}',
        '{"kind": "value", "utility": [0.5, 0.1]}',
        '{"kind": "value", "utility": [1.0]}',
        '{"kind": "schedule", "factor": 0.5}',
        '{"kind": "quantile", "risk": 0}',
        '{"kind": "value", "token_price": NaN}',
    ],
)
def test_impossible_or_inconsistent_knobs_are_errors(document):
    with pytest.raises(ConfigError, match="not a policy"):
        load_policy(document)


@pytest.mark.parametrize(
    "document", ['{"confidence": 0.95, "give_up": 0.05}', '{"confidence": 0.7, "give_up": 0.3}']
)
def test_giving_up_may_not_take_all_of_the_promise(document):
    with pytest.raises(ConfigError, match="giving up"):
        load_policy(document.replace("{", '{"kind": "predictive", ', 1))


def test_fewer_than_no_failed_candidates_are_an_error():
    with pytest.raises(ScoreError, match="-1 candidates"):
        decide(FixedN(cap=4), [0.5], failed=-1)


@pytest.mark.parametrize("count", [float("nan"), float("inf"), -1])
def test_token_counts_that_are_no_counts_are_an_error(count):
    with pytest.raises(ScoreError, match="0 or more"):
        decide(Value(target=0.9, cap=4), [0.5, 0.4], BELIEF, tokens=[3, count])


def test_token_counts_that_do_not_match_the_scores_are_an_error():
    with pytest.raises(ScoreError, match="2 token counts for 1 scores"):
        decide(FixedN(cap=4), [0.5], tokens=[3, 4])
