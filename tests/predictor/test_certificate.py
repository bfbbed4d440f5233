import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from predictor.certificate import (
    Certificate,
    certify,
    cost,
    ladder,
    order,
    questions_needed,
    refutation_p_value,
    refuted,
    risk_p_value,
)
from predictor.errors import ConfigError, ContractError
from predictor.policies import FixedN, Schedule
from predictor.replay import Candidates, Outcome, outcome

CAP = 16


def make_candidates(questions=300, seed=0, answers=True):
    """Half of the questions are easy; a candidate is right with the chance that its score says."""
    rng = np.random.default_rng(seed)
    mean = np.where(rng.random(questions) < 0.5, 0.85, 0.4)[:, None]
    scores = rng.beta(8 * mean, 8 * (1 - mean), (questions, CAP)).round(4)
    correct = (rng.random(scores.shape) < scores).astype(float) if answers else np.full(scores.shape, np.nan)
    return Candidates(
        scores, correct, np.full(scores.shape, 20.0), np.full(scores.shape, 30.0), np.zeros_like(scores, int)
    )


def run(sequence, candidates, **changes):
    settings = {
        "target": 0.9,
        "cap": CAP,
        "epsilon": 0.05,
        "delta": 0.1,
        "contract": "c",
        "question_ids": [str(i) for i in range(len(candidates.scores))],
        "groups": np.where(np.arange(len(candidates.scores)) % 2, "odd", "even"),
    }
    return certify(sequence, candidates, None, **(settings | changes))


FULL = FixedN(target=0.9, cap=CAP)
SAFE = Schedule(target=0.9, cap=CAP, start=4)
RASH = Schedule(target=0.9, cap=2, start=2)


def test_p_values_are_exact_binomial_tails():
    assert risk_p_value(0, 200, 0.02) == pytest.approx(0.98**200)
    assert risk_p_value(1, 200, 0.02) == pytest.approx(0.98**200 + 200 * 0.02 * 0.98**199)
    assert risk_p_value(1, 200, 0.02) <= 0.1 < risk_p_value(2, 200, 0.02)  # 200 questions allow one failure
    assert risk_p_value(4, 400, 0.02) <= 0.1 < risk_p_value(5, 400, 0.02)  # 400 allow four
    assert refutation_p_value(3, 50, 0.02) == pytest.approx(1 - stats.binom.cdf(2, 50, 0.02))
    assert refutation_p_value(0, 50, 0.02) == 1


@given(st.floats(0, 0.049), st.floats(0.01, 0.5))
def test_as_many_questions_as_told_do_certify(rate, delta):
    needed = questions_needed(rate, 0.05, delta)
    # The Chernoff bound holds for every number, so the exact test passes where the count is whole.
    assert risk_p_value(int(rate * needed), needed, 0.05) <= delta * 1.0001
    assert questions_needed(0.05, 0.05, delta) is None


def test_the_sequence_ends_at_the_first_failure_and_the_last_that_passed_is_chosen():
    found = run([FULL, SAFE, RASH, FULL], make_candidates())
    assert [t.passed for t in found.tried] == [True, True, False]
    assert found.policy == SAFE
    assert found.tried[2].failures["lost_hit"] > 0.05 * 300
    assert {name: g.questions for name, g in found.groups.items()} == {"even": 150, "odd": 150}
    assert "90%" in found.statement
    assert "exchangeable" in found.statement
    assert Certificate.model_validate_json(found.model_dump_json()) == found


def test_with_too_few_questions_nothing_is_certified_and_the_number_needed_is_told():
    found = run([FULL, SAFE], make_candidates(20))
    assert found.policy is None
    assert found.groups == {}
    assert found.questions_needed == questions_needed(0, 0.05, 0.1) == 45
    assert "about 45 are needed" in found.statement
    assert run([FULL, SAFE], make_candidates(45)).policy is not None


def test_without_known_answers_only_hits_are_promised():
    found = run([FULL, SAFE], make_candidates(answers=False))
    assert found.losses == ("lost_hit",)
    assert "wrong answer" not in found.statement


def test_a_broken_promise_holds_with_at_most_delta():
    """Over many draws of calibration questions, a policy whose true risk is above epsilon seldom passes."""
    candidates = make_candidates(20_000, seed=7)
    lost = outcome(SAFE.model_copy(update={"cap": 8}), candidates, None, 0.9)
    risk = float(lost.lost_hit.mean())
    rng = np.random.default_rng(0)
    draws = rng.binomial(400, risk, 4000)
    passed = np.array([risk_p_value(k, 400, 0.95 * risk) <= 0.1 for k in range(401)])[draws]
    assert 0.01 < passed.mean() <= 0.1


def test_test_questions_refute_a_false_promise_and_not_a_true_one():
    found = run([FULL, SAFE], make_candidates())
    fresh = make_candidates(seed=1)
    assert min(refuted(found, outcome(SAFE, fresh, None, 0.9)).values()) > 0.05
    assert min(refuted(found, outcome(RASH, fresh, None, 0.9)).values()) < 1e-4


def test_the_order_descends_in_cost_and_leaves_out_what_is_beaten():
    candidates = make_candidates()
    policies = [FULL, RASH, SAFE, FixedN(target=0.9, cap=15)]
    found = [outcome(p, candidates, None, 0.9) for p in policies]
    costs = [cost(o, 20.0, 0.0) for o in found]
    assert order(policies, found, costs) == [FULL, SAFE, RASH]  # fixed 15 costs more than SAFE and loses more


def test_the_ladder_starts_with_the_full_cap_and_prices_rise():
    rungs = ladder(0.9, CAP, 20.0, 2.0)
    assert rungs[0] == FULL
    assert {p.target for p in rungs} == {0.9, 0.925, 0.95, 0.975}
    assert all(p.round_price == pytest.approx(40 * p.token_price) for p in rungs[1:])


def test_a_price_of_rounds_counts_in_the_cost():
    found = outcome(SAFE, make_candidates(), None, 0.9)
    assert isinstance(found, Outcome)
    assert cost(found, 20.0, 2.0) == pytest.approx(found.tokens.mean() + 40 * found.rounds.mean())


@pytest.mark.parametrize("changes", [{"epsilon": 0.0}, {"epsilon": 1.5}, {"delta": float("nan")}])
def test_impossible_risks_are_errors(changes):
    with pytest.raises(ConfigError, match="strictly between 0 and 1"):
        run([FULL], make_candidates(5), **changes)


def test_no_questions_and_no_policy_are_errors():
    for sequence, candidates in (([], make_candidates(5)), ([FULL], make_candidates(0))):
        with pytest.raises(ConfigError, match="at least one"):
            run(sequence, candidates)


def test_a_certificate_of_another_contract_is_refused():
    with pytest.raises(ContractError, match="certificate"):
        run([FULL], make_candidates(5)).require_contract("other")
