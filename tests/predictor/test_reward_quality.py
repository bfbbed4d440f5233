import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from predictor.reward_quality import selection_accuracy, within_question_auc


def test_auc_is_taken_within_questions():
    rng = np.random.default_rng(0)
    scores, correct = rng.random((30, 8)).round(1), (rng.random((30, 8)) < 0.5).astype(float)
    expected = [roc_auc_score(c, s) for s, c in zip(scores, correct, strict=True) if 0 < c.sum() < 8]
    auc, questions = within_question_auc(scores, correct)
    assert auc == pytest.approx(np.mean(expected))
    assert questions == len(expected)


def test_telling_easy_from_hard_is_no_merit():
    scores = np.repeat([[0.9], [0.1]], 4, axis=1)
    correct = np.array([[1, 1, 1, 0], [0, 0, 0, 1.0]])
    assert within_question_auc(scores, correct)[0] == 0.5


def test_questions_without_both_kinds_say_nothing():
    auc, questions = within_question_auc(np.ones((2, 2)), np.array([[1, 1], [np.nan, 0]]))
    assert np.isnan(auc)
    assert questions == 0


def test_accuracy_without_known_answers_is_missing():
    scores = np.array([[0.2, 0.9], [0.8, 0.1], [0.5, np.nan]])
    assert selection_accuracy(scores, np.full((3, 2), np.nan)) == {}
    # What is known in part says nothing of the best or of any; what was not drawn is not wrong.
    found = selection_accuracy(scores, np.array([[0, np.nan], [0, 1.0], [1.0, np.nan]]))
    assert found == {"accuracy_single": 0.75, "accuracy_best": 0.5, "accuracy_any": 1.0}


def test_selection_lies_between_a_single_sample_and_the_ceiling():
    scores, correct = np.array([[0.2, 0.9], [0.8, 0.1]]), np.array([[0, 1.0], [0, 1.0]])
    assert selection_accuracy(scores, correct) == {
        "accuracy_single": 0.5,
        "accuracy_best": 0.5,
        "accuracy_any": 1.0,
    }
