"""Ridge regression in a sum of kernels: from what views see of a question to a normal over its law.

It is the mean of a Gaussian process, so leaving one question out has a closed form, and what is told of
a question falls back to the training questions' average where no training question is like it.

Four numbers are told of a question: the two coordinates of its law, and the mean and standard deviation
of its scores, which are what most losses ask for and no function of expected coordinates. A map with
squares, fitted on the evidence of left-out questions, makes a normal of them (`fit_map`).
"""

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize
from scipy.special import logit

from data.record import Record
from predictor.families import Family, get_family
from predictor.prior import Prior, evidence_slopes, log_evidence, posterior_moments, posterior_weights

_LOG_SPREAD = (-2.5, 1.5)
_ATANH_CORRELATION = (-1.8, 1.8)
Array = NDArray[np.float64]
NOISES = (0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1.0, 2.0, 5.0, 20.0, 100.0)
_SAMPLE = 2400  # questions on which weights are chosen
_MANY = 4000  # questions on which noise is chosen, and the map is fitted
_NEIGHBOURS = 5
_MOVE = 0.1  # standard deviation of the prior on an entry of `fit_map`
_STEPS = 40  # of the optimiser, at most
_CHUNK = 256  # questions whose weights are held at once
_FEWEST = 8  # questions without which a group can be left out to learn how far predictions reach


class Shape(Record):
    """What is chosen before a fit: see `choose`."""

    weights: tuple[float, ...]
    """Of each view's kernel."""
    noise: tuple[float, ...] = Field(min_length=4, max_length=4)
    """Ridge of each number told, in units of the kernel's mean diagonal."""


class Reach(Record):
    """How unlike the training questions one may be before its prior widens to the population's."""

    near: float
    """Up to this distance nothing changes."""
    far: float
    """From here on the population's prior is all there is."""

    def share(self, distance: Array) -> Array:
        """(questions,) weight of the population's prior."""
        return np.clip((distance - self.near) / (self.far - self.near), 0.0, 1.0)


class Kernels(NamedTuple):
    """A view's kernel between questions and training questions, and of each with itself."""

    cross: Array
    """(questions, n)."""
    self_: Array
    """(questions,)."""


class Regression:
    """Fitted coefficients; ``arrays`` hold all that is learnt."""

    def __init__(self, shape: Shape, arrays: dict[str, NDArray[Any]]) -> None:
        self.shape = shape
        self.arrays = arrays
        """``centre`` (4,), ``dual`` (n, 4), ``left_out`` (n, 4) what is told of each training question by
        the others, ``map`` (9, 5) of `fit_map`, ``diagonal`` (n,), ``distance`` (n,)."""

    @classmethod
    def fit(cls, own: Sequence[Array], shape: Shape, likelihood: Array, population: Prior) -> Self:
        """Fit on each view's kernel among the training questions (n, n) and their likelihood (n, laws)."""
        target = targets(population, likelihood)
        gram = _total(own, shape.weights)
        dual, left_out = _solve(gram, target, shape.noise)
        diagonal = np.diag(gram).copy()
        apart = _distance(gram - np.diag(np.full(len(gram), np.inf)), diagonal, diagonal)
        arrays = {
            "centre": target.mean(axis=0),
            "dual": dual,
            "left_out": left_out,
            "diagonal": diagonal,
            "distance": apart,
        }
        arrays["map"] = fit_map(left_out, target, likelihood, population)
        return cls(shape, arrays)

    def predict(self, views: Sequence[Kernels]) -> tuple[Array, Array]:
        """What is told (questions, 4), and the distance (questions,) to the nearest training questions."""
        cross = _total([view.cross for view in views], self.shape.weights)
        own = sum(weight * view.self_ for weight, view in zip(self.shape.weights, views, strict=True))
        told = self.arrays["centre"] + cross @ self.arrays["dual"]
        return told, _distance(cross, np.asarray(own), self.arrays["diagonal"])

    def normals(self, told: Array) -> tuple[Array, Array]:
        """Location (questions, 2) and covariance (questions, 2, 2) from what is told (questions, 4)."""
        return to_normals(_terms(told, self.arrays["left_out"]) @ self.arrays["map"])


def targets(population: Prior, likelihood: Array) -> Array:
    """(questions, 4) law of each question as its own scores and the population's prior place it.

    Expected coordinates, expected mean and standard deviation of its scores.
    """
    family, weights = get_family(population.family), posterior_weights(population, likelihood)
    return np.column_stack([weights @ family.points, weights @ family.mean, weights @ family.std])


