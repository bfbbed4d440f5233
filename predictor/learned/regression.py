"""Kernel ridge regression: from how like the training questions one is, to a normal over its law.

It is the mean of a Gaussian process, so leaving one question out has a closed form, and what is predicted of
a question falls back to the training questions' average where no training question is like it.

Four moments are predicted of a question: the two coordinates of its law, and the mean and standard deviation
of its scores, which are what most losses ask for and no function of expected coordinates. A map with
squares, fitted on the evidence of left-out questions, makes a normal of them (`fit_map`).
"""

from collections.abc import Sequence
from itertools import product
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logit

from data.arrays import Array
from predictor.families import get_family
from predictor.learned.normals import OUTPUTS, output_limits, to_normals
from predictor.prior import Prior, evidence_slopes, posterior_moments, posterior_weights

NOISES = np.array([0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1, 2, 5, 20, 100])
_WEIGHTS = (0.0, 0.01, 0.03, 0.1)
_SAMPLE = 600  # questions on which weights are chosen: more choose alike, and take as many times longer cubed
_MANY = 4000  # questions on which the map is fitted
_NEIGHBOURS = 5
_MOVE = 0.1  # standard deviation of the prior on an entry of `fit_map`
_STEPS = 40  # of the optimiser, at most
_CHUNK = 256  # questions whose weights are held at once


class Regression:
    """Fitted coefficients; ``arrays`` hold all that is learnt."""

    def __init__(self, arrays: dict[str, NDArray[Any]]) -> None:
        self.arrays = arrays
        """``centre`` (4,), ``dual`` (n, 4), ``noise`` (4,) the ridge of each moment, ``left_out`` (n, 4) what
        the others predict of each training question, ``distance`` (n,) to the nearest others, ``map`` (9, 5)
        of `fit_map`."""

    @classmethod
    def fit(cls, gram: Array, likelihood: Array, population: Prior) -> Self:
        """Fit on the kernel among training questions (n, n), and their likelihood (n, laws)."""
        target, apart = moments(population, likelihood), gram.copy()
        np.fill_diagonal(apart, -np.inf)
        dual, error = leave_one_out(gram, target)
        columns = range(target.shape[1])
        rows = (error**2).mean(axis=1).argmin(axis=0)
        left_out = target - error[rows, :, columns].T
        return cls(
            {
                "centre": target.mean(axis=0),
                "dual": dual[rows, :, columns].T,
                "noise": NOISES[rows],
                "left_out": left_out,
                "distance": distance(apart),
                "map": fit_map(left_out, target, likelihood, population),
            }
        )

    def predict(self, kernel: Array) -> Array:
        """(questions, 4) moments from their kernel with the training questions (questions, n)."""
        return np.asarray(self.arrays["centre"] + kernel @ self.arrays["dual"])

    def normals(self, predicted: Array) -> tuple[Array, Array]:
        """Location (questions, 2) and covariance (questions, 2, 2) from moments (questions, 4)."""
        return to_normals(_terms(predicted, self.arrays["left_out"]) @ self.arrays["map"])


def mix(kernels: Sequence[Array], weights: Sequence[float]) -> Array:
    """Kernels (a, n), each 1 of a question with itself, as one such kernel."""
    found = sum(w * k for w, k in zip(weights, kernels, strict=True) if w)
    return np.asarray(found / sum(weights))


def choose_weights(kernels: Sequence[Array], target: Array) -> tuple[float, ...]:
    """Weights with the least squared error on questions left out, each moment (n, 4) on its scale.

    The first kernel's is 1; those of the others are tried on a grid.
    """
    grid = [(1.0, *rest) for rest in product(_WEIGHTS, repeat=len(kernels) - 1)]
    rows = some(np.arange(len(target)), _SAMPLE)
    target, part, errors = target[rows], np.ix_(rows, rows), []
    for weights in grid if len(grid) > 1 else ():
        _, error = leave_one_out(mix([kernel[part] for kernel in kernels], weights), target)
        errors.append(((error**2).mean(axis=1) / (target.var(axis=0) + 1e-12)).min(axis=0).sum())
    return grid[int(np.argmin(errors))] if errors else grid[0]


def leave_one_out(gram: Array, target: Array) -> tuple[Array, Array]:
    """Dual coefficients, and errors on each question left out, with every noise: (noises, n, moments)."""
    values, vectors = np.linalg.eigh(gram)
    turned = vectors.T @ (target - target.mean(axis=0))
    inverse = 1 / (np.maximum(values, 0.0) + NOISES[:, None])
    dual = vectors @ (inverse[:, :, None] * turned)
    return dual, dual / (inverse @ (vectors**2).T)[:, :, None]


