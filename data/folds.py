"""Folds: which questions fit, which tune, which certify, which report.

A question's fold is a hash of its id (or of its group), so it changes no sides as the pool grows, as long as
the shares stay as they are. Of a small pool more questions certify, unless other shares are given.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from data.files import short_digest
from data.record import Record

SMALL = 1000
"""Questions below which a pool is divided for the certificate's sake."""
SMALL_SHARES = {"train": 0.2, "tune": 0.2, "calibration": 0.4, "test": 0.2}
Fold = Literal["train", "tune", "calibration", "test"]


class FoldSettings(Record):
    """Shares of the four folds; they sum to 1. The default is for pools of a thousand questions and more."""

    train: float = Field(0.45, gt=0, lt=1)
    """Fits predictor and population prior."""
    tune: float = Field(0.1, gt=0, lt=1)
    """Early stopping, prior strength, choices."""
    calibration: float = Field(0.225, gt=0, lt=1)
    """For the certificate alone; each further one on the same questions wears its promise out."""
    test: float = Field(0.225, gt=0, lt=1)
    """Reported on, and asked by the gate whether a predictor is promoted; nothing else is chosen on it."""
    by: Literal["question", "group"] = "question"
    """Hash the question id, or the group, so that a whole group lies on one side."""
    seed: str = ""
    """Another one deals all questions anew: for figures over several divisions, never for a pool in use."""

    @model_validator(mode="after")
    def _sums_to_one(self) -> Self:
        total = self.train + self.tune + self.calibration + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of the folds sum to {total:g}, not to 1")
        return self

    def sized(self, questions: int) -> Self:
        """The shares for a pool of so many questions: a small one certifies on more of them.

        Other shares than the default ones stay as they are. As a pool outgrows `SMALL`, questions change
        sides once; a predictor's card tells which ones it has read, and these certify nothing.
        """
        default = all(getattr(self, name) == type(self).model_fields[name].default for name in SMALL_SHARES)
        return self.model_copy(update=SMALL_SHARES) if default and questions < SMALL else self

    def fold_of(self, question_id: str, group: str | None = None) -> Fold:
        """The fold of a question."""
        key = group if self.by == "group" and group is not None else question_id
        place = int(short_digest(f"fold:{self.seed}{key}")[:12], 16) / 16**12
        if place < self.train:
            return "train"
        if place < self.train + self.tune:
            return "tune"
        return "calibration" if place < 1 - self.test else "test"
