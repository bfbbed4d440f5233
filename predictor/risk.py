"""Tests of a policy's risk, the mean over questions of a bounded loss, by betting.

A gambler who stakes a share of their wealth on each question's loss being below epsilon gains nothing on
average where the risk is epsilon or more, so that wealth of 1/p is had with a chance of at most p, whenever
one looks (Ville; Waudby-Smith and Ramdas, JRSS B 86, 2024). Fixed stakes are mixed, which needs no tuning and
is exact for any number of questions and any law of the losses.
"""

import numpy as np
from scipy.special import logsumexp
from scipy.stats import norm

from data.arrays import Array

STAKES = np.linspace(0.04, 0.99, 20)  # of the largest stake that cannot ruin
NEAR = 0.1


def risk_p_value(losses: Array, epsilon: float, like: Array | None = None) -> float:
    """Chance of losses so small if their mean were epsilon or more; a small one supports the policy.

    Parameters
    ----------
    losses : (questions,) each at most 1, in an order that they do not depend on.
    like : losses of other questions, by which half of the wealth is staked at what would have grown it most
        there; the other half, or without them all of it, is spread evenly.
    """
    if not losses.size:
        return 1.0
    wealth = np.full(len(STAKES), 1 / len(STAKES))
    if like is not None and like.size:
        best = log_growth(like, epsilon).mean(axis=1).argmax()
        near = np.exp(-0.5 * ((STAKES - STAKES[best]) / NEAR) ** 2)
        wealth = (wealth + near / near.sum()) / 2
    growth = log_growth(losses, epsilon).cumsum(axis=1)
    return float(np.exp(-max(logsumexp(growth, axis=0, b=wealth[:, None]).max(), 0.0)))


def log_growth(losses: Array, epsilon: float) -> Array:
    """(stakes, questions) logarithm of what a bet on each question multiplies its stake's wealth by."""
    grown: Array = np.log1p(STAKES[:, None] / (1 - epsilon) * (epsilon - losses))
    return grown


def refutation_p_value(losses: Array, epsilon: float) -> float:
    """Chance of losses so large if their mean were epsilon or less; a small one refutes the promise."""
    return risk_p_value(-losses, -epsilon)


def upper_bound(losses: Array, delta: float) -> float:
    """The least that the mean can be said to be below with a confidence of 1 - delta; 1 if nothing."""
    low, high = -1.0, 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if risk_p_value(losses, middle) <= delta else (middle, high)
    return high


def questions_needed(losses: Array, epsilon: float, delta: float, power: float = 0.8) -> int | None:
    """About how many questions certify a policy with losses like these; None where no number will do.

    The best stake grows by its mean logarithm a question, with a spread; half of the wealth is near it.
    """
    growth = log_growth(losses, epsilon)
    mean, spread = growth.mean(axis=1), growth.std(axis=1)
    goal = np.log(1 / delta) + np.log(2)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = norm.ppf(power) * spread
        needed = np.where(mean > 0, ((z + np.sqrt(z**2 + 4 * mean * goal)) / (2 * mean)) ** 2, np.inf)
    return None if np.isinf(needed.min()) else int(np.ceil(needed.min()))