def moments(population: Prior, likelihood: Array) -> Array:
    """(questions, 4) law of each question as its own scores and the population's prior place it.

    Expected coordinates, expected mean and standard deviation of its scores.
    """
    family, weights = get_family(population.family), posterior_weights(population, likelihood)
    return np.column_stack([weights @ family.points, weights @ family.mean, weights @ family.std])


def distance(kernel: Array) -> Array:
    """(questions,) 1 - the mean kernel with the nearest training questions, from (questions, n)."""
    count = min(_NEIGHBOURS, kernel.shape[1])
    nearest = np.partition(kernel, -count, axis=1)[:, -count:]
    return np.asarray(1 - np.maximum(nearest, 0.0).mean(axis=1))


def fit_map(left_out: Array, target: Array, likelihood: Array, population: Prior) -> Array:
    """(9, 5) from `_terms` of moments to `to_normals`' outputs.

    It starts from the coordinates predicted and the one covariance that remains (error on questions left
    out, and the posterior's own), and moves from there as far as the evidence of left-out questions asks
    for against a normal prior on each entry: where questions are harder to predict, spread is larger. The
    evidence is that of the outputs as predictions clip them, and the start stays where none is better.
    """
    rows, family = some(np.arange(len(left_out)), _MANY), get_family(population.family)
    terms, limits = _terms(left_out[rows], left_out), output_limits(family)
    start = np.zeros((terms.shape[1], OUTPUTS))
    scale = np.maximum(left_out.std(axis=0), 1e-6)
    start[0, :2], start[1, 0], start[2, 1] = left_out.mean(axis=0)[:2], scale[0], scale[1]
    error = (target - left_out)[:, :2]
    rest = error.T @ error / len(error) + posterior_moments(population, likelihood)[1].mean(axis=0)
    spread = np.sqrt(np.maximum(np.diag(rest), 1e-4))
    start[0, 2:4] = np.log(spread)
    start[0, 4] = np.arctanh(np.clip(rest[0, 1] / spread.prod(), -0.95, 0.95))
    start[0, 2:] = np.clip(start[0, 2:], *limits[:, 2:])  # beyond the limits nothing has a slope

    def loss(moved: Array) -> tuple[float, Array]:
        """Minus the log evidence and the log prior, a question, and the slopes (45,)."""
        output = terms @ (start + moved.reshape(start.shape))
        clipped = np.clip(output, *limits)
        evidence, slopes = np.empty(len(rows)), np.empty_like(output)
        for part in np.array_split(np.arange(len(rows)), -(-len(rows) // _CHUNK)):
            location, spread, related = clipped[part, :2], np.exp(clipped[part, 2:4]), clipped[part, 4]
            evidence[part], slopes[part] = evidence_slopes(
                family, location, spread, np.tanh(related), likelihood[rows[part]]
            )
        gained = (terms.T @ np.where(clipped == output, slopes, 0.0)).ravel()
        value = moved @ moved / (2 * _MOVE**2) - evidence.sum()
        return value / len(rows), (moved / _MOVE**2 - gained) / len(rows)

    still = np.zeros(start.size)
    found = minimize(loss, still, jac=True, method="L-BFGS-B", options={"maxiter": _STEPS})
    return start + found.x.reshape(start.shape) if found.fun < loss(still)[0] else start


def _terms(predicted: Array, left_out: Array) -> Array:
    """(questions, 9) a constant, moments in standard deviations of the training questions', their squares.

    Mean and deviation are on a logit's and a logarithm's scale here, as the normal's outputs are.
    """

    def link(numbers: Array) -> Array:
        mean, std = np.clip(numbers[:, 2], 0.01, 0.99), np.clip(numbers[:, 3], 0.01, 1.0)
        return np.column_stack([numbers[:, :2], logit(mean), np.log(std)])

    known = link(left_out)
    # Beyond what was predicted of training questions the map would guess.
    kept = np.clip(link(predicted), known.min(axis=0), known.max(axis=0))
    away = (kept - known.mean(axis=0)) / np.maximum(known.std(axis=0), 1e-6)
    return np.column_stack([np.ones(len(predicted)), away, away**2])


def some(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most so many of the rows, evenly chosen."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(int)]
