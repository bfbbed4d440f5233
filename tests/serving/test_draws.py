"""Which candidate is delivered, of plain values."""

import pytest

from models.generator.base import Candidate
from models.reward.base import StepScores
from predictor.selection import Selection
from serving.draws import Draw, select_draw

BEST, MAJORITY = Selection(), Selection(kind="majority")


def draw(status="complete", text="7", answer=None, score=None, **more):
    return Draw(Candidate(text, 3, 3, status, 0), answer=answer, score=score, **more)


EMPTY = draw("failed", "")
LOST = draw("failed", None)
CUT = draw("cut", "and so")
LONG = draw(text="a long one", step_scores=StepScores(None, 0, over_length=True))


@pytest.mark.parametrize("selection", [BEST, MAJORITY, Selection(kind="weighted_vote")], ids=lambda s: s.kind)
@pytest.mark.parametrize("order", [(EMPTY, LONG, CUT), (CUT, EMPTY, LONG), (LOST, CUT, LONG)])
def test_of_an_empty_an_over_length_and_a_cut_one_the_whole_one_is_delivered(selection, order):
    assert select_draw(order, selection) is LONG


def test_a_cut_one_is_the_last_resort_and_an_empty_one_none():
    assert select_draw((EMPTY, CUT, LOST), BEST) is CUT
    assert select_draw((EMPTY, LOST, draw("cut", " ")), BEST) is None
    assert select_draw((), BEST) is None


def test_a_whole_one_with_the_answer_that_won_is_delivered():
    cut, whole, other = draw("cut", "7 and", "7"), draw(text="is 7", answer="7"), draw(text="8", answer="8")
    assert select_draw((cut, other, whole), MAJORITY) is whole
    # An answer that several gave is not lost because each of them was cut.
    assert select_draw((cut, other, draw("cut", "7!", "7")), MAJORITY) is cut


def test_a_score_wins_over_all_that_have_none():
    best = draw(text="good", score=0.3)
    assert select_draw((CUT, LONG, best, draw(text="bad", score=0.1)), BEST) is best