def fit_map(left_out: Array, target: Array, likelihood: Array, population: Prior) -> Array:
    """(9, 5) from `_terms` of what is told to `to_normals`' outputs.

    It starts from the coordinates told and the one covariance that remains (error on questions left
    out, and the posterior's own), and moves from there as far as the evidence of left-out questions asks
    for against a normal prior on each entry: where questions are harder to tell, spread is larger. The
    evidence is that of the outputs as predictions clip them, and the start stays where none is better.
    """
    rows, family = _some(np.arange(len(left_out)), _MANY), get_family(population.family)
    terms, limits = _terms(left_out[rows], left_out), output_limits(family)
    start = np.zeros((terms.shape[1], 5))
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


def _terms(told: Array, left_out: Array) -> Array:
    """(questions, 9) a constant, what is told in standard deviations of the training questions', its squares.

    Mean and deviation are told on a logit's and a logarithm's scale here, as the normal's outputs are.
    """

    def link(numbers: Array) -> Array:
        mean, std = np.clip(numbers[:, 2], 0.01, 0.99), np.clip(numbers[:, 3], 0.01, 1.0)
        return np.column_stack([numbers[:, :2], logit(mean), np.log(std)])

    known = link(left_out)
    # Beyond what was told of training questions the map would guess.
    kept = np.clip(link(told), known.min(axis=0), known.max(axis=0))
    away = (kept - known.mean(axis=0)) / np.maximum(known.std(axis=0), 1e-6)
    return np.column_stack([np.ones(len(told)), away, away**2])


def choose(own: Sequence[Array], weights: Sequence[tuple[float, ...]], target: Array) -> Shape:
    """Weights and noise with the least squared error on questions left out, each number told on its scale."""
    best = weights[0]
    if len(weights) > 1:
        errors = [_errors_left_out(own, each, target, _SAMPLE).min(axis=0).sum() for each in weights]
        best = weights[int(np.argmin(errors))]
    chosen = _errors_left_out(own, best, target, _MANY).argmin(axis=0)
    return Shape(weights=best, noise=tuple(NOISES[row] for row in chosen))


def _errors_left_out(own: Sequence[Array], weights: tuple[float, ...], target: Array, most: int) -> Array:
    """(noises, numbers told) squared error on questions left out, over the target's variance.

    At most so many questions take part; one decomposition serves all noises.
    """
    rows = _some(np.arange(len(target)), most)
    gram, target = _total([k[np.ix_(rows, rows)] for k in own], weights), target[rows]
    values, vectors = np.linalg.eigh(gram)
    turned = vectors.T @ (target - target.mean(axis=0))
    errors = []
    for noise in NOISES:
        inverse = 1 / (np.maximum(values, 0.0) + noise * _scale(gram))
        left_out = (vectors @ (inverse[:, None] * turned)) / ((vectors**2) @ inverse)[:, None]
        errors.append((left_out**2).mean(axis=0))
    found: Array = np.array(errors) / (target.var(axis=0) + 1e-12)
    return found


