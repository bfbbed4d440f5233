"""Populations of known score laws to hold promises against."""

from typing import NamedTuple

import numpy as np
from scipy import stats


class Drawn(NamedTuple):
    """Questions whose laws are known."""

    scores: np.ndarray
    """(questions, n)"""
    log_miss: np.ndarray
    """(questions,) log F(s-) of each question's own law."""


def _beta_shapes(rng, size):
    mean = 1 / (1 + np.exp(-rng.normal(1.2, 1.0, size)))
    total = 1 / (1 / (1 + np.exp(-rng.normal(-2.0, 0.7, size)))) - 1
    return mean * total, (1 - mean) * total


def beta(rng, size, n, target):
    a, b = _beta_shapes(rng, size)
    scores = rng.beta(a[:, None], b[:, None], (size, n))
    return Drawn(scores, stats.beta.logcdf(target, a, b))


def atoms(rng, size, n, target):
    """Betas with an atom at 1 on most questions and one at 0 on some."""
    a, b = _beta_shapes(rng, size)
    one, zero = rng.beta(0.6, 6, size), rng.beta(0.3, 6, size)
    scores = rng.beta(a[:, None], b[:, None], (size, n))
    place = rng.random((size, n))
    scores = np.where(place < one[:, None], 1.0, scores)
    scores = np.where(place > 1 - zero[:, None], 0.0, scores)
    miss = zero + (1 - one - zero) * stats.beta.cdf(target, a, b)
    return Drawn(scores, np.log(miss))


def truncated(rng, size, n, target):
    mu, sigma = rng.normal(0.75, 0.2, size), np.exp(rng.normal(np.log(0.12), 0.5, size))
    law = stats.truncnorm(-mu / sigma, (1 - mu) / sigma, mu, sigma)
    return Drawn(law.ppf(rng.random((n, size))).T, law.logcdf(target))


def lures(rng, size, n, target):
    """Outside every family: most near-misses never become a hit, while a few low scorers do.

    Nine questions of ten score .9 to .94 for ever; the others score near .2, with one score of .97
    in ten. A smooth law sees the hit close by where there is none, and none where there is.
    """
    near = rng.random(size) < 0.9
    low, high = rng.normal(0.2, 0.05, (size, n)).clip(0, 1), rng.uniform(0.9, 0.94, (size, n))
    hit = rng.random((size, n)) < 0.1
    scores = np.where(near[:, None], high, np.where(hit, 0.97, low))
    return Drawn(scores, np.where(near, 0.0, np.log(0.9)))
