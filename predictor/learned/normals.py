"""Normals over a question's law: from a regression's or a network's output to priors."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.arrays import Array
from predictor.families import Family, get_family
from predictor.prior import Prior

OUTPUTS = 5
"""Location and log spread on each of the family's two coordinates, and atanh of their correlation."""
_LOG_SPREAD = (-2.5, 1.5)
_ATANH_CORRELATION = (-1.8, 1.8)


def output_limits(family: Family) -> Array:
    """(2, 5) least and largest output that predictions are made of: beyond, they are clipped."""
    grid = zip(family.points.min(axis=0), family.points.max(axis=0), strict=True)
    return np.array([*grid, _LOG_SPREAD, _LOG_SPREAD, _ATANH_CORRELATION]).T


def to_normals(output: NDArray[Any]) -> tuple[Array, Array]:
    """Locations (questions, 2) and covariances (questions, 2, 2) from outputs (questions, 5)."""
    spread = np.exp(np.clip(output[:, 2:4], *_LOG_SPREAD))
    correlation = np.tanh(np.clip(output[:, 4], *_ATANH_CORRELATION))
    related = np.repeat(np.eye(2)[None], len(output), axis=0)
    related[:, 0, 1] = related[:, 1, 0] = correlation
    return output[:, :2], related * spread[:, :, None] * spread[:, None, :]


def to_outputs(location: Array, covariance: Array) -> Array:
    """(questions, 5) of which `to_normals` makes these (questions, 2) and (questions, 2, 2)."""
    spread = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    correlation = covariance[:, 0, 1] / spread.prod(axis=1)
    return np.column_stack([location, np.log(spread), np.arctanh(correlation)])


def make_priors(
    location: Array, covariance: Array, share: Array, population: Prior, strength: float = 1.0
) -> list[Prior]:
    """Priors (questions,) that give the population's a ``share``: a mixture's mean and covariance.

    ``location`` is (questions, 2), ``covariance`` (questions, 2, 2), ``share`` (questions,) in [0, 1].
    """
    points = get_family(population.family).points
    flat, spread = np.array(population.location), np.array(population.spread)
    wide = np.outer(spread, spread) * np.array([[1, population.correlation], [population.correlation, 1]])
    centre = np.clip(location, points.min(axis=0), points.max(axis=0))
    part, block = share[:, None], share[:, None, None]
    mixed = (1 - part) * centre + part * flat
    apart = (centre - flat)[:, :, None] * (centre - flat)[:, None, :]
    total = (1 - block) * covariance + block * wide + block * (1 - block) * apart
    deviation = np.sqrt(np.maximum(np.diagonal(total, axis1=1, axis2=2), 1e-4))
    correlation = np.clip(total[:, 0, 1] / deviation.prod(axis=1), -0.95, 0.95)
    return [
        Prior(family=population.family, location=m, spread=d, correlation=r, strength=strength)
        for m, d, r in zip(mixed.tolist(), deviation.tolist(), correlation.tolist(), strict=True)
    ]
