"""Priors: weights of the laws that a question's scores may follow, before its first score."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field
from scipy.special import log_softmax, logsumexp, softmax

from data.arrays import Array
from data.errors import ConfigError, ScoreError
from data.record import Record
from predictor.families import EMPIRICAL, FAMILIES, IMPOSSIBLE, Family, get_family

Coordinate = Annotated[float, Field(ge=-20, le=20)]
_ROUNDS = 100  # of EM, at most
Spread = Annotated[float, Field(gt=0, le=20)]


class Prior(Record):
    """A normal over the family's coordinates: a JSON value, from a predictor or a population."""

    family: str = Field("beta", pattern=f"^({'|'.join(FAMILIES)}|{EMPIRICAL}:.*)$")
    """Score family whose laws it weighs."""
    location: tuple[Coordinate, Coordinate]
    """Centre: logit of the mean score, logit of its dispersion."""
    spread: tuple[Spread, Spread]
    """Standard deviations around the centre; > 0."""
    correlation: float = Field(0.0, gt=-1, lt=1)
    """Correlation of the two coordinates."""
    strength: float = Field(1.0, gt=0, le=1e4)
    """Multiplies the precision: 2 halves the variance. Calibrated on tune questions."""

    def log_weights(self) -> Array:
        """(laws,) log prior weight of each law on the family's grid; they sum to 1. Not to be written to."""
        return _log_weights_of(self)

    def moments(self) -> tuple[float, float]:
        """Expected mean and expected standard deviation of one question's scores, over the laws."""
        family, weights = get_family(self.family), np.exp(self.log_weights())
        return float(weights @ family.mean), float(weights @ family.std)

    @classmethod
    def centred(cls, mean: float, std: float, spread: float = 0.5) -> Self:
        """A prior centred on a mean and a standard deviation of the scores."""
        m = float(np.clip(mean, 0.003, 0.997))
        dispersion = float(np.clip(std**2 / (m * (1 - m)), 0.001, 0.95))
        location = (float(np.log(m / (1 - m))), float(np.log(dispersion / (1 - dispersion))))
        return cls(location=location, spread=(spread, spread))


@dataclass(eq=False)
class PriorBatch:
    """The priors of many questions as arrays, computed once however often a policy asks.

    ``priors[rows]`` are those of some of the questions.
    """

    family: Family
    table: Array
    """(distinct priors, laws) log weights."""
    index: NDArray[np.int64]
    """(questions,) row of the table."""
    strength: Array
    """(distinct priors,) their strengths."""

    @classmethod
    def of(cls, priors: Sequence[Prior]) -> Self:
        """Of one prior a question; equal priors share a row.

        Raises
        ------
        ConfigError
            If there is none, or they are of several families.
        """
        distinct = {prior: row for row, prior in enumerate(dict.fromkeys(priors))}
        if len({p.family for p in distinct}) != 1:
            names = sorted({p.family for p in distinct})
            raise ConfigError(f"priors of one family are needed, and there are {names or 'none'}")
        family = get_family(priors[0].family)
        index = np.array([distinct[p] for p in priors], dtype=np.int64)
        only = next(iter(distinct)) if len(distinct) == 1 else None
        table = only.log_weights()[None] if only else stack_log_weights(list(distinct))
        return cls(family, table, index, np.array([p.strength for p in distinct]))

    @classmethod
    def oracle(cls, population: Prior, scores: ArrayLike) -> Self:
        """Each question's law as all its scores place it, which nobody can know in advance.

        A baseline that shows how much a perfect predictor could save; scores (questions, n).
        """
        family = get_family(population.family)
        table = log_softmax(family.log_likelihood(scores) + population.log_weights(), axis=1)
        return cls(family, table, np.arange(len(table)), np.full(len(table), population.strength))

    def without(self, laws: NDArray[np.int64]) -> Self:
        """The same of questions that are laws of the family themselves: each without its own (-1: none).

        See `Family.own_laws`.
        """
        own = np.flatnonzero(laws >= 0)
        if not own.size:
            return self
        table = self.table[self.index]
        table[own, laws[own]] = IMPOSSIBLE
        strength = self.strength[self.index]
        return type(self)(self.family, log_softmax(table, axis=1), np.arange(len(table)), strength)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: Any) -> Self:
        return replace(self, index=self.index[rows])

    @cached_property
    def moments(self) -> tuple[Array, Array]:
        """Expected mean and expected standard deviation of a question's scores; each (questions,)."""
        weights = np.exp(self.table)
        return (weights @ self.family.mean)[self.index], (weights @ self.family.std)[self.index]


@lru_cache(maxsize=256)  # a question is decided on several times with one prior
def _log_weights_of(prior: Prior) -> Array:
    weights = stack_log_weights([prior])[0]
    weights.flags.writeable = False
    return weights


def stack_log_weights(priors: Sequence[Prior]) -> Array:
    """(priors, laws) log prior weights; all priors of one family."""
    family = get_family(priors[0].family)
    location = np.array([p.location for p in priors])
    scale = np.array([p.spread for p in priors]) / np.sqrt([[p.strength] for p in priors])
    correlation = np.array([p.correlation for p in priors])
    return log_weights(family, location, scale, correlation)


def log_weights(
    family: Family, location: ArrayLike, spread: ArrayLike, correlation: ArrayLike = 0.0
) -> Array:
    """(Q, laws) log weights of normals with location and spread (Q, 2) on the family's grid."""
    centre, scale = np.asarray(location, float)[:, None], np.asarray(spread, float)[:, None]
    z = (family.points[None] - centre) / scale
    rho = np.broadcast_to(np.asarray(correlation, float), len(z))[:, None]
    square = (z[..., 0] ** 2 - 2 * rho * z[..., 0] * z[..., 1] + z[..., 1] ** 2) / (1 - rho**2)
    return log_softmax(family.log_base - 0.5 * square, axis=1)


