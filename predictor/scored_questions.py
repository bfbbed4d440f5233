"""Questions' scores and the priors that were given for them, side by side."""

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from data.candidates import Candidates
from data.errors import ConfigError
from data.folds import Fold
from data.scores import ScoreTable
from predictor.prior import PriorBatch


class ScoredQuestions(NamedTuple):
    """Scored questions with a prior each."""

    table: ScoreTable
    priors: PriorBatch | None
    """One prior a question of the table; None where the pool has no scores to have one of."""

    def select(self, rows: NDArray[np.bool_]) -> Self:
        """The questions where ``rows`` is true."""
        return type(self)(self.table.select(rows), None if self.priors is None else self.priors[rows])

    def full(self, cap: int) -> Self:
        """See `ScoreTable.full`."""
        full, priors = self.table.full(cap), self.priors
        return type(self)(full, None if priors is None else priors[self.table.drawn >= cap])

    def fold(self, *names: Fold) -> Self:
        """The questions of these folds."""
        return self.select(np.isin(self.table.folds, names))

    def require_priors(self) -> PriorBatch:
        """The priors; raises ConfigError where there are none."""
        if self.priors is None:
            raise ConfigError("this pool has no scores, and so no priors of scores: use what goes by answers")
        return self.priors

    def candidates(self, cap: int) -> Candidates:
        """See `ScoreTable.candidates`."""
        return self.table.candidates(cap)
