"""Ridge regression in a sum of kernels: from what views see of a question to a normal over its law.

It is the mean of a Gaussian process, so leaving one question out has a closed form, and what is told of
a question falls back to the training questions' average where no training question is like it.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from predictor.families import get_family
from predictor.prior import Prior, log_evidence, posterior_moments
from predictor.settings import Settings

Array = NDArray[np.float64]
NOISES = (0.01, 0.03, 0.1, 0.2, 0.4, 1.0, 3.0, 10.0, 100.0)
_SAMPLE = 1200  # questions on which weights and noise are chosen
_NEIGHBOURS = 5
_FEWEST = 8  # questions without which a group can be left out to learn how far predictions reach


class Shape(Settings):
    """What is chosen before a fit: see `choose`."""

    weights: tuple[float, ...]
    """Of each view's kernel."""
    noise: tuple[float, float]
    """Ridge of each coordinate, in units of the kernel's mean diagonal."""


class Reach(Settings):
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
        """``centre`` (2,), ``dual`` (n, 2), ``left_out`` (n, 2) what is told of each training question by
        the others, ``covariance`` (2, 2) of what remains, ``diagonal`` (n,), ``distance`` (n,)."""

    @classmethod
    def fit(cls, own: Sequence[Array], shape: Shape, likelihood: Array, population: Prior) -> Self:
        """Fit on each view's kernel among the training questions (n, n) and their likelihood (n, laws).

        The target is each question's law as its own scores and the population's prior place it. What
        remains is the error on questions left out, and the posterior's own variance.
        """
        target, covariance = posterior_moments(population, likelihood)
        gram = _total(own, shape.weights)
        dual, left_out = _solve(gram, target, shape.noise)
        error = target - left_out
        rest = error.T @ error / len(error) + covariance.mean(axis=0)
        diagonal = np.diag(gram).copy()
        apart = _distance(gram - np.diag(np.full(len(gram), np.inf)), diagonal, diagonal)
        arrays = {
            "centre": target.mean(axis=0),
            "dual": dual,
            "left_out": left_out,
            "covariance": rest,
            "diagonal": diagonal,
            "distance": apart,
        }
        return cls(shape, arrays)

    def predict(self, views: Sequence[Kernels]) -> tuple[Array, Array]:
        """Location (questions, 2) and distance (questions,) to the nearest training questions, 0 to 1."""
        cross = _total([view.cross for view in views], self.shape.weights)
        own = sum(weight * view.self_ for weight, view in zip(self.shape.weights, views, strict=True))
        location = self.arrays["centre"] + cross @ self.arrays["dual"]
        return location, _distance(cross, np.asarray(own), self.arrays["diagonal"])


def choose(own: Sequence[Array], weights: Sequence[tuple[float, ...]], target: Array) -> Shape:
    """Weights and noise with the least squared error on questions left out, each coordinate on its scale."""
    rows = np.linspace(0, len(target) - 1, min(len(target), _SAMPLE)).astype(int)
    own, target = [k[np.ix_(rows, rows)] for k in own], target[rows]
    scale, found = target.var(axis=0) + 1e-12, []
    for chosen in weights:
        gram = _total(own, chosen)
        errors = _errors_left_out(gram, target) / scale
        best = errors.argmin(axis=0)
        found.append((errors.min(axis=0).sum(), chosen, (NOISES[best[0]], NOISES[best[1]])))
    _, chosen, noise = min(found)
    return Shape(weights=chosen, noise=noise)


def _errors_left_out(gram: Array, target: Array) -> Array:
    """(noises, 2) mean squared error on questions left out, all from one decomposition."""
    values, vectors = np.linalg.eigh(gram)
    turned = vectors.T @ (target - target.mean(axis=0))
    errors = []
    for noise in NOISES:
        inverse = 1 / (np.maximum(values, 0.0) + noise * np.diag(gram).mean())
        left_out = (vectors @ (inverse[:, None] * turned)) / ((vectors**2) @ inverse)[:, None]
        errors.append((left_out**2).mean(axis=0))
    return np.array(errors)


def learn_reach(
    own: Sequence[Array], fitted: Regression, groups: NDArray[Any], likelihood: Array, population: Prior
) -> Reach:
    """How far predictions reach, from groups that are held out whole.

    Within the distance of nine in ten training questions from the rest nothing changes; beyond, the
    population's share grows so that the scores of held-out groups, and of left-out questions, are most
    likely.
    """
    gram = _total(own, fitted.shape.weights)
    diagonal, target = fitted.arrays["diagonal"], posterior_moments(population, likelihood)[0]
    inside = fitted.arrays["distance"]
    rows = [_some(np.arange(len(gram)))]
    location, distance = [fitted.arrays["left_out"][rows[0]]], [inside[rows[0]]]
    for name in np.unique(groups):
        out, rest = _some(np.flatnonzero(groups == name)), _some(np.flatnonzero(groups != name), _SAMPLE)
        if len(out) < _FEWEST or len(rest) < _FEWEST:
            continue
        dual, _ = _solve(gram[np.ix_(rest, rest)], target[rest], fitted.shape.noise)
        cross = gram[np.ix_(out, rest)]
        location.append(target[rest].mean(axis=0) + cross @ dual)
        distance.append(_distance(cross, diagonal[out], diagonal[rest]))
        rows.append(out)
    near = float(np.quantile(inside, 0.9))
    fars = near + (1.001 - near) * np.array([1.0, 0.75, 0.5, 0.35, 0.2, 0.1, 0.05, 0.02])
    told, away, seen = np.concatenate(location), np.concatenate(distance), likelihood[np.concatenate(rows)]
    gains = []
    for far in fars if len(rows) > 1 else fars[:1]:
        share = Reach(near=near, far=float(far)).share(away)
        priors = make_priors(told, share, fitted.arrays["covariance"], population)
        gains.append(log_evidence(priors, seen).mean())
    return Reach(near=near, far=float(fars[int(np.argmax(gains))]))


def _some(rows: NDArray[np.int64], most: int = 200) -> NDArray[np.int64]:
    """At most so many of the rows, evenly chosen."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(int)]


def make_priors(
    location: Array, share: Array, covariance: Array, population: Prior, strength: float = 1.0
) -> list[Prior]:
    """Priors (questions,) that give the population's a ``share``: a mixture's mean and covariance.

    ``covariance`` is (2, 2) for all, or (questions, 2, 2).
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
    return [(1.0, *rest) for rest in product((0.0, 0.03, 0.1), repeat=number - 1)]


def _total(kernels: Sequence[Array], weights: Sequence[float]) -> Array:
    total: Array = sum(w * k for w, k in zip(weights, kernels, strict=True) if w)  # type: ignore[assignment]
    return total


def _solve(gram: Array, target: Array, noise: tuple[float, float]) -> tuple[Array, Array]:
    """Dual coefficients (n, 2), and what the others tell of each question (n, 2)."""
    centred = target - target.mean(axis=0)
    scale = float(np.diag(gram).mean())
    dual, told = np.empty_like(target), np.empty_like(target)
    for value in set(noise):
        columns = [column for column in range(2) if noise[column] == value]
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
