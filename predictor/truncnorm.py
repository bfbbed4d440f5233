"""Fit the paper's score family: a normal(mu, sigma) truncated to [0, 1].

Vectorised over questions, with logarithms of tail masses, so it holds far outside the interval (mu = 9,
sigma = .5) and for narrow or flat laws. ``mu`` and ``sigma`` are the location and scale of the *untruncated*
normal, not the mean and the standard deviation of the scores. The distribution itself is SciPy's `truncnorm`.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_ndtr

Array = NDArray[np.float64]

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
    mass: Array = log_b + np.log(-np.expm1(log_ndtr(a) - log_b))
    return mass


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
    The maximum is found by zooming into a grid: deterministic and vectorised, no optimiser.

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
    columns = np.broadcast_arrays(*map(np.atleast_1d, (mean, square, n, prior_mu, prior_sigma)))
    first, second, count, centre_mu, centre_sigma = (np.asarray(c, float)[:, None] for c in columns)
    precision = np.broadcast_to(np.asarray(prior_precision, float), columns[0].shape)[:, None]

    def objective(mu: Array, log_sigma: Array, mass: Array) -> Array:
        sigma = np.exp(log_sigma)
        squares = second - 2 * mu * first + mu**2
        likelihood = -count * (0.5 * squares / sigma**2 + log_sigma + mass)
        return likelihood - 0.5 * precision * ((mu - centre_mu) ** 2 + (sigma - centre_sigma) ** 2)

    mu_grid, sigma_grid, mass_grid, steps = _coarse_grid()
    best = objective(mu_grid, sigma_grid, mass_grid).argmax(axis=1)
    starts = [(mu_grid[0, best], sigma_grid[0, best])]
    if precision.any():
        # Scores that nearly agree have a narrow peak beside the prior's: between the grid's points.
        deviation = np.sqrt(np.maximum(second - first**2, 0.0))[:, 0]
        starts.append((first[:, 0], np.log(np.clip(deviation, *SIGMA_RANGE))))
    peaks = np.array([_zoom(objective, *start, steps) for start in starts])  # (starts, 3, Q)
    top = peaks[:, 2].argmax(axis=0)
    mu, log_sigma, _ = peaks[top, :, np.arange(len(top))].T
    return mu, np.exp(log_sigma)


def _zoom(
    objective: Callable[[Array, Array, Array], Array], mu: Array, log_sigma: Array, steps: Array
) -> tuple[Array, Array, Array]:
    """The peak (mu, log sigma, height; each (Q,)) next to a start, found in ever smaller windows."""
    around_mu, around_sigma, aslant = (o.ravel() for o in np.meshgrid(_OFFSETS, _OFFSETS, (0.0, 2.0)))
    window = np.ones_like(mu)
    rows = np.arange(len(mu))
    for _ in range(_ZOOMS):
        wider = window[:, None] * steps[1] * around_sigma
        sigma_near = np.clip(log_sigma[:, None] + wider, *np.log(SIGMA_RANGE))
        # With all scores at an end, laws of one slope there, (mu - end) / sigma^2, are nearly equal: a ridge,
        # which half of the grid follows.
        end = np.clip(mu, 0.0, 1.0)[:, None]
        along = end + (mu[:, None] - end) * np.exp(aslant * (sigma_near - log_sigma[:, None]))
        along = np.clip(along, *MU_RANGE)
        mu_near = np.clip(along + window[:, None] * steps[0] * around_mu, *MU_RANGE)
        heights = objective(mu_near, sigma_near, log_mass(mu_near, np.exp(sigma_near)))
        best = heights.argmax(axis=1)
        moved_mu = np.abs(mu_near - along)[rows, best] / steps[0]
        moved_sigma = np.abs(sigma_near[rows, best] - log_sigma) / steps[1]
        mu, log_sigma = mu_near[rows, best], sigma_near[rows, best]
        # A maximum on the window's rim may lie beyond it: move there first, shrink after.
        inside = np.maximum(moved_mu, moved_sigma) < 0.99 * window
        window = np.where(inside, window * _SHRINK, np.minimum(window * 2, 1.0))
        if window.max() < _FINE:
            break
    return mu, log_sigma, heights[rows, best]


_OFFSETS = np.linspace(-1, 1, 7)
_SHRINK, _ZOOMS, _FINE = 0.4, 120, 1e-5  # of the coarse grid's steps


@cache
def _coarse_grid() -> tuple[Array, Array, Array, Array]:
    mu = np.linspace(MU_RANGE[0], MU_RANGE[1], 91)
    low, high = np.log(SIGMA_RANGE)
    log_sigma = np.linspace(low, high, 36)
    grid = [g.ravel()[None] for g in np.meshgrid(mu, log_sigma)]
    steps = np.array([mu[1] - mu[0], log_sigma[1] - log_sigma[0]])
    return grid[0], grid[1], log_mass(grid[0], np.exp(grid[1])), steps