def log_evidence(priors: Sequence[Prior], likelihood: ArrayLike) -> Array:
    """(questions,) log of the sum over laws of prior times likelihood (questions, laws)."""
    return logsumexp(stack_log_weights(priors) + np.asarray(likelihood), axis=1)


def evidence_slopes(
    family: Family, location: Array, spread: Array, correlation: Array, likelihood: Array
) -> tuple[Array, Array]:
    """Log evidence (questions,) under one normal each, and its slopes (questions, 5).

    ``location`` and ``spread`` are (questions, 2), ``correlation`` (questions,), ``likelihood`` (questions,
    laws). Slopes are in location, in the logarithm of spread and in atanh of the correlation. A law's log
    weight is a square form in its coordinates, so they only need how far the posterior's moments are from
    the prior's.
    """
    points = family.points
    powers = np.column_stack([points, points**2, points.prod(axis=1)])
    inverse, rest = 1 / spread, 1 - correlation**2
    square, cross = -0.5 * inverse**2 / rest[:, None], correlation * inverse.prod(axis=1) / rest
    linear = -2 * square * location - cross[:, None] * location[:, ::-1]
    weights = np.column_stack([linear, square, cross]) @ powers.T + family.log_base
    totals, moments = [], []
    for logs in (weights, weights + likelihood):  # twice as fast as `logsumexp`
        top = logs.max(axis=1, keepdims=True)
        mass = np.exp(logs - top)
        total = mass.sum(axis=1, keepdims=True)
        totals.append((top + np.log(total))[:, 0])
        moments.append(mass @ powers / total)
    shift = moments[1] - moments[0]
    u, v = (shift[:, :2] * inverse).T
    a, b = ((shift[:, 2:4] - 2 * location * shift[:, :2]) * inverse**2).T
    c = (shift[:, 4] - (location * shift[:, 1::-1]).sum(axis=1)) * inverse.prod(axis=1)
    form = (a - 2 * correlation * c + b) / rest
    slopes = [(u - correlation * v) * inverse[:, 0], (v - correlation * u) * inverse[:, 1]]
    slopes += [a - correlation * c, b - correlation * c, rest * (c - correlation * form)]
    return totals[1] - totals[0], np.column_stack(slopes) / rest[:, None]


def posterior_weights(prior: Prior, likelihood: ArrayLike) -> Array:
    """(questions, laws) weight of each law, given the scores whose log-likelihood (questions, laws) it is."""
    return softmax(np.asarray(likelihood) + prior.log_weights(), axis=1)


def posterior_moments(prior: Prior, likelihood: ArrayLike) -> tuple[Array, Array]:
    """Mean (questions, 2) and covariance (questions, 2, 2) of the coordinates, given the scores."""
    points = get_family(prior.family).points
    weights = posterior_weights(prior, likelihood)
    mean = weights @ points
    square = np.einsum("ql,li,lj->qij", weights, points, points)
    return mean, square - mean[:, :, None] * mean[:, None, :]


def fit_population(scores: ArrayLike, family_name: str = "beta") -> Prior:
    """Empirical Bayes: the one prior that makes all questions' scores most likely (by EM).

    The laws of an empirical family are the population already: its prior weighs them alike.

    Parameters
    ----------
    scores : (questions, n) scores, NaN where there is none.

    Raises
    ------
    ScoreError
        If there are no questions.
    """
    family = get_family(family_name)
    if not len(np.asarray(scores)):
        raise ScoreError("there are no questions to fit a population's prior on: collect scored candidates")
    if family.made_of is not None:
        return _to_prior(family_name, *_normal(family, np.full(len(family.mean), 1 / len(family.mean))))
    likelihood = family.log_likelihood(scores)
    relative = np.exp(likelihood - likelihood.max(axis=1, keepdims=True))
    location, spread, correlation = np.array([0.0, 0.0]), np.array([2.0, 2.0]), 0.0
    for _ in range(_ROUNDS):
        prior = log_weights(family, location[None], spread[None], correlation).ravel()
        evidence = relative @ np.exp(prior)
        far = evidence < 1e-200  # the prior has nothing where these questions' scores are likely
        share = np.divide(1.0, evidence, out=np.zeros_like(evidence), where=~far)
        weights = np.exp(prior) * (share @ relative)
        if far.any():
            weights += softmax(likelihood[far] + prior, axis=1).sum(axis=0)
        before = location
        location, spread, correlation = _normal(family, weights / len(likelihood))
        if np.abs(location - before).max() < 1e-4:
            break
    return _to_prior(family_name, location, spread, correlation)


def _normal(family: Family, weights: Array) -> tuple[Array, Array, float]:
    """Mean, standard deviations and correlation of the coordinates under weights (laws,)."""
    location = weights @ family.points
    away = family.points - location
    covariance = (away * weights[:, None]).T @ away
    spread = np.sqrt(np.maximum(np.diag(covariance), 0.05**2))
    return location, spread, float(np.clip(covariance[0, 1] / spread.prod(), -0.95, 0.95))


def _to_prior(family: str, location: Array, spread: Array, correlation: float) -> Prior:
    normal = {"location": location.tolist(), "spread": spread.tolist(), "correlation": correlation}
    return Prior.model_validate({"family": family} | normal)
