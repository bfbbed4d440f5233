"""Score families on a fixed grid: every law a question's scores may follow, as one table.

A family is a grid of laws and a table ``log_mass[bin, law]`` of log P(score in bin | law). Scores
are counted in bins, so ties, rounding and scores of exactly 0 or 1 need no special case, and the
log-likelihood of a question is a sum of rows. All families share two coordinates: the logit of the
mean, and the logit of the dispersion var / (mean (1 - mean)), which lies in (0, 1) for any law on
[0, 1]. A prior in these coordinates therefore means the same under every family.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, expit

from predictor.errors import ConfigError

Array = NDArray[np.float64]

BINS = 200
# A law gives every bin at least this share of its mass: one odd score then costs some 20 nats at
# most and cannot rule a law out by itself.
FLOOR = 1e-6
_LOGIT_MEAN = np.linspace(-6.0, 6.5, 51)
_LOGIT_DISPERSION = np.linspace(-7.0, 3.0, 31)


@dataclass(frozen=True, eq=False)
class Family:
    """A grid of laws; see the module."""

    name: str
    points: Array
    """(laws, 2) logit of the mean and of the dispersion."""
    edges: Array
    """(bins + 1,) bin k holds scores in [edges[k], edges[k + 1]), the last one also 1."""
    log_mass: Array
    """(bins, laws) log P(score in bin | law)."""
    mean: Array
    """(laws,) mean score."""
    std: Array
    """(laws,) standard deviation of a score."""

    def bin(self, scores: ArrayLike) -> NDArray[np.int64]:
        """Bin of each score; any shape."""
        found = np.searchsorted(self.edges, np.asarray(scores, float), side="right") - 1
        return np.clip(found, 0, len(self.edges) - 2)

    def counts(self, scores: ArrayLike) -> Array:
        """(questions, bins) counts of scores (questions, n); NaN stands for no score."""
        scores = np.atleast_2d(np.asarray(scores, float))
        table = np.zeros((len(scores), len(self.edges) - 1))
        rows, columns = np.nonzero(~np.isnan(scores))
        np.add.at(table, (rows, self.bin(scores[rows, columns])), 1)
        return table

    def log_likelihood(self, scores: ArrayLike) -> Array:
        """(questions, laws) log-likelihood of scores (questions, n); NaN stands for no score."""
        likelihood: Array = self.counts(scores) @ self.log_mass
        return likelihood

    def log_miss(self, target: float) -> Array:
        """(laws,) log P(score < target); the target must be an edge.

        Raises
        ------
        ConfigError
            If the target lies inside a bin, or outside (0, 1].
        """
        at = int(np.abs(self.edges - target).argmin())
        if abs(self.edges[at] - target) > 1e-9 or at == 0:
            raise ConfigError(
                f"target {target} is not one of the family's bin edges; give a multiple of "
                f"{1 / (len(self.edges) - 1):g} in (0, 1]"
            )
        hit = np.exp(self.log_mass[at:]).sum(axis=0)
        miss = np.exp(self.log_mass[:at]).sum(axis=0)
        # Whichever side is small carries the digits.
        return np.where(hit < 0.5, np.log1p(-np.minimum(hit, 0.5)), np.log(np.maximum(miss, 1e-300)))


def _build(name: str, cdf: Callable[[Array, Array, Array], Array]) -> Family:
    mean, dispersion = (g.ravel() for g in np.meshgrid(_LOGIT_MEAN, _LOGIT_DISPERSION))
    points = np.stack([mean, dispersion], axis=1)
    edges = np.arange(BINS + 1) / BINS  # the doubles nearest to .005, .95, … as scores are written
    below = cdf(edges[:, None], expit(mean), expit(dispersion))
    mass = (1 - FLOOR) * np.diff(below, axis=0) + FLOOR / BINS
    m, rho = expit(mean), expit(dispersion)
    return Family(name, points, edges, np.log(mass), m, np.sqrt(m * (1 - m) * rho))


def _beta_cdf(x: Array, mean: Array, dispersion: Array) -> Array:
    total = 1 / dispersion - 1
    cdf: Array = betainc(mean * total, (1 - mean) * total, x)
    return cdf


_FAMILIES = {"beta": _beta_cdf}
FAMILIES = tuple(_FAMILIES)


@lru_cache(maxsize=8)
def get_family(name: str) -> Family:
    """The family of that name, its table built once.

    Raises
    ------
    ConfigError
        If there is no such family.
    """
    if name not in _FAMILIES:
        raise ConfigError(f"no score family {name!r}; there are {', '.join(_FAMILIES)}")
    return _build(name, _FAMILIES[name])
