"""How many samples reach a target score: the lower bound N* and its exact corner cases."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import truncnorm

from data.errors import ConfigError


def required_from_log_miss(
    log_miss: ArrayLike, confidence: ArrayLike, cap: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Smallest N with 1 - F(s-)^N >= confidence (paper, eq. 5), and whether it lies within ``cap``.

    Parameters
    ----------
    log_miss : log F(s-), the log chance that one score misses the target; <= 0, may be -inf.
    confidence : alpha in (0, 1).
    cap : N_max >= 1.

    Returns
    -------
    required, feasible : ``required`` in 1 ... cap; where not feasible it is the cap.

    Raises
    ------
    ConfigError
        If confidence or cap is out of range.
    """
    alpha = np.asarray(confidence, float)
    if not np.all((alpha > 0) & (alpha < 1)):
        raise ConfigError(f"confidence is {confidence}; it must lie strictly between 0 and 1")
    if cap < 1:
        raise ConfigError(f"cap is {cap}; at least one sample is needed")
    log_miss, allowed = np.broadcast_arrays(np.asarray(log_miss, float), np.log1p(-alpha))
    with np.errstate(divide="ignore", over="ignore"):
        ratio = np.where(log_miss < 0, allowed / np.where(log_miss < 0, log_miss, -1.0), np.inf)
    # 1 - .9 is a hair below .1, so a ratio that should be 1 comes out a hair above: the relative
    # slack keeps the ceiling from answering 2 where 1 is right.
    required = np.ceil(np.minimum(ratio * (1 - 1e-12), cap + 1.0))
    feasible = required <= cap
    return np.clip(required, 1, cap).astype(np.int64), feasible


def required_samples(
    mu: ArrayLike, sigma: ArrayLike, target: ArrayLike, confidence: ArrayLike, cap: int
) -> NDArray[np.int64] | int:
    """The paper's lower bound N* = ceil(log(1 - alpha) / log F(s)) for a truncated normal (eq. 5).

    Parameters
    ----------
    mu, sigma : location and scale of the untruncated normal; sigma > 0.
    target : s in [0, 1]; a score >= s is a hit.
    confidence : alpha in (0, 1), the chance that the best of N* scores is a hit.
    cap : N_max, which is also the answer where no N within it will do (see `is_feasible`).

    Returns
    -------
    An int for scalars, else an integer array of the broadcast shape.

    Raises
    ------
    ConfigError
        If sigma, target, confidence or cap is out of range.

    Examples
    --------
    >>> required_samples(mu=0.7, sigma=0.15, target=0.9, confidence=0.95, cap=64)
    39
    """
    required, _ = required_from_log_miss(log_miss_of(mu, sigma, target), confidence, cap)
    return int(required) if required.ndim == 0 else required


def is_feasible(
    mu: ArrayLike, sigma: ArrayLike, target: ArrayLike, confidence: ArrayLike, cap: int
) -> NDArray[np.bool_] | bool:
    """Whether some N within ``cap`` reaches the target with the confidence; see `required_samples`.

    >>> is_feasible(mu=0.7, sigma=0.15, target=0.9, confidence=0.95, cap=16)
    False
    """
    _, feasible = required_from_log_miss(log_miss_of(mu, sigma, target), confidence, cap)
    return bool(feasible) if feasible.ndim == 0 else feasible


def log_miss_of(mu: ArrayLike, sigma: ArrayLike, target: ArrayLike) -> NDArray[np.float64]:
    """Log F(s-) of truncated normals: the log chance that a score misses the target."""
    mu, sigma, goal = (np.asarray(values, float) for values in (mu, sigma, target))
    if not np.all(sigma > 0) or not np.all(np.isfinite(mu)):
        raise ConfigError("sigma must be positive and mu finite")
    if not np.all((goal >= 0) & (goal <= 1)):
        raise ConfigError(f"target is {target}; a score lies in [0, 1]")
    # A continuous law puts no mass on a point, so F(s-) = F(s) but at s = 0, where all hit.
    return np.where(goal > 0, truncnorm.logcdf(goal, -mu / sigma, (1 - mu) / sigma, mu, sigma), -np.inf)
