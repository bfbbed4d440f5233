"""Fit the paper's score family: a normal(mu, sigma) truncated to [0, 1].

Vectorised over questions, with logarithms of tail masses, so it holds far outside the interval (mu = 9,
sigma = .5) and for narrow or flat laws. ``mu`` and ``sigma`` are the location and scale of the *untruncated*
normal, not the mean and the standard deviation of the scores. The distribution itself is SciPy's `truncnorm`.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_ndtr

from data.arrays import Array

# The likelihood has no maximum when all mass piles up at an end (mu and sigma run off along a
# ridge of nearly equal laws), so fits stay in a box that holds every law of use.
MU_RANGE = (-4.0, 5.0)
SIGMA_RANGE = (0.005, 5.0)


def log_mass(mu: Array, sigma: Array) -> Array:
    """Log P(0 <= X <= 1) of the untruncated X ~ N(mu, sigma)."""
    lower, upper = -mu / sigma, (1 - mu) / sigma
    right = lower > 0  # by symmetry, put the interval on the left, where log_ndtr keeps its digits
    a, b = np.where(right, -upper, lower), np.where(right, -lower, upper)
    log_b = log_ndtr(b)
    return log_b + np.log(-np.expm1(log_ndtr(a) - log_b))


def fit(
    mean: ArrayLike,
    square: ArrayLike,
    n: ArrayLike = 1,
    prior_mu: ArrayLike = 0.0,
    prior_sigma: ArrayLike = 0.0,
    prior_precision: ArrayLike = 0.0,
) -> tuple[Array, Array]:
    """Maximum-likelihood or MAP estimate of (mu, sigma).

    The law is an exponential family, so the mean score and the mean squared score of the ``n``
    scores are all that the likelihood needs; with ``n`` = 1 and exact moments it is the law that has them.
    For a given sigma the best mu is found by bisection; sigma itself on ever finer grids around the best,
    since under a prior there can be two peaks.

    Parameters
    ----------
    mean, square : (Q,) mean of the scores and of their squares.
    n : (Q,) number of scores; 0 leaves the prior alone.
    prior_mu, prior_sigma : (Q,) centre of independent normal priors on mu and on sigma.
    prior_precision : 1 / tau^2 of both priors (the paper: tau = 0.1); 0 gives maximum likelihood.

    Returns
    -------
    mu, sigma : (Q,) in `MU_RANGE` and `SIGMA_RANGE`.
    """
    columns = np.broadcast_arrays(
        *map(np.atleast_1d, (mean, square, n, prior_mu, prior_sigma, prior_precision))
    )
    first, second, count, centre, width, precision = (np.asarray(c, float)[:, None] for c in columns)
    least, most = np.log(SIGMA_RANGE)
    step, rows = (most - least) / (_GRID - 1), np.arange(len(first))
    log_sigma = np.tile(np.linspace(least, most, _GRID), (len(first), 1))
    while True:
        sigma = np.exp(log_sigma)
        mu = _best_mu(sigma, first, count, centre, precision)
        squares = second - 2 * mu * first + mu**2
        height = -count * (0.5 * squares / sigma**2 + log_sigma + log_mass(mu, sigma))
        height -= 0.5 * precision * ((mu - centre) ** 2 + (sigma - width) ** 2)
        best = height.argmax(axis=1)
        if step < _FINE:
            return mu[rows, best], sigma[rows, best]
        near = log_sigma[rows, best, None] + np.linspace(-step, step, 9)
        log_sigma, step = np.clip(near, least, most), step / 4


def _best_mu(sigma: Array, first: Array, count: Array, centre: Array, precision: Array) -> Array:
    """(Q, S) most likely mu for each sigma: the log-likelihood is concave in mu, so its slope is bisected."""
    low, high = (np.full(sigma.shape, end) for end in MU_RANGE)
    for _ in range(_BISECTIONS):
        mu = (low + high) / 2
        mass = log_mass(mu, sigma)
        at_zero, at_one = (np.exp(-0.5 * ((end - mu) / sigma) ** 2 - mass) for end in (0.0, 1.0))
        expected = mu + sigma * (at_zero - at_one) / np.sqrt(2 * np.pi)  # mean score of the law
        rising = count * (first - expected) / sigma**2 > precision * (mu - centre)
        low, high = np.where(rising, mu, low), np.where(rising, high, mu)
    return (low + high) / 2


_GRID, _BISECTIONS, _FINE = 64, 24, 1e-4  # sigmas at first; halvings of mu's range; last step of log sigma
