import numpy as np
import pytest
from pydantic import ValidationError

from data.candidates import Candidates
from data.errors import ScoreError
from predictor.selection import STEPS, Selection, accuracy, choose_weights, log_odds


def candidates(answers, correct, scores):
    shape = np.shape(answers)
    columns = np.array(scores, float), np.array(correct, float), np.ones(shape), np.zeros(shape)
    return Candidates(*columns, np.array(answers, np.int64))


def simulated(questions=400, n=12, seed=0):
    """Half of the right answers score high; wrong answers scatter, and a few of them score highest of all."""
    rng = np.random.default_rng(seed)
    right = rng.random((questions, n)) < rng.beta(2, 3, questions)[:, None]
    scores = np.where(right, rng.beta(5, 3, right.shape), rng.beta(3, 5, right.shape))
    scores = np.where(~right & (rng.random(right.shape) < 0.05), 0.999, scores)
    return candidates(np.where(right, 0, rng.integers(1, 6, right.shape)), right, scores)


def test_best_score_takes_the_first_of_equals_and_ignores_answers():
    votes = Selection().count(np.array([[0, 1, 1, 1]]), np.array([[0.4, 0.9, 0.9, 0.1]]))
    assert votes.chosen.tolist() == [[0, 1, 1, 1]]


def test_a_vote_can_overrule_the_best_score():
    answers, scores = np.array([[0, 1, 1, 1]]), np.array([[0.9, 0.5, 0.5, 0.5]])
    assert Selection(kind="majority").count(answers, scores).answer[0, -1] == 1
    assert Selection(kind="weighted_vote", power=1).count(answers, scores).answer[0, -1] == 1
    assert Selection(kind="weighted_vote", power=3).count(answers, scores).answer[0, -1] == 0


@pytest.mark.parametrize("kind", ["best_score", "weighted_vote"])
def test_a_selection_by_scores_refuses_a_pool_without(kind):
    with pytest.raises(ScoreError, match="needs scores, and there are none"):
        Selection(kind=kind).count(np.array([[0, 1]]), np.full((1, 2), np.nan))


def test_majority_needs_no_score():
    assert Selection(kind="majority").count(np.array([[0, 1, 1]]), None).answer.tolist() == [[0, 0, 1]]


def test_the_best_of_the_weighted_votes_is_chosen_and_beats_the_plain_rules():
    train, other = simulated(), simulated(seed=1)
    chosen = choose_weights(train)
    assert chosen.kind == "weighted_vote"
    plain = [accuracy(Selection(kind=kind), other) for kind in ("best_score", "majority")]
    assert accuracy(chosen, other) > max(plain)


def test_log_odds_rise_with_the_score_and_need_verdicts():
    found = log_odds(simulated())
    assert len(found) == STEPS
    assert min(found) >= 0
    assert found[0] < found[-1]
    assert (np.diff(found) >= 0).all()
    unknown = simulated()._replace(correct=np.full((400, 12), np.nan))
    assert log_odds(unknown) is None


def test_weights_below_zero_are_refused():
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        Selection(kind="weighted_vote", weights=(-1.0, 1.0))


def test_a_selection_is_json_in_and_out():
    chosen = choose_weights(simulated())
    assert Selection.model_validate_json(chosen.model_dump_json()) == chosen
