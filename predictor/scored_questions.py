"""Questions' scores and the priors that were given for them, side by side."""

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from data.candidates import Candidates
from data.folds import Fold
from data.scores import ScoreTable
from predictor.prior import PriorBatch


class ScoredQuestions(NamedTuple):
    """Scored questions with a prior each."""

    table: ScoreTable
    priors: PriorBatch
    """One prior a question of the table."""

    def select(self, rows: NDArray[np.bool_]) -> Self:
        """The questions where ``rows`` is true."""
        return type(self)(self.table.select(rows), self.priors[rows])

    def full(self, cap: int) -> Self:
        """See `ScoreTable.full`."""
        return type(self)(self.table.full(cap), self.priors[self.table.drawn >= cap])

    def fold(self, *names: Fold) -> Self:
        """The questions of these folds."""
        return self.select(np.isin(self.table.folds, names))

    def candidates(self, cap: int) -> Candidates:
        """See `ScoreTable.candidates`."""
        return self.table.candidates(cap)
