"""Decisions: sample m more, accept, or give up, with the reason."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from data.arrays import Array
from data.contract import require_scores
from data.errors import ScoreError
from data.record import Record
from predictor.policy_base import Policy, Reason
from predictor.prior import Prior, PriorBatch
from predictor.selection import number_answers
from predictor.state import State


class Decision(Record):
    """The next step for one question."""

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
    selected: int | None = None
    """Place of the candidate that is the answer, were it to stop now; None where nothing is drawn."""


def decide(
    policy: Policy,
    scores: ArrayLike = (),
    prior: Prior | None = None,
    failed: int = 0,
    tokens: ArrayLike | None = None,
    answers: Sequence[str | None] | None = None,
) -> Decision:
    """Decide for one question.

    Parameters
    ----------
    scores : scores so far, in the order drawn, each in [0, 1]; none where there is no verifier.
    failed : candidates drawn that have no score (cut, failed, over-length); they count as misses, drawn
        after all that have one. A policy that plans from its first candidates sees the same ones in every
        call only if a 0 stands in a failed one's place among the scores instead, as in a replay.
    tokens : completion tokens of the scored candidates, for a policy that weighs them.
    answers : keys of the candidates' answers (`data.answers.answer_key`), equal for equal answers and None
        for none, one a score; without scores, of all candidates that have one.

    Raises
    ------
    ScoreError
        If a score is not in [0, 1], a count is below 0, or more were drawn than the cap allows.

    Examples
    --------
    >>> from predictor import Schedule
    >>> decide(Schedule(target=0.9, cap=8), scores=[0.4, 0.7]).more
    1
    """
    given: ArrayLike = scores
    if unscored := answers is not None and not np.size(scores):
        given = np.zeros(len(answers or ()))
    row, spent = _require_candidates(policy.cap, given, failed, tokens)
    row = np.full(row.shape, np.nan) if unscored else row
    drawn, scored = row.shape[1], row[0, : row.shape[1] - failed]
    priors = None if prior is None else PriorBatch.of([prior])
    keys = None
    if answers is not None:
        if len(answers) != scored.size:
            raise ScoreError(
                f"{len(answers)} answers for {scored.size} scores; give one a score, null for none"
            )
        keys = number_answers([*answers, *[None] * failed])
    state = State(row, np.array([drawn]), priors, spent, answers=keys)
    plan = policy.plan(state)
    more, reason, feasible = int(plan.more[0]), list(Reason)[int(plan.reason[0])], bool(plan.feasible[0])
    best = float(scored.max()) if scored.size and not unscored else None
    missed = best is None or best < policy.target
    nothing = best is None if policy.selection.reads_scores else keys is None or bool((keys < 0).all())
    hopeless = nothing or (missed and (reason == Reason.HOPELESS or not feasible))
    selected = None
    if scored.size:
        by_score = keys is None or policy.selection.kind == "best_score"  # then no vote need be counted
        votes = None if by_score else state.count(policy.selection)[1]
        selected = int(scored.argmax()) if votes is None else int(votes.chosen[0, -1])
    return Decision(
        action="sample" if more else "give up" if hopeless else "accept",
        more=more,
        reason=reason.words,
        required_samples=int(plan.required[0]),
        feasible=feasible,
        drawn=drawn,
        best=best,
        selected=selected,
    )


def _require_candidates(
    cap: int, scores: ArrayLike, failed: int, tokens: ArrayLike | None
) -> tuple[Array, Array | None]:
    """Scores and tokens (1, n) of all candidates drawn; raises as `decide` does."""
    values = require_scores(scores, "scores so far").ravel()
    if failed < 0:
        raise ScoreError(f"{failed} candidates without a score: give 0 or more")
    if values.size + failed > cap:
        raise ScoreError(f"{values.size + failed} candidates were drawn, more than the policy's cap of {cap}")
    row = np.append(values, np.full(failed, np.nan))[None]
    if tokens is None:
        return row, None
    spent = np.asarray(tokens, float).ravel()
    if spent.size != values.size:
        raise ScoreError(f"{spent.size} token counts for {values.size} scores; give one a score")
    if not (np.isfinite(spent) & (spent >= 0)).all():
        raise ScoreError(f"token counts {spent.tolist()}: each must be 0 or more"[:200])
    return row, np.append(spent, np.full(failed, spent.mean() if spent.size else 0.0))[None]
