"""Exact tests of a policy's risk: the mean over questions of a loss of 0 or 1, or of -1, 0 or 1."""

from bisect import bisect_left

import numpy as np
from scipy.stats import beta, binom, norm

from predictor.decision import Array

_SPARED = 1e-3  # part of the level that is spent on the share of questions with any change
_SHARES = 33


def risk_p_value(losses: Array, epsilon: float, signed: bool) -> float:
    """Chance of a sum of losses so small if their mean were epsilon; a small one supports the policy.

    Parameters
    ----------
    losses : (questions,) each 0 or 1 (exact binomial test), or each -1, 0 or 1: then how many are not 0
        is a nuisance, and the chance is the largest over what that share may be by its upper confidence
        limit, plus one minus that limit's confidence (Berger and Boos, JASA 89, 1994).
    signed : whether a loss can be -1, whether or not one of these is: a test that is chosen by the data that
        it judges does not keep its level.
    """
    n, total = losses.size, int(losses.sum())
    if not signed:
        return float(binom.cdf(total, n, epsilon))
    changed = int((losses != 0).sum())
    limit = 1.0 if changed == n else float(beta.ppf(1 - _SPARED, changed + 1, n - changed))
    shares = np.linspace(abs(epsilon), max(limit, abs(epsilon)), _SHARES)[:, None]
    k = np.arange(n + 1)
    worse = (1 + epsilon / np.maximum(shares, 1e-12)) / 2  # chance that a change is for the worse
    chance = (binom.pmf(k, n, shares) * binom.cdf((total + k) // 2, k, worse)).sum(axis=1)
    return float(min(chance.max() + _SPARED, 1.0))


def refutation_p_value(losses: Array, epsilon: float, signed: bool) -> float:
    """Chance of a sum of losses so large if their mean were epsilon; a small one refutes the promise."""
    if not signed:
        return float(binom.sf(int(losses.sum()) - 1, losses.size, epsilon))
    return risk_p_value(-losses, -epsilon, signed)


def questions_needed(losses: Array, epsilon: float, delta: float, signed: bool) -> int | None:
    """About how many questions certify a policy with these losses; None where no number will do.

    For losses of 0 and 1 ln(1/delta) / KL(rate || epsilon), which is enough; else by the normal law, and as
    many as it takes where nothing changes.
    """
    r = float(losses.mean())
    if r >= epsilon:
        return None
    if signed:
        enough = int(np.ceil(np.log(_SPARED) / np.log1p(-epsilon)))
        least = bisect_left(
            range(enough), True, key=lambda n: risk_p_value(np.zeros(n), epsilon, signed) <= delta
        )
        return max(least, int(np.ceil((norm.ppf(1 - delta) * losses.std() / (epsilon - r)) ** 2)))
    divergence = (1 - r) * np.log((1 - r) / (1 - epsilon)) + (r * np.log(r / epsilon) if r else 0.0)
    return int(np.ceil(np.log(1 / delta) / divergence))
