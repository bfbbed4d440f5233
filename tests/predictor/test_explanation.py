"""The course of one question, told by the policy itself, and fixed N on the same candidates."""

import numpy as np
import pytest

from data.candidates import Candidates
from data.errors import ConfigError
from predictor.explanation import alternatives, follow
from predictor.policies import Learned, Schedule, Value
from predictor.prior import Prior, PriorBatch
from predictor.replay import replay
from predictor.selection import Selection

SCORES = [0.2, 0.3, 0.4, 0.9, 0.1, 0.5, 0.6, 0.3]


def question(scores=SCORES, answers=(0, 1, 1, 0, 2, 1, 1, -1), correct=(1, 0, 0, 1, 0, 0, 0, 0)):
    columns = (scores, correct, [10.0] * len(scores), [20.0] * len(scores), answers)
    return Candidates(*(np.array([column]) for column in columns))


@pytest.mark.parametrize(
    "policy",
    [
        Schedule(target=0.8, cap=8, start=1),
        Value(target=0.8, cap=8, token_price=0.001, candidate_tokens=10),
        Learned(cap=8, target=0.8),
    ],
)
def test_the_course_is_that_of_a_replay(policy):
    asked, prior = question(), Prior.centred(0.4, 0.2)
    steps = follow(policy, asked, prior)
    run = replay(policy, asked.scores, PriorBatch.of([prior]), asked.tokens, answers=asked.answers)
    assert (steps[-1].decision.drawn, len(steps) - 1) == (run.drawn[0], run.rounds[0])
    assert steps[-1].decision.more == 0
    assert steps[-1].decision.selected == run.chosen[0]


def test_what_the_rule_goes_by_is_told():
    steps = follow(
        Value(target=0.8, cap=8, token_price=1e-4),
        question(SCORES[:3], (0, 1, 1), (1, 0, 0)),
        Prior.centred(0.4, 0.2),
    )
    chances = [step.evidence["chance of a hit within the cap"] for step in steps]
    assert 0 < chances[-1] < chances[0] < 1
    voted = follow(Learned(cap=8, price=0.0), question(), None)
    assert voted[0].evidence == {}
    last = voted[-1].evidence
    assert (last["votes of the leader"], last["of the second"]) == (4, 2)
    assert last["accuracy still to be gained"] <= 1
    assert last["its price"] == 0
    assert follow(Schedule(target=0.8, cap=8), question(), None)[-1].evidence == {}


def test_rounds_that_were_are_followed_whatever_the_policy_would_have_done():
    steps = follow(Schedule(target=0.8, cap=8, start=1), question(), None, ends=[3, 4])
    assert [step.decision.drawn for step in steps] == [0, 3, 4]
    assert steps[-1].decision.action == "accept"


def test_a_rule_on_answers_needs_answers():
    with pytest.raises(ConfigError, match="answers"):
        follow(Learned(cap=8), question(answers=[-1] * 8), None)


def test_fixed_n_on_the_same_candidates_is_known_as_far_as_they_go():
    found = {
        (a.selection, a.draws): (a.selected, a.correct, a.tokens)
        for a in alternatives(question(), Selection(), 8)
    }
    assert found["best_score", 1] == (0, True, 10)
    assert found["best_score", 4] == found["best_score", 8][:2] + (40,) == (3, True, 40)
    assert found["majority", 8][1:] == (False, 80)
    short = alternatives(question(SCORES[:5], (0, 1, 1, 0, 2), [np.nan] * 5), Selection(), 8)
    assert {a.draws for a in short} == {1, 4}
    assert {a.correct for a in short} == {None}


def test_without_a_verifier_only_votes_are_told_and_without_answers_only_scores():
    unscored = question([np.nan] * 8)
    assert {a.selection for a in alternatives(unscored, Selection(kind="majority"), 8)} == {"majority"}
    assert {a.selection for a in alternatives(question(answers=[-1] * 8), Selection(), 8)} == {"best_score"}
