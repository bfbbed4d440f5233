"""How unlike the training questions one may be before nothing is known of it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve

from data.arrays import Array
from data.record import Record
from predictor.learned.normals import make_priors
from predictor.learned.regression import Regression, distance, moments, some
from predictor.prior import Prior, log_evidence

_FEWEST = 8  # questions without which a group cannot be left out
_MOST = 200  # questions of a group that are looked at
_REST = 1200  # questions that a group is predicted from
_PLACES = np.array([1.0, 0.75, 0.5, 0.35, 0.2, 0.1, 0.05, 0.02])


class OutOfDistribution(Record):
    """A detector: priors widen to the population's with the distance to the nearest training questions."""

    near: float
    """Up to this distance nothing changes."""
    far: float
    """From here on the population's prior is all there is."""

    def share(self, distance: Array) -> Array:
        """(questions,) weight of the population's prior."""
        return np.clip((distance - self.near) / (self.far - self.near), 0.0, 1.0)


def fit_detector(
    gram: Array, fitted: Regression, groups: NDArray[Any], likelihood: Array, population: Prior
) -> OutOfDistribution:
    """Learn how far predictions reach from groups that are held out whole.

    Within the distance of nine in ten training questions from the rest nothing changes; beyond, the
    population's share grows so that the scores of held-out groups, and of left-out questions, are most
    likely. It is whole at twice the way from there to the farthest of them at the latest: of what lies
    beyond, nothing is known.
    """
    target, inside, noises = (
        moments(population, likelihood),
        fitted.arrays["distance"],
        fitted.arrays["noise"],
    )
    rows = [some(np.arange(len(gram)), _MOST)]
    predicted, apart = [fitted.arrays["left_out"][rows[0]]], [inside[rows[0]]]
    for name in np.unique(groups):
        out, rest = some(np.flatnonzero(groups == name), _MOST), some(np.flatnonzero(groups != name), _REST)
        if len(out) < _FEWEST or len(rest) < _FEWEST:
            continue
        centre, kernel = target[rest].mean(axis=0), gram[np.ix_(out, rest)]
        within, own = gram[np.ix_(rest, rest)], np.eye(len(rest))
        dual = np.empty_like(target[rest])
        for noise in np.unique(noises):
            alike = noises == noise
            dual[:, alike] = solve(within + noise * own, (target[rest] - centre)[:, alike], assume_a="pos")
        predicted.append(centre + kernel @ dual)
        apart.append(distance(kernel))
        rows.append(out)
    normals, away = fitted.normals(np.concatenate(predicted)), np.concatenate(apart)
    seen = likelihood[np.concatenate(rows)]
    near = float(np.quantile(inside, 0.9))
    fars = near + max(2 * (float(away.max()) - near), 1e-3) * _PLACES
    tried = [OutOfDistribution(near=near, far=float(far)) for far in fars]
    if len(rows) == 1:
        return tried[0]
    gains = [log_evidence(make_priors(*normals, one.share(away), population), seen).mean() for one in tried]
    return tried[int(np.argmax(gains))]