def learn_reach(
    own: Sequence[Array], fitted: Regression, groups: NDArray[Any], likelihood: Array, population: Prior
) -> Reach:
    """How far predictions reach, from groups that are held out whole.

    Within the distance of nine in ten training questions from the rest nothing changes; beyond, the
    population's share grows so that the scores of held-out groups, and of left-out questions, are most
    likely. It is whole at twice the way from there to the farthest of them at the latest: of what lies
    beyond, nothing is known.
    """
    gram = _total(own, fitted.shape.weights)
    diagonal, target = fitted.arrays["diagonal"], targets(population, likelihood)
    inside = fitted.arrays["distance"]
    rows = [_some(np.arange(len(gram)))]
    told, distance = [fitted.arrays["left_out"][rows[0]]], [inside[rows[0]]]
    for name in np.unique(groups):
        out, rest = _some(np.flatnonzero(groups == name)), _some(np.flatnonzero(groups != name), _SAMPLE // 2)
        if len(out) < _FEWEST or len(rest) < _FEWEST:
            continue
        dual, _ = _solve(gram[np.ix_(rest, rest)], target[rest], fitted.shape.noise)
        cross = gram[np.ix_(out, rest)]
        told.append(target[rest].mean(axis=0) + cross @ dual)
        distance.append(_distance(cross, diagonal[out], diagonal[rest]))
        rows.append(out)
    location, covariance = fitted.normals(np.concatenate(told))
    away, seen = np.concatenate(distance), likelihood[np.concatenate(rows)]
    near = float(np.quantile(inside, 0.9))
    farthest = max(2 * float(away.max()) - near, near + 1e-3)
    fars = near + (farthest - near) * np.array([1.0, 0.75, 0.5, 0.35, 0.2, 0.1, 0.05, 0.02])
    gains = []
    for far in fars if len(rows) > 1 else fars[:1]:
        share = Reach(near=near, far=float(far)).share(away)
        priors = make_priors(location, share, covariance, population)
        gains.append(log_evidence(priors, seen).mean())
    return Reach(near=near, far=float(fars[int(np.argmax(gains))]))


def _some(rows: NDArray[np.int64], most: int = 200) -> NDArray[np.int64]:
    """At most so many of the rows, evenly chosen."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(int)]


def make_priors(
    location: Array, share: Array, covariance: Array, population: Prior, strength: float = 1.0
) -> list[Prior]:
    """Priors (questions,) that give the population's a ``share``: a mixture's mean and covariance.

    ``location`` is (questions, 2), ``covariance`` (questions, 2, 2).
    """
    points = get_family(population.family).points
    flat, spread = np.array(population.location), np.array(population.spread)
    wide = np.outer(spread, spread) * np.array([[1, population.correlation], [population.correlation, 1]])
    low, high = points.min(axis=0), points.max(axis=0)
    centre = np.clip(location, low, high)
    part = share[:, None]
    mixed = (1 - part) * centre + part * flat
    apart = (centre - flat)[:, :, None] * (centre - flat)[:, None, :]
    blocks = share[:, None, None]
    total = (1 - blocks) * covariance + blocks * wide + blocks * (1 - blocks) * apart
    deviation = np.sqrt(np.maximum(np.diagonal(total, axis1=1, axis2=2), 1e-4))
    related = np.clip(total[:, 0, 1] / deviation.prod(axis=1), -0.95, 0.95)
    return [
        Prior(
            family=population.family,
            location=(float(m[0]), float(m[1])),
            spread=(float(d[0]), float(d[1])),
            correlation=float(r),
            strength=strength,
        )
        for m, d, r in zip(mixed, deviation, related, strict=True)
    ]


def weight_grid(number: int) -> list[tuple[float, ...]]:
    """Weights of the views' kernels that `choose` compares; the first view's is 1."""
    return [(1.0, *rest) for rest in product((0.0, 0.01, 0.03, 0.1), repeat=number - 1)]


def _total(kernels: Sequence[Array], weights: Sequence[float]) -> Array:
    total: Array = sum(w * k for w, k in zip(weights, kernels, strict=True) if w)  # type: ignore[assignment]
    return total


def _scale(gram: Array) -> float:
    """The unit of noise: the kernel's mean diagonal, which is 0 where all questions are alike to it."""
    return max(float(np.diag(gram).mean()), 1e-6)


def _solve(gram: Array, target: Array, noise: tuple[float, ...]) -> tuple[Array, Array]:
    """Dual coefficients (n, numbers told), and what the others tell of each question."""
    centred = target - target.mean(axis=0)
    scale = _scale(gram)
    dual, told = np.empty_like(target), np.empty_like(target)
    for value in set(noise):
        columns = [column for column in range(len(noise)) if noise[column] == value]
        factor = cho_factor(gram + value * scale * np.eye(len(gram)), lower=True)
        inverse = cho_solve(factor, np.eye(len(gram)))
        dual[:, columns] = inverse @ centred[:, columns]
        told[:, columns] = target[:, columns] - dual[:, columns] / np.diag(inverse)[:, None]
    return dual, told


def _distance(cross: Array, own: Array, diagonal: Array) -> Array:
    """(questions,) 1 - the mean cosine, in the kernel, to the nearest training questions."""
    cosine = cross / np.sqrt(np.maximum(own[:, None] * diagonal, 1e-12))
    count = min(_NEIGHBOURS, cosine.shape[1])
    nearest = np.partition(cosine, -count, axis=1)[:, -count:]
    return np.asarray(1 - np.maximum(nearest, 0.0).mean(axis=1))


def output_limits(family: Family) -> NDArray[np.float64]:
    """(2, 5) least and largest output that predictions are made of: beyond, they are clipped."""
    grid = zip(family.points.min(axis=0), family.points.max(axis=0), strict=True)
    return np.array([*grid, _LOG_SPREAD, _LOG_SPREAD, _ATANH_CORRELATION]).T


def to_normals(output: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Locations (questions, 2) and covariances (questions, 2, 2) from the network's output (questions, 5)."""
    spread = np.exp(np.clip(output[:, 2:4], *_LOG_SPREAD))
    correlation = np.tanh(np.clip(output[:, 4], *_ATANH_CORRELATION))
    related = np.repeat(np.eye(2)[None], len(output), axis=0)
    related[:, 0, 1] = related[:, 1, 0] = correlation
    return output[:, :2], related * spread[:, :, None] * spread[:, None, :]
