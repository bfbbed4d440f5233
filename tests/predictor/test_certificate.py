import numpy as np
import pytest

from data.candidates import Candidates
from data.errors import ConfigError, ContractError
from predictor.certificate import (
    Certificate,
    certify,
    cost,
    drop_dominated,
    price_sequences,
    refuted,
)
from predictor.policies import FixedN, Schedule
from predictor.replay import outcome

CAP = 16
RISKS = {"lost_hit": 0.05, "lost_answer": 0.05}


def make_candidates(questions=300, seed=0, answers=True):
    """Half of the questions are easy; a candidate is right with the chance that its score says."""
    rng = np.random.default_rng(seed)
    mean = np.where(rng.random(questions) < 0.5, 0.85, 0.4)[:, None]
    scores = rng.beta(8 * mean, 8 * (1 - mean), (questions, CAP)).round(4)
    correct = (rng.random(scores.shape) < scores).astype(float) if answers else np.full(scores.shape, np.nan)
    return Candidates(
        scores, correct, np.full(scores.shape, 20.0), np.full(scores.shape, 30.0), np.zeros_like(scores, int)
    )


def run(sequence, candidates, *more, **changes):
    settings = {
        "target": 0.9,
        "cap": CAP,
        "epsilon": RISKS,
        "delta": 0.1,
        "contract": "c",
        "question_ids": [str(i) for i in range(len(candidates.scores))],
        "groups": np.where(np.arange(len(candidates.scores)) % 2, "odd", "even"),
    }
    return certify(sequence[0], [sequence[1:], *more], candidates, None, **(settings | changes))


FULL = FixedN(target=0.9, cap=CAP)
SAFE = Schedule(target=0.9, cap=CAP, start=4)
RASH = Schedule(target=0.9, cap=2, start=2)


def test_the_sequence_ends_at_the_first_failure_and_the_last_that_passed_is_chosen():
    found = run([FULL, SAFE, RASH, FULL], make_candidates())
    assert [t.passed for t in found.tried] == [True, True, False]
    assert found.policy == SAFE
    assert found.tried[2].failures["lost_hit"] > 0.05 * 300
    assert {name: g.questions for name, g in found.groups.items()} == {"even": 150, "odd": 150}
    assert "90%" in found.statement
    assert "exchangeable" in found.statement
    assert Certificate.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize(
    ("risk", "delta", "said"),
    [
        (0.05, 0.1, ("confidence 90% over", "at most 5.0% of")),
        (0.3, 0.004, ("confidence 99.6% over", "at most 30.0% of")),
        (0.123456, 0.00001, ("confidence 99.999% over", "at most 12.3456% of")),
        (0.07, 0.2, ("confidence 80% over", "at most 7.0% of")),
    ],
)
def test_the_statement_promises_no_more_than_is_certified(risk, delta, said):
    found = run([FULL], make_candidates(), epsilon={"lost_hit": risk}, delta=delta)
    assert all(words in found.statement for words in said)


def test_with_too_few_questions_nothing_is_certified_and_the_number_needed_is_told():
    found = run([FULL, SAFE], make_candidates(20))
    assert found.policy is None
    assert found.groups == {}
    assert found.questions_needed == 45
    assert "about 45 are needed" in found.statement
    assert run([FULL, SAFE], make_candidates(45)).policy is not None


def test_without_known_answers_only_hits_are_promised():
    found = run([FULL, SAFE], make_candidates(answers=False))
    assert found.epsilon == {"lost_hit": 0.05}
    assert "wrong answer" not in found.statement


def test_test_questions_refute_a_false_promise_and_not_a_true_one():
    found = run([FULL, SAFE], make_candidates())
    fresh = make_candidates(seed=1)
    assert min(refuted(found, outcome(SAFE, fresh, None, 0.9)).values()) > 0.05
    assert min(refuted(found, outcome(RASH, fresh, None, 0.9)).values()) < 1e-4


def test_sequences_share_delta_and_the_cheapest_that_passed_is_chosen():
    other = [SAFE.model_copy(update={"start": 8}), RASH, SAFE]
    found = run([FULL, SAFE, RASH], make_candidates(), other)
    assert [t.policy for t in found.tried] == [FULL, SAFE, RASH, other[0], RASH]
    assert [t.level for t in found.tried] == [0.1] + [0.05] * 4
    assert found.policy == SAFE
    dearer = run([FULL, SAFE], make_candidates(), other, price=lambda o: -float(o.tokens.mean()))
    assert dearer.policy == FULL


def test_policies_that_are_no_cheaper_are_left_out():
    policies = [FULL, SAFE, RASH]
    assert drop_dominated(policies, [3.0, 3.0, 1.0]) == [FULL, RASH]
    assert drop_dominated(policies, [3.0, 1.0, 2.0]) == [FULL, SAFE]


def test_a_ladder_is_a_target_at_rising_prices():
    entries = price_sequences(0.9, CAP, 20.0, 2.0)
    assert [{p.target for p in rising} for rising in entries] == [{0.9}, {0.925}, {0.95}, {0.975}]
    for rising in entries:
        assert np.all(np.diff([p.token_price for p in rising]) > 0)
        assert all(p.round_price == pytest.approx(40 * p.token_price) for p in rising)
    assert [rising[0].target for rising in price_sequences(0.9, CAP, 20.0, 2.0, above=False)] == [0.9]
    assert [rising[0].target for rising in price_sequences(0.995, CAP, 20.0, 2.0)] == [0.995]


def test_a_price_of_rounds_counts_in_the_cost():
    found = outcome(SAFE, make_candidates(), None, 0.9)
    assert cost(found, 20.0, 2.0) == pytest.approx(found.tokens.mean() + 40 * found.rounds.mean())


@pytest.mark.parametrize(
    "changes", [{"epsilon": {"lost_hit": 0.0}}, {"epsilon": {"lost_answer": 1.5}}, {"delta": float("nan")}]
)
def test_impossible_risks_are_errors(changes):
    with pytest.raises(ConfigError, match="strictly between 0 and 1"):
        run([FULL], make_candidates(5), **changes)


def test_each_loss_has_its_own_risk():
    candidates = make_candidates()
    lost = run([FULL, SAFE], candidates).tried[1].failures
    assert 0 < lost["lost_answer"] < 12
    for epsilon, passed in (
        ({"lost_hit": 0.05}, True),
        ({"lost_hit": 0.05, "lost_answer": 0.1}, True),
        ({"lost_hit": 0.05, "lost_answer": lost["lost_answer"] / 300}, False),
        ({"lost_accuracy": 0.05}, True),
        ({"lost_accuracy": 0.001}, False),
    ):
        assert (run([FULL, SAFE], candidates, epsilon=epsilon).policy == SAFE) == passed
    with pytest.raises(ConfigError, match="nothing is promised"):
        run([FULL], candidates, epsilon={})


def test_no_questions_are_an_error():
    with pytest.raises(ConfigError, match="at least one"):
        run([FULL], make_candidates(0))


def test_a_certificate_of_another_contract_is_refused():
    with pytest.raises(ContractError, match="certificate"):
        run([FULL], make_candidates(5)).require_contract("other")
