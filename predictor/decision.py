"""Decisions: sample m more, accept, or give up, with the reason."""

from collections.abc import Sequence
from enum import IntEnum
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from predictor.contract import require_scores
from predictor.errors import ScoreError
from predictor.prior import Prior
from predictor.settings import Settings

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]


class Reason(IntEnum):
    """Why a policy samples on or stops; `describe` puts it into words."""

    FIRST_LOOK = 0
    BOUND_NOT_REACHED = 1
    BOUND_REACHED = 2
    CAP_REACHED = 3
    PLAN_DONE = 4
    PLAN_NOT_DONE = 5


_WORDS = {
    Reason.FIRST_LOOK: "too few scores for a first estimate",
    Reason.BOUND_NOT_REACHED: "fewer samples than the bound asks for",
    Reason.BOUND_REACHED: "as many samples as the bound asks for",
    Reason.CAP_REACHED: "the cap is reached",
    Reason.PLAN_DONE: "the planned number of samples is reached",
    Reason.PLAN_NOT_DONE: "the planned number of samples is not reached",
}
_SAMPLING = {Reason.FIRST_LOOK, Reason.BOUND_NOT_REACHED, Reason.PLAN_NOT_DONE}


def describe(reason: Reason) -> str:
    """The reason in words."""
    return _WORDS[reason]


class Plan(NamedTuple):
    """A policy's answer for many questions at once; every field (questions,)."""

    more: IntArray
    """Samples to ask for in the next round; 0 stops."""
    reason: IntArray
    """A `Reason`."""
    required: IntArray
    """N*, the samples that the policy's estimate asks for in all; the cap where not feasible."""
    feasible: NDArray[np.bool_]
    """Whether some number of samples within the cap reaches the target."""


class Policy(Protocol):
    """From the scores so far to a plan. A policy is a small frozen value that is JSON in and out."""

    @property
    def target(self) -> float: ...

    @property
    def cap(self) -> int: ...

    def plan(self, scores: Array, drawn: IntArray, priors: Sequence[Prior] | None) -> Plan:
        """Plan the next round.

        Parameters
        ----------
        scores : (questions, cap) scores in the order drawn; what lies beyond ``drawn`` is not read.
            A candidate that failed counts as drawn, its score is NaN.
        drawn : (questions,) candidates drawn.
        priors : one a question, or None where the policy needs none.
        """


class Decision(Settings):
    """What to do next for one question."""

    action: Literal["sample", "accept", "give up"]
    more: int
    """Samples to ask for now; 0 unless the action is to sample."""
    reason: str
    required_samples: int
    """Samples the current estimate asks for in all."""
    feasible: bool
    """Whether the estimate says that the target can be reached within the cap."""
    drawn: int
    best: float | None
    """Best score so far."""


def decide(policy: Policy, scores: ArrayLike, prior: Prior | None = None, failed: int = 0) -> Decision:
    """Decide for one question.

    Parameters
    ----------
    scores : scores so far, in the order drawn, each in [0, 1].
    failed : candidates drawn that have no score (cut, failed, over-length); they count as misses.

    Raises
    ------
    ScoreError
        If a score is not in [0, 1], or more were drawn than the cap allows.
    """
    values = require_scores(scores, "scores so far").ravel()
    drawn = values.size + failed
    if drawn > policy.cap:
        raise ScoreError(f"{drawn} candidates were drawn, more than the policy's cap of {policy.cap}")
    row = np.full((1, policy.cap), np.nan)
    row[0, : values.size] = values
    plan = policy.plan(row, np.array([drawn]), None if prior is None else [prior])
    reason, more = Reason(int(plan.reason[0])), int(plan.more[0])
    best = float(values.max()) if values.size else None
    stopped = "give up" if best is None or (not plan.feasible[0] and best < policy.target) else "accept"
    return Decision(
        action="sample" if reason in _SAMPLING else stopped,
        more=more,
        reason=describe(reason),
        required_samples=int(plan.required[0]),
        feasible=bool(plan.feasible[0]),
        drawn=drawn,
        best=best,
    )
