"""Questions that a predictor was fitted on certify and report nothing of it."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from data.errors import ModelError
from data.scores import ScoreTable
from predictor.learned.card import REFIT, PredictorCard


class Unread(NamedTuple):
    """A pool's table without what may not be looked at."""

    table: ScoreTable
    left_out: dict[str, int]
    """Questions of the calibration and of the test fold that were left out, where there were any."""


def leave_out_read(table: ScoreTable, card: PredictorCard) -> Unread:
    """Leave out the calibration and test questions that a predictor has read.

    With the folds of training there are none; with other folds, or after a fit on the whole pool, there are.

    Raises
    ------
    ModelError
        If every question of a fold was.
    """
    ids = set(card.read)
    read = np.array([question.id in ids for question in table.questions])
    left_out = {}
    for name in ("calibration", "test"):
        inside = table.folds == name
        if count := int((inside & read).sum()):
            left_out[name] = count
            if count == inside.sum():
                raise ModelError(
                    f"the predictor has read every question of the {name} fold ({count}): take the folds it "
                    f"was trained with, or collect more questions; {REFIT}/ has read the whole pool, the "
                    "predictor in the folder above it has not"
                )
    return Unread(table.select(~(read & np.isin(table.folds, list(left_out)))), left_out)


def describe_left_out(left_out: Mapping[str, int]) -> str:
    """In words, for a page or a log; empty where nothing was left out."""
    if not left_out:
        return ""
    counts = " and ".join(f"{count} {name}" for name, count in left_out.items())
    return f"{counts} questions were left out: the predictor was fitted on them."
