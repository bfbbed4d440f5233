"""Folds: which questions fit, which tune, which certify, which report.

A question's fold is a hash of its id (or of its group), so it changes no sides as the pool grows,
as long as the shares stay as they are.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from data.files import short_digest
from data.record import Record

Fold = Literal["train", "tune", "calibration", "test"]


class FoldSettings(Record):
    """Shares of the four folds; they sum to 1."""

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

    @model_validator(mode="after")
    def _sums_to_one(self) -> Self:
        total = self.train + self.tune + self.calibration + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of the folds sum to {total:g}, not to 1")
        return self

    def fold_of(self, question_id: str, group: str | None = None) -> Fold:
        """The fold of a question."""
        key = group if self.by == "group" and group is not None else question_id
        place = int(short_digest(f"fold:{key}")[:12], 16) / 16**12
        if place < self.train:
            return "train"
        if place < self.train + self.tune:
            return "tune"
        return "calibration" if place < 1 - self.test else "test"
