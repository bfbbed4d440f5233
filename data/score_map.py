"""A map of raw scores (rewards, log-likelihoods, ranks) to [0, 1], by their rank among scores seen before."""

from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from data.errors import ScoreError
from data.record import Record

KNOTS = 512


class ScoreMap(Record):
    """The share of the scores it was fitted on that lie below a score, half of those equal to it included.

    Between knots it is linear; below the least value it is 0 and above the greatest 1.
    """

    kind: Literal["rank"] = "rank"
    values: tuple[float, ...] = Field(min_length=1)
    """Raw scores at the knots, increasing."""
    ranks: tuple[float, ...]
    """(values,) what they are mapped to, increasing in [0, 1]."""

    @model_validator(mode="after")
    def _is_monotone(self) -> Self:
        if len(self.values) != len(self.ranks):
            raise ValueError(f"{len(self.values)} values, but {len(self.ranks)} ranks")
        if (np.diff(self.values) <= 0).any() or (np.diff([0.0, *self.ranks, 1.0]) < 0).any():
            raise ValueError("values must increase, and ranks must not fall and lie in [0, 1]")
        return self

    @classmethod
    def fit(cls, raw: ArrayLike) -> Self:
        """The map of scores of any shape; NaN, a candidate without a score, is left out.

        Raises
        ------
        ScoreError
            If there is no score, or an infinite one.
        """
        found = np.asarray(raw, dtype=float).ravel()
        found = found[~np.isnan(found)]
        if not found.size or not np.isfinite(found).all():
            raise ScoreError(
                "a map of raw scores is fitted on finite scores; there is none, or an infinite one"
            )
        values, counts = np.unique(found, return_counts=True)
        ranks = (counts.cumsum() - counts / 2) / found.size
        if len(values) > KNOTS:  # the values nearest to equally spaced ranks
            levels = np.linspace(ranks[0], ranks[-1], KNOTS)
            chosen = np.unique(np.searchsorted(ranks, levels).clip(max=len(values) - 1))
            values, ranks = values[chosen], ranks[chosen]
        return cls(values=tuple(values.tolist()), ranks=tuple(ranks.tolist()))

    def apply(self, raw: ArrayLike) -> NDArray[np.float64]:
        """Scores in [0, 1], of the shape of ``raw``; NaN stays NaN."""
        return np.interp(np.asarray(raw, dtype=float), self.values, self.ranks, left=0.0, right=1.0)
