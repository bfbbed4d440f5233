import numpy as np
import pytest
from pydantic import ValidationError

from data.candidates import Candidates
from predictor.goal import Goal, Judge
from predictor.selection import Selection

MAJORITY = Selection(kind="majority")


def two_questions():
    """Answers (7 is right), and scores that the first question's best-scored candidate is wrong by."""
    answers = np.array([[7, 3, 7, 7], [3, 3, 7, 7]])
    scores = np.array([[0.2, 0.9, 0.3, 0.4], [0.1, 0.2, 0.8, 0.7]])
    ones = np.ones(answers.shape)
    return Candidates(scores, (answers == 7) * 1.0, ones, ones, answers)


def judged(**changes):
    shown = two_questions()
    judge = Judge(**{"selection": MAJORITY} | changes)
    return judge.judge(shown, MAJORITY.count(shown.answers, shown.scores))


def test_accuracy_is_held_against_what_the_reference_delivers():
    right, reference = judged()
    assert right.tolist() == [[1, 1, 1, 1], [0, 0, 0, 0]]
    assert reference.tolist() == [1, 0]
    _, best = judged(selection=Selection())
    assert best.tolist() == [0, 1]
    _, one = judged(n=1)
    assert one.tolist() == [1, 0]


def test_a_changed_answer_is_told_without_a_verdict():
    same, reference = judged(loss="changed")
    assert same.tolist() == [[1, 1, 1, 1], [1, 1, 1, 1]]
    assert reference.tolist() == [1, 1]
    other, _ = judged(loss="changed", selection=Selection())
    assert other.tolist() == [[0, 0, 0, 0], [0, 0, 0, 0]]


def test_a_hit_is_a_best_score_at_the_target():
    hit, reference = judged(loss="lost_hit", target=0.8)
    assert hit.tolist() == [[0, 1, 1, 1], [0, 0, 1, 1]]
    assert reference.tolist() == [1, 1]
    assert judged(loss="lost_hit", target=0.8, n=2)[1].tolist() == [1, 0]


def test_one_goal_is_named_and_the_default_depends_on_what_is_known():
    assert Goal().resolve(known=True).epsilon == {"lost_accuracy": 0.03}
    assert Goal().resolve(known=False).epsilon == {"changed": 0.05}
    assert Goal(change=0.1).resolve(known=True).epsilon == {"changed": 0.1}
    assert Goal(spend=0.3).epsilon == {}
    assert Goal(spend=0.3).loss == "lost_accuracy"
    with pytest.raises(ValidationError, match="lose and change are named"):
        Goal(lose=0.1, change=0.1)
    with pytest.raises(ValidationError, match="target score is for the goal"):
        Goal(lose=0.1, target=0.9)
