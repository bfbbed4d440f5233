"""BEACON, a published rule of stopping by scores, as a baseline."""

from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field
from scipy.ndimage import map_coordinates
from scipy.special import stdtrit
from scipy.stats import t as student

from data.arrays import Array
from predictor.policy_base import PolicyBase, Proposal, Reason
from predictor.state import State

_COST = np.geomspace(1e-5, 2, 64)  # prices in predictive scales, the index among them
_STEP = 0.16  # of asinh(u), u the next score: fine near 0, and far out into the heavy tails
_NODES = np.arange(-8, 8 + _STEP / 2, _STEP)


class Beacon(PolicyBase):
    """BEACON (Wan et al., arXiv 2510.15945): optimal stopping of Best-of-N at a price per sample.

    Scores are taken for normal, with a Normal-Inverse-Gamma posterior from Jeffreys' prior (the
    paper's: alpha_0 -1/2, nu_0 0, beta_0 0, hence 3 scores to start with). One more is drawn while the
    index h of the best score exceeds the price, both in scales of the next score's Student-t (eq. 3).
    It is the paper's universal index, by backward induction over all draws up to the cap (app. D.5),
    not the gain of one step. It knows no target, and stops where all scores are equal.
    """

    kind: Literal["beacon"] = "beacon"
    floor: int = Field(3, ge=3)
    batch: int | None = Field(1, ge=1)
    """Samples a round at most; the index is that of drawing one by one. Null: all the rest at once."""
    stop_on_hit: bool = False
    cost: float = Field(0.01, gt=0)
    """Price of a sample, in units of the score."""
    prior_scale: float = Field(0.0, ge=0)
    """beta_0, half a sum of squares (paper: 0). Above 0 it goes on where all scores so far are equal."""
    outlier: float = Field(0.01, ge=0, lt=0.5)
    """After the floor, a score below this quantile of the Student-t counts as its centre (app. E.4)."""
    reasons: ClassVar[tuple[Reason, Reason]] = (Reason.WORTH_MORE, Reason.NOT_WORTH_MORE)
    rule_reads_prior: ClassVar[bool] = False  # its own is Jeffreys'

    def propose(self, state: State) -> Proposal:
        """All of the cap where the next sample pays; ``batch`` makes it the next alone."""
        mean, scale = self.predictive(state)
        z = np.divide(state.best - mean, scale, out=np.zeros_like(scale), where=scale > 0)
        table, axis = _index_table(self.cap)
        place = [np.minimum(state.drawn, self.cap), np.arcsinh(z) / axis[1]]
        pays = map_coordinates(table, place, order=1, mode="nearest") * scale > self.cost
        total = np.where(pays, self.cap, state.drawn)
        return Proposal(total, np.minimum(total, state.drawn + 1), np.ones(len(state), bool))

    def predictive(self, state: State) -> tuple[Array, Array]:
        """(questions,) centre and scale of the next score's Student-t, of drawn - 1 degrees of freedom."""
        mean, square = np.zeros(len(state)), np.full(len(state), 2 * self.prior_scale)
        for k in range(int(state.drawn.max(initial=0))):
            score = state.scores[:, k]
            if self.outlier and k >= self.floor:
                low = mean + np.sqrt((1 + 1 / k) * square / (k - 1)) * stdtrit(k - 1, self.outlier)
                score = np.where(score < low, mean, score)
            away = np.where(state.drawn > k, score - mean, 0.0)
            mean, square = mean + away / (k + 1), square + away**2 * k / (k + 1)
        n = np.maximum(state.drawn, 2)
        return mean, np.sqrt((1 + 1 / n) * square / (n - 1))


def expected_gain(z: Array, degrees: float) -> Array:
    """E[max(T - z, 0)] for a Student-t T with more than one degree of freedom: the index of one step."""
    return (degrees + z**2) / (degrees - 1) * student.pdf(z, degrees) - z * student.sf(z, degrees)


@lru_cache(maxsize=8)
def _index_table(cap: int) -> tuple[Array, Array]:
    """(cap + 1, best) index by candidates drawn and standardised best score, and the latter's asinh.

    H(z, c) is the expected gain of one more sample, and of going on well after it, at the price c: the
    gain of one step, plus E[s max(H'(z', c / s) - c / s, 0)] over the next score, where s is its
    Student-t's scale after over before (app. D.5). The index is the c at which H = c. On these grids it
    is within 3% of finer ones; seconds for a cap of 64, in proportion to the cap.
    """
    axis = np.linspace(0, np.arcsinh(np.sqrt(cap)), 64)  # the best is less than sqrt(n) scales off
    z, log_cost, u = np.sinh(axis), np.log(_COST), np.sinh(_NODES)[:, None]
    table, later = np.zeros((cap + 1, len(axis))), None
    for n in range(cap - 1, 2, -1):
        gain = np.repeat(expected_gain(z, n - 1)[:, None], len(_COST), axis=1)
        if later is not None:
            s = np.sqrt((1 - (n + 1.0) ** -2) * (n - 1 + u**2) / n)
            best = np.arcsinh((np.maximum(z, u) - u / (n + 1)) / s) / axis[1]
            price = (log_cost - np.log(s) - log_cost[0]) / (log_cost[1] - log_cost[0])
            places = np.broadcast_arrays(best[:, :, None], price[:, None, :])
            rest = map_coordinates(later, places, order=1, mode="nearest") - (_COST / s)[:, None, :]
            weights = student.pdf(u, n - 1) * np.sqrt(1 + u**2) * _STEP * s
            gain += np.einsum("u,uzc->zc", weights[:, 0], np.maximum(rest, 0.0))
        table[n] = [np.interp(0.0, _COST - row, _COST) for row in gain]
        later = gain
    return table, axis
