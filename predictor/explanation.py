"""How one question was decided: what the rule saw after each round, and what fixed N would have answered."""

from collections.abc import Sequence

import numpy as np

from data.candidates import Candidates
from data.record import Record
from predictor.decision import Decision, decide
from predictor.policies import AnyPolicy
from predictor.prior import Prior, PriorBatch
from predictor.selection import Selection
from predictor.state import State

SIZES = (1, 4, 8)
"""Fixed N that a course is held against, beside the cap."""


class Step(Record):
    """What a policy decided after so many candidates."""

    decision: Decision
    evidence: dict[str, float]
    """What its rule goes by, by name."""


class Alternative(Record):
    """What another way would have answered on the same candidates."""

    selection: str
    draws: int
    tokens: float
    selected: int
    """Place of the candidate that is the answer."""
    correct: bool | None
    """None where it is not known."""


def follow(
    policy: AnyPolicy, candidates: Candidates, prior: Prior | None, ends: Sequence[int] | None = None
) -> list[Step]:
    """What the policy decides before the first candidate of a question, and after each round.

    Parameters
    ----------
    candidates : of one question, arrays (1, n); scores all NaN where nothing scored them.
    ends : candidates in all after each round that was; None: those of the policy's own rounds, up to n.

    Raises
    ------
    ConfigError, ScoreError
        If the policy goes by what is not known: answers, scores, the prior.
    """
    steps = [_step(policy, candidates, prior, 0)]
    if ends is not None:
        return steps + [_step(policy, candidates, prior, end) for end in ends]
    while (more := steps[-1].decision.more) and steps[-1].decision.drawn + more <= candidates.scores.shape[1]:
        steps.append(_step(policy, candidates, prior, steps[-1].decision.drawn + more))
    return steps


def _step(policy: AnyPolicy, candidates: Candidates, prior: Prior | None, drawn: int) -> Step:
    seen = candidates.first(drawn)
    answers = seen.answers if (candidates.answers >= 0).any() else None
    scored = not np.isnan(candidates.scores).all()
    keys = None if answers is None else [None if a < 0 else str(a) for a in answers[0]]
    decision = decide(
        policy,
        np.nan_to_num(seen.scores[0]) if scored else (),
        prior,
        tokens=seen.tokens[0] if scored or keys is not None else None,
        answers=keys,
    )
    priors = None if prior is None else PriorBatch.of([prior])
    state = State(seen.scores, np.array([drawn]), priors, seen.tokens, answers=answers)
    return Step(decision=decision, evidence=policy.evidence(state))


def alternatives(candidates: Candidates, own: Selection, cap: int) -> list[Alternative]:
    """Fixed N = 1, 4, 8 and the cap, as far as there are candidates, with each selection that can be made.

    Parameters
    ----------
    candidates : of one question, arrays (1, n).
    own : the policy's selection; the best score and the majority are beside it.
    """
    known = candidates.scores.shape[1]
    scored, answered = not np.isnan(candidates.scores).all(), bool((candidates.answers >= 0).any())
    found = []
    for selection in dict.fromkeys((own, Selection(), Selection(kind="majority"))):
        if (selection.reads_scores and not scored) or (selection.kind != "best_score" and not answered):
            continue
        chosen = selection.count(candidates.answers, candidates.scores if scored else None).chosen[0]
        for size in sorted({n for n in (*SIZES, cap) if n <= min(known, cap)}):
            right = candidates.correct[0, chosen[size - 1]]
            found.append(
                Alternative(
                    selection=selection.kind,
                    draws=size,
                    tokens=float(candidates.tokens[0, :size].sum()),
                    selected=int(chosen[size - 1]),
                    correct=None if np.isnan(right) else bool(right),
                )
            )
    return found
