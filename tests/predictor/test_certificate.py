import numpy as np
import pytest

from data.errors import ConfigError, ContractError
from predictor.certificate import Certificate, certify, describe, refuted
from predictor.contenders import of_policy
from predictor.goal import Goal, Judge
from predictor.measured import run
from predictor.policies import FixedN
from predictor.selection import Selection
from predictor.stopping import load_rule
from predictor.value_rule import Orders
from predictor.vote_policies import Lead
from tests.predictor.test_comparison import pool

MAJORITY = Selection(kind="majority")
FULL = FixedN(cap=12, selection=MAJORITY)
SAFE, RASH = (Lead(cap=12, share=share, selection=MAJORITY) for share in (0.75, 0.05))
RULE = load_rule("public-1")
ORDERS = 4
LOSE = Goal(lose=0.05)


def orders(questions, seed=0, goal=LOSE):
    return Orders(pool(questions, seed=seed), RULE, 0, Judge(loss=goal.loss, selection=MAJORITY))


def certified(policies, questions=300, goal=LOSE, **changes):
    design, calibration = orders(200, 1, goal), orders(questions, 2, goal)
    rows = np.arange(200)
    settings = {
        "reference": FULL,
        "proposed": policies[-1],
        "orders": ORDERS,
        "target": 0.95,
        "contract": "c",
        "question_ids": [str(i) for i in range(questions)],
        "groups": np.where(np.arange(questions) % 2, "odd", "even"),
    }
    tested = [run(of_policy("", policy, None), design, rows, ORDERS) for policy in policies]
    return certify(tested, calibration, goal, **(settings | changes))


def test_the_sequence_ends_at_the_first_failure_and_the_last_that_passed_is_certified():
    found = certified([SAFE, RASH, SAFE])
    assert [t.passed for t in found.tried] == [True, False]
    assert found.policy == SAFE
    assert found.tried[1].failures["lost_accuracy"] > 0.05 * 300
    assert {name: g.questions for name, g in found.groups.items()} == {"even": 150, "odd": 150}
    assert "90%" in found.statement
    assert "at most 5.0% of questions fewer than all 12 candidates by majority" in found.statement
    assert "exchangeable" in found.statement
    assert Certificate.model_validate_json(found.model_dump_json()) == found
    assert found.certified


@pytest.mark.parametrize(
    ("risk", "delta", "said"),
    [
        (0.3, 0.004, ("confidence 99.6% over", "at most 30.0% of")),
        (0.123456, 0.001, ("confidence 99.9% over", "at most 12.3456% of")),
        (0.07, 0.2, ("confidence 80% over", "at most 7.0% of")),
    ],
)
def test_the_statement_promises_no_more_than_is_certified(risk, delta, said):
    found = certified([SAFE], goal=Goal(change=risk, delta=delta))
    assert "answers differently" in found.statement
    assert all(words in found.statement for words in said)


def test_with_too_few_questions_nothing_is_certified_and_the_reference_may_be_shipped():
    found = certified([SAFE], 20, needed=77)
    assert found.policy is None
    assert not found.certified
    assert found.groups == {}
    assert found.fallback == found.to_ship() == FULL
    assert found.to_ship(uncertified=True) == SAFE
    assert "about 77 calibration questions would do where there are 20" in found.statement
    assert "All 12 candidates by majority may be shipped" in found.statement


def test_where_nothing_is_promised_the_loss_is_bounded():
    found = certified([SAFE, RASH], goal=Goal(spend=0.3))
    assert found.policy == RASH
    assert not found.certified
    assert found.epsilon == {}
    assert found.bounds["lost_accuracy"] > found.tried[0].failures["lost_accuracy"] / 300
    assert "Nothing is promised" in found.statement


def test_of_each_group_one_question_counts_where_groups_are_alike():
    found = certified([SAFE], 300, one_a_group=True)
    assert found.questions == 2
    assert found.policy is None
    named = np.array([f"group {i // 2}" for i in range(300)])
    halved = certified([SAFE], 300, one_a_group=True, groups=named)
    assert halved.questions == 150
    assert "one question a group" in halved.statement
    alone = certified([SAFE], 300, one_a_group=True, groups=np.full(300, ""))
    assert alone.questions == 300


def test_test_questions_refute_a_false_promise_and_not_a_true_one():
    found = certified([SAFE])
    fresh = orders(300, 3)
    losses = [run(of_policy("", p, None), fresh, np.arange(300), ORDERS).loss for p in (SAFE, RASH)]
    assert min(refuted(found, losses[0]).values()) > 0.05
    assert min(refuted(found, losses[1]).values()) < 0.01


def test_a_certificate_of_an_earlier_release_is_read():
    old = {
        "contract": "c",
        "questions": 10,
        "questions_digest": "d",
        "epsilon": {"lost_hit": 0.02, "lost_answer": 0.1},
        "delta": 0.1,
        "target": 0.9,
        "cap": 8,
        "tried": [],
        "policy": None,
        "questions_needed": 45,
        "groups": {"": {"questions": 10, "failures": {"lost_hit": 1}}},
        "statement": "s",
    }
    found = Certificate.model_validate(old)
    assert found.fallback == FixedN(target=0.9, cap=8)
    assert describe(found.fallback) == "all 8 candidates by best score"


def test_what_cannot_be_certified_says_why():
    with pytest.raises(ConfigError, match="at least one"):
        certified([SAFE], 0)
    with pytest.raises(ContractError, match="certificate"):
        certified([SAFE], 20).require_contract("other")
    unknown = pool(30)._replace(correct=np.full((30, 12), np.nan))
    blind = Orders(unknown, RULE, 0, Judge(selection=MAJORITY))
    tested = [run(of_policy("", SAFE, None), orders(50), np.arange(50), 1)]
    with pytest.raises(ConfigError, match="name another goal"):
        certify(
            tested,
            blind,
            Goal(lose=0.1),
            reference=FULL,
            proposed=SAFE,
            orders=1,
            target=0.9,
            contract="c",
            question_ids=[str(i) for i in range(30)],
            groups=np.full(30, ""),
        )
