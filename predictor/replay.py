"""Replay: what a policy would have drawn, hit and answered on scores that are already there."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from predictor.decision import Array, IntArray, Policy
from predictor.errors import ConfigError
from predictor.prior import Prior


class Replay(NamedTuple):
    """A policy's course on each question; every field (questions,)."""

    drawn: IntArray
    """Candidates drawn."""
    rounds: IntArray
    """Rounds they were drawn in."""
    best: Array
    """Best score among them; NaN where no candidate has a score."""
    chosen: IntArray
    """Column of the best candidate (the first of equals); -1 where there is none."""
    hit: NDArray[np.bool_]
    """Whether the best score reached the target."""
    required: IntArray
    """N* of the last estimate."""
    feasible: NDArray[np.bool_]
    """Whether that estimate called the target feasible within the cap."""


def replay(policy: Policy, scores: Array, priors: Sequence[Prior] | None = None) -> Replay:
    """Run ``policy`` over scores (questions, n), drawn from left to right.

    Raises
    ------
    ConfigError
        If the policy's cap is larger than the number of candidates on hand.
    """
    if policy.cap > scores.shape[1]:
        raise ConfigError(
            f"the policy draws up to {policy.cap} candidates, but the pool has {scores.shape[1]} a "
            "question; lower the cap or collect more candidates"
        )
    scores = scores[:, : policy.cap]
    drawn = np.zeros(len(scores), dtype=np.int64)
    rounds, required = np.zeros_like(drawn), np.zeros_like(drawn)
    feasible = np.zeros(len(scores), dtype=bool)
    active = np.arange(len(scores))
    while active.size:
        chosen = None if priors is None else [priors[int(i)] for i in active]
        plan = policy.plan(scores[active], drawn[active], chosen)
        required[active], feasible[active] = plan.required, plan.feasible
        more = np.minimum(plan.more, policy.cap - drawn[active])
        drawn[active] += more
        rounds[active] += more > 0
        active = active[more > 0]
    seen = np.where(np.arange(scores.shape[1]) < drawn[:, None], scores, np.nan)
    best, column = best_of(seen)
    return Replay(drawn, rounds, best, column, best >= policy.target, required, feasible)


def best_of(scores: Array) -> tuple[Array, IntArray]:
    """Best score and its column in each row, the first of equals; NaN and -1 where all are NaN."""
    filled = np.where(np.isnan(scores), -1.0, scores)
    column = filled.argmax(axis=1)
    best = filled[np.arange(len(scores)), column]
    none = best < 0
    return np.where(none, np.nan, best), np.where(none, -1, column)


def pick(values: Array, column: IntArray) -> Array:
    """``values`` (questions, n) at each row's column; 0 where the column is -1."""
    picked = values[np.arange(len(values)), np.maximum(column, 0)]
    return np.where(column < 0, 0.0, picked)


def spent(values: Array, drawn: IntArray) -> Array:
    """Sum of ``values`` (questions, n) over the candidates drawn."""
    total: Array = np.where(np.arange(values.shape[1]) < drawn[:, None], values, 0.0).sum(axis=1)
    return total
