"""Goals: what stopping early may cost, in the words of who pays for it.

Everything is counted against a reference: all candidates of the cap under the best selection, or what its
user runs today.
"""

from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from data.arrays import Array, IntArray
from data.candidates import Candidates
from data.record import Record
from predictor.selection import Selection
from predictor.votes import Votes

Loss = Literal["lost_accuracy", "changed", "lost_hit", "lost_answer"]
"""What is promised of: right answers fewer than the reference's; answers that differ from its; questions on
which it reaches the target score and the policy does not; the first without the answers won, which is read in
certificates of earlier releases alone."""
SelectionKind = Literal["best_score", "majority", "weighted_vote"]
LOSE, CHANGE = 0.03, 0.05
NAMES = ("lose", "change", "hit", "spend", "price_per_point")
LOSSES: dict[str, Loss] = {"lose": "lost_accuracy", "change": "changed", "hit": "lost_hit"}


class Reference(Record):
    """What policies are held against."""

    n: int | None = Field(None, ge=1)
    """Candidates a question; null: all of the cap."""
    select: SelectionKind | None = None
    """How the answer is chosen; null: as is right most often with all candidates on train and tune."""


class Goal(Record):
    """One goal, named by giving it; ``lose: 0.03`` where none is.

    Where the pool knows no verdict, the default is ``change: 0.05``.
    """

    lose: float | None = Field(None, gt=0, lt=1)
    """Accuracy: how much smaller the share of right answers may be than the reference's."""
    change: float | None = Field(None, gt=0, lt=1)
    """Share of questions whose answer may differ from the reference's. It needs no verdict, and the accuracy
    lost is never more."""
    hit: float | None = Field(None, gt=0, lt=1)
    """Share of questions on which a target score may be missed that the reference reaches."""
    target: float | None = Field(None, gt=0, le=1)
    """Score that counts as a hit; null: chosen on train and tune questions."""
    spend: float | None = Field(None, gt=0, lt=1)
    """Share of the full cap's tokens to spend at most; nothing is promised, what is lost is reported."""
    price_per_point: float | None = Field(None, gt=0)
    """What a point of accuracy is worth on a thousand questions, in the currency of ``prices`` (where they
    are 0, in millions of generated tokens); nothing is promised, what is lost is reported."""
    delta: float = Field(0.1, gt=0, lt=1)
    """Chance that a promise is wrong all the same, over the draw of calibration questions."""
    reference: Reference = Reference()
    """What policies are held against."""
    rounds: float | None = Field(None, ge=1)
    """Rounds a question at most, on average."""

    @model_validator(mode="after")
    def _one_is_named(self) -> Self:
        if len(named := [name for name in NAMES if getattr(self, name) is not None]) > 1:
            raise ValueError(
                f"{' and '.join(named)} are named; a goal is one of them: set the others to null"
            )
        if self.target is not None and self.hit is None:
            raise ValueError("a target score is for the goal `hit`: give the share of hits that may be lost")
        return self

    def resolve(self, known: bool) -> Self:
        """With the default named; ``known``: whether the pool has verdicts."""
        if any(getattr(self, name) is not None for name in NAMES):
            return self
        default: dict[str, Any] = {"lose": LOSE} if known else {"change": CHANGE}
        return self.model_copy(update=default)

    @property
    def name(self) -> str:
        """Which it is; `resolve` it first."""
        return next(name for name in NAMES if getattr(self, name) is not None)

    @property
    def loss(self) -> Loss:
        """What it counts: accuracy where it promises nothing."""
        return LOSSES.get(self.name, "lost_accuracy")

    @property
    def epsilon(self) -> dict[Loss, float]:
        """The risk that is promised; empty where nothing is."""
        return {LOSSES[self.name]: getattr(self, self.name)} if self.name in LOSSES else {}


class Judge(Record):
    """Tells success from failure after each candidate, so that a loss is a success less: the reference's."""

    loss: Loss = "lost_accuracy"
    n: int | None = None
    """Candidates of the reference; None: all."""
    selection: Selection = Selection(kind="majority")
    """The reference's."""
    target: float = 1.0
    """Score that is a hit, for lost hits."""

    def judge(self, candidates: Candidates, votes: Votes) -> tuple[Array, Array]:
        """(questions, n) success of stopping after each candidate, and (questions,) the reference's.

        NaN where no verdict is known; ``votes`` are those of the selection that is judged.
        """
        last = (self.n or candidates.answers.shape[1]) - 1
        if self.loss == "lost_hit":
            reached = np.maximum.accumulate(np.nan_to_num(candidates.scores) >= self.target, axis=1) * 1.0
            return reached, reached[:, last]
        reference = self.selection.count(candidates.answers, candidates.scores)
        if self.loss == "changed":
            same = same_answer(votes, reference.answer[:, [last]], reference.chosen[:, [last]])
            return same * 1.0, np.ones(len(same))
        right = np.take_along_axis(candidates.correct, votes.chosen, axis=1)
        return right, np.take_along_axis(candidates.correct, reference.chosen[:, [last]], axis=1)[:, 0]


def same_answer(votes: Votes, answer: IntArray, chosen: IntArray) -> np.ndarray:
    """(questions, n) whether the answer is another's (questions, 1); without answers the same candidate."""
    return np.where(answer >= 0, votes.answer == answer, votes.chosen == chosen)
