"""Is the selected answer right? P(correct | selected maximum, candidates drawn, prior)."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field, model_validator
from scipy.optimize import minimize
from scipy.special import expit

from data.arrays import Array
from data.candidates import Candidates
from data.contract import require_scores
from data.errors import ScoreError
from data.record import Record
from predictor.replay import best_of, pick

_SIZES = tuple(2**power for power in range(10))


class Correctness(Record):
    """A logistic law of the chance that the best-scored answer is right; a JSON value.

    The log-odds are a curve of the maximum, straight between knots, plus ``drawn`` x log(candidates
    drawn), plus ``prior`` x prior mean score. The same maximum of more candidates is more often a lucky
    score (the winner's curse), so the signs are held: the chance only rises with the maximum and the
    prior mean, and only falls with the number drawn. It is learned at numbers fixed in advance.
    """

    knots: tuple[float, ...]
    """Maxima from 0 to 1, rising."""
    log_odds: tuple[float, ...]
    """At each knot, for one candidate and a prior mean of 0; none below the one before."""
    drawn: float = Field(le=0)
    """Log-odds per unit of log(candidates drawn)."""
    prior: float = Field(ge=0)
    """Log-odds per unit of the mean score expected before the first candidate."""

    @model_validator(mode="after")
    def _rises(self) -> Self:
        bent = np.any(np.diff(self.knots) <= 0) or np.any(np.diff(self.log_odds) < 0)
        if bent or len(self.knots) != len(self.log_odds):
            raise ValueError("knots and log_odds must rise together, one log_odds a knot")
        return self

    @classmethod
    def fit(
        cls, best: ArrayLike, drawn: ArrayLike, prior_mean: ArrayLike, correct: ArrayLike, ridge: float = 1.0
    ) -> Self:
        """Maximum likelihood less ridge / 2 times the squared weights (rises between knots, slopes).

        Parameters
        ----------
        best : (rows,) best score among the candidates drawn, in [0, 1].
        drawn : (rows,) their number, at least 1.
        prior_mean : (rows,) mean score expected before the first candidate, in [0, 1].
        correct : (rows,) 1 or 0 for the selected answer; rows that are NaN are left out.

        Raises
        ------
        ScoreError
            If a value is out of its range, or the known answers are not some right and some wrong.
        """
        known = ~np.isnan(np.asarray(correct, float))
        top, many, before = (values[known] for values in _inputs(best, drawn, prior_mean))
        right = np.asarray(correct, float)[known]
        if not 0 < right.sum() < right.size:
            raise ScoreError(
                f"of {right.size} selected answers known to be right or wrong {right.sum():.0f} are right; "
                "learning the chance of being right takes some of both"
            )
        knots = np.unique([0.0, *np.quantile(top, np.arange(1, 10) / 10).round(6), 1.0])
        ramps = np.clip((top[:, None] - knots[:-1]) / np.diff(knots), 0, 1)
        x = np.column_stack([np.ones(len(top)), ramps, many, before])
        penalty = np.append(0.0, np.full(x.shape[1] - 1, ridge))

        def loss(w: Array) -> tuple[float, Array]:
            z = x @ w
            value = np.logaddexp(0, z).sum() - right @ z + penalty @ w**2 / 2
            return float(value), x.T @ (expit(z) - right) + penalty * w

        signs = [(None, None), *[(0, None)] * ramps.shape[1], (None, 0), (0, None)]
        w = minimize(loss, np.zeros(x.shape[1]), jac=True, bounds=signs, method="L-BFGS-B").x
        return cls(knots=tuple(knots), log_odds=tuple(w[:-2].cumsum()), drawn=w[-2], prior=w[-1])

    def predict(self, best: ArrayLike, drawn: ArrayLike, prior_mean: ArrayLike) -> Array:
        """(rows,) chance in (0, 1) that the best-scored of ``drawn`` candidates is right; see `fit`."""
        top, many, before = _inputs(best, drawn, prior_mean)
        curve = np.interp(top, self.knots, self.log_odds)
        return expit(curve + self.drawn * many + self.prior * before)


def _inputs(best: ArrayLike, drawn: ArrayLike, prior_mean: ArrayLike) -> tuple[Array, Array, Array]:
    """Maxima, log of the numbers drawn, prior means; checked."""
    many = np.asarray(drawn, float)
    if not (many >= 1).all():
        raise ScoreError("a best score is that of at least one candidate drawn")
    return require_scores(best, "best scores"), np.log(many), require_scores(prior_mean, "prior means")


def training_rows(
    candidates: Candidates, prior_mean: Array, sizes: Sequence[int] = _SIZES
) -> tuple[Array, Array, Array, Array]:
    """Selections among the first n candidates, for each n of ``sizes`` that there are.

    ``prior_mean`` is (questions,). Returns best, drawn, prior_mean and correct as `Correctness.fit`
    takes them, each (sizes x questions,), size by size.
    """
    sizes = [n for n in sizes if n <= candidates.scores.shape[1]]
    selected = [best_of(candidates.scores[:, :size]) for size in sizes]
    best = np.concatenate([score for score, _ in selected])
    correct = np.concatenate([pick(candidates.correct, column) for _, column in selected])
    return best, np.repeat(sizes, len(prior_mean)).astype(float), np.tile(prior_mean, len(sizes)), correct


class ReliabilityBin(NamedTuple):
    """Predicted chances of about the same size."""

    predicted: float
    """Their mean."""
    observed: float
    """Share that was right."""
    number: int


def reliability(predicted: Array, correct: Array, bins: int = 10) -> list[ReliabilityBin]:
    """Compare chances with what happened, in bins of about as many rows each.

    Equal chances share a bin, so there may be fewer; rows whose correctness is NaN are left out.
    """
    chance, right = predicted[~np.isnan(correct)], correct[~np.isnan(correct)]
    edges: Array = np.quantile(chance, np.arange(1, bins) / bins) if chance.size else chance
    place = np.searchsorted(np.unique(edges), chance)
    groups = [(chance[place == bin_], right[place == bin_]) for bin_ in np.unique(place)]
    return [ReliabilityBin(float(p.mean()), float(r.mean()), len(p)) for p, r in groups]
