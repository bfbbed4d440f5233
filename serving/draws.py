"""What Best-of-N is asked, what it draws, and what it answers: plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from data.contract import Sampling, ScoreContract
from data.question import Question
from models.generator.base import Candidate, Status
from models.reward.base import StepScores
from predictor.decision import Decision
from predictor.policies import AnyPolicy
from predictor.prior import Prior

Ended = Literal["decided", "deadline", "token budget", "generator", "reward model", "disconnected"]


@dataclass(frozen=True)
class Ask:
    """One question, and what its asker wants."""

    question: Question
    policy: AnyPolicy
    sampling: Sampling
    seed: int
    """The first candidate's; each further one counts on."""
    deadline: float
    """Time of the event loop at which the answer is due."""
    token_budget: int | None = None
    """Generated tokens at most; kept to strictly, for each candidate is reckoned at its longest."""
    ahead: int = 0
    """Candidates kept in flight while a decision is pending; 0 waits for each round."""
    explore: bool = False
    """Draw the whole cap in one round, whatever the policy says."""
    share: float = 0.0
    """Chance with which ``explore`` was drawn; 0 where the request is of a kind that never is."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the generator's requests."""


@dataclass
class Draw:
    """One candidate from the moment that it is asked for."""

    seed: int
    round: int = 0
    """Number of the round, from 0, after which the policy saw it."""
    candidate: Candidate | None = None
    found: StepScores | None = None
    score: float | None = None
    seconds: float = 0.0
    """With the generator; waiting for a place there is not counted."""
    repeated: bool = False
    """Another candidate has the same text, which the reward model read once."""
    estimated_tokens: int = 0
    """Of a candidate that was cancelled: what it had probably generated."""

    @property
    def status(self) -> Status:
        """As in the pool."""
        if self.candidate is None or (self.candidate.status == "complete" and self.found is None):
            return "cancelled"
        if self.candidate.status == "complete" and self.score is None and self.found is not None:
            return "over-length" if self.found.over_length else "failed"
        return self.candidate.status

    @property
    def tokens(self) -> int:
        """Generated tokens."""
        return self.estimated_tokens if self.candidate is None else self.candidate.tokens

    @property
    def unjudged(self) -> bool:
        """It is whole and has steps, and yet the reward model gave no usable score."""
        found = self.found
        whole = self.candidate is not None and self.candidate.status == "complete"
        return whole and (found is None or (self.score is None and bool(found.tokens)))


class Answer(NamedTuple):
    """What came of a question."""

    draws: list[Draw]
    """All candidates in the order asked for, the cancelled ones too."""
    seen: int
    """How many of them, from the first, the last decision rests on."""
    shown: list[Draw]
    """Those that the answer is chosen among."""
    chosen: Draw | None
    """None where there is nothing to answer with."""
    prior: Prior
    decision: Decision
    rounds: int
    ended: Ended
    degraded: tuple[str, ...]
    """What was away or cut short, in words."""
    error: Exception | None
    """The last thing that went wrong upstream."""
    decision_seconds: float
    """Time spent on deciding."""


def log_row(
    answer: Answer,
    ask: Ask,
    contract: ScoreContract,
    request_id: str,
    seconds: float,
    text: bool,
) -> dict[str, Any]:
    """A request as a row of the decision log.

    ``contract`` is the one that its candidates were sampled under. The chance with which the request was
    explored is the row's inclusion probability where it was, its complement where it was not.
    """
    candidates = [
        {
            "round": draw.round,
            "status": draw.status,
            "score": draw.score,
            "step_scores": draw.found.steps if draw.found and draw.score is not None else None,
            "tokens": draw.tokens,
            "prompt_tokens": draw.candidate.prompt_tokens if draw.candidate else 0,
            "reward_tokens": draw.found.tokens if draw.found else 0,
            "seed": draw.seed,
            "seconds": draw.seconds,
            "completion": draw.candidate.text if text and draw.candidate else None,
        }
        for draw in answer.draws
    ]
    chosen = next((n for n, draw in enumerate(answer.draws) if draw is answer.chosen), None)
    return {
        "time": datetime.now(UTC),
        "request_id": request_id,
        "question_id": ask.question.id,
        "messages": ask.question.as_chat() if text else None,
        "contract": contract.model_dump_json(),
        "policy": ask.policy.model_dump_json(),
        "prior": answer.prior.model_dump_json(),
        "action": answer.decision.action,
        "reason": answer.decision.reason,
        "ended": answer.ended,
        "degraded": list(answer.degraded),
        "seen": answer.seen,
        "rounds": answer.rounds,
        "chosen": chosen,
        "explored": ask.explore,
        "inclusion_probability": ask.share if ask.explore else 1 - ask.share,
        "seconds": seconds,
        "candidates": candidates,
    }
