"""What Best-of-N is asked, what it draws, and what it answers: plain values."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np

from data.answers import answer_digest
from data.contract import Sampling, ScoreContract
from data.question import Question
from data.record import Record
from models.generator.base import Candidate, Status
from models.reward.base import StepScores
from predictor.decision import Decision
from predictor.policies import AnyPolicy
from predictor.prior import Prior
from predictor.selection import Selection, number_answers

Ended = Literal["decided", "deadline", "token budget", "generator", "reward model", "disconnected"]


@dataclass(frozen=True)
class Ask:
    """One question, and how it is to be answered.

    Parameters
    ----------
    seed : the first candidate's; each further one counts on.
    deadline : time of the event loop at which the answer is due.
    token_budget : generated tokens at most; kept to strictly, for each candidate is reckoned at its longest.
    ahead : candidates kept in flight while a decision is pending; 0 waits for each round.
    explore : draw the whole cap in one round, whatever the policy says.
    explore_share : chance with which ``explore`` was drawn; 0 where the request is of a kind that never is.
    extra_fields : further fields of the generator's requests.
    read : from a text to the key of its answer where it is asked for in a form; a text that gives none is a
        miss, and no answer. None: the answer that the text marks.
    """

    question: Question
    policy: AnyPolicy
    sampling: Sampling
    seed: int
    deadline: float
    token_budget: int | None = None
    ahead: int = 0
    explore: bool = False
    explore_share: float = 0.0
    extra_fields: Mapping[str, Any] = field(default_factory=dict)
    read: Callable[[str], str | None] | None = None


@dataclass
class Draw:
    """One candidate from the moment that it is asked for.

    Parameters
    ----------
    candidate : ``cancelled`` until the generator has given it, and of no tokens; where it never does, with
        the tokens that it had probably generated.
    answer : key of its answer (`data.answers.answer_key`); None until there is one, and where it has none.
    step_scores : None until the reward model has answered.
    score : in [0, 1]; None until the reward model has given one that can be used.
    round : number of the round, from 0, after which the policy saw it.
    seconds : with the generator; waiting for a place there is not counted.
    repeated : another candidate has the same text, which the reward model read once.
    judged : there is a reward model to score it.
    """

    candidate: Candidate
    answer: str | None = None
    step_scores: StepScores | None = None
    score: float | None = None
    raw_score: float | None = None
    round: int = 0
    seconds: float = 0.0
    repeated: bool = False
    judged: bool = True

    @property
    def given(self) -> bool:
        """The generator has answered, if only that it failed."""
        return self.candidate.status != "cancelled"

    @property
    def complete(self) -> bool:
        """The generator ended it by itself."""
        return self.candidate.status == "complete"

    @property
    def lost(self) -> bool:
        """The generator gave nothing at all in its place."""
        return self.candidate.status == "failed" and self.candidate.text is None

    @property
    def whole(self) -> bool:
        """It is complete and has a text."""
        return self.complete and bool(self.text.strip())

    @property
    def text(self) -> str:
        """Its text; empty where there is none."""
        return self.candidate.text or ""

    @property
    def tokens(self) -> int:
        """Generated tokens."""
        return self.candidate.tokens

    @property
    def status(self) -> Status:
        """As in the pool, where a complete candidate has a score, or where none is scored a text."""
        if not self.complete or self.score is not None or (not self.judged and self.text.strip()):
            return self.candidate.status
        if not self.judged:
            return "failed"
        if self.step_scores is None:
            return "cancelled"
        return "over-length" if self.step_scores.over_length else "failed"

    @property
    def unscored(self) -> bool:
        """It is complete and has steps, and yet the reward model gave no usable score."""
        scores = self.step_scores
        return (
            self.judged and self.complete and (scores is None or (self.score is None and scores.tokens > 0))
        )


def select_draw(draws: Sequence[Draw], selection: Selection) -> Draw | None:
    """The candidate that a selection takes, as replay does; a whole one where that is not.

    Replay counts a candidate that failed or was cut like any other miss, and may take it; a client is owed a
    whole text, the one with the same answer if there is one. A cut one is delivered where others gave its
    answer too, or where no candidate is whole. None where none has a text.
    """
    if not draws:
        return None
    scores = np.array([[draw.score or 0.0 for draw in draws]])
    chosen = draws[selection.choose(number_answers([draw.answer for draw in draws]), scores)]
    if chosen.whole:
        return chosen
    alike = [draw for draw in draws if draw.answer == chosen.answer and draw.answer is not None]
    cut = [draw for draw in draws if draw.candidate.status == "cut" and draw.text.strip()]
    voted = [chosen] if chosen in cut and len(alike) > 1 and not selection.reads_scores else []
    for among in ([d for d in alike if d.whole], voted, [d for d in draws if d.whole], cut):
        if among:
            return among[0]
    return None


def best_first(answer: "Answer", count: int) -> list[Draw]:
    """The chosen candidate, then what the same selection takes of the rest; ``count`` at most."""
    ranked, left, best = list[Draw](), list(answer.shown), answer.chosen
    while best is not None:
        ranked.append(best)
        left = [draw for draw in left if draw is not best]
        best = select_draw(left, answer.selection) if len(ranked) < count else None
    return ranked


class Tokens(Record):
    """Where the tokens went."""

    generated: int
    """By all candidates, cancelled ones included."""
    thrown_away: int
    """Of these, by candidates other than the answer."""
    cancelled_estimate: int
    """Of these, by cancelled candidates, reckoned by their time."""
    reward: int
    """Read by the reward model."""


@dataclass(eq=False)
class Answer:
    """What came of a question.

    Parameters
    ----------
    prior : what was expected of the scores; None where nothing scores candidates.
    decision : the last one that was taken.
    draws : all candidates in the order asked for, the cancelled ones too.
    seen : how many of them, from the first, the decision rests on.
    rounds : how often the policy went on.
    chosen : None where there is nothing to answer with.
    selection : how it was chosen: as the policy says, or by majority where there are none of the scores that
        it needs.
    degraded : what was away or cut short, in words.
    error : the last thing that went wrong upstream.
    cause : why candidates failed, in words.
    decision_seconds : time spent on deciding.
    """

    ask: Ask
    prior: Prior | None
    decision: Decision = field(init=False)
    draws: list[Draw] = field(default_factory=list)
    seen: int = 0
    rounds: int = 0
    chosen: Draw | None = None
    selection: Selection = field(init=False)
    ended: Ended = "decided"
    degraded: list[str] = field(default_factory=list)
    error: Exception | None = None
    cause: str = ""
    decision_seconds: float = 0.0

    @property
    def shown(self) -> list[Draw]:
        """The candidates that the answer is chosen among."""
        of_all = self.ask.explore or self.ended in {"deadline", "disconnected"}
        return self.draws if of_all else self.draws[: self.seen]

    @property
    def votes(self) -> int:
        """Candidates, of those that the answer is chosen among, that have its answer; 0 where it has none."""
        key = self.chosen.answer if self.chosen else None
        return 0 if key is None else sum(draw.answer == key for draw in self.shown)

    @property
    def tokens(self) -> Tokens:
        """Where the tokens went; equal texts were read once by the reward model."""
        generated = sum(draw.tokens for draw in self.draws)
        read = (draw.step_scores.tokens for draw in self.draws if draw.step_scores and not draw.repeated)
        return Tokens(
            generated=generated,
            thrown_away=generated - (self.chosen.tokens if self.chosen else 0),
            cancelled_estimate=sum(draw.tokens for draw in self.draws if not draw.given),
            reward=sum(read),
        )


def log_row(
    answer: Answer,
    contract: ScoreContract,
    request_id: str,
    seconds: float,
    text: bool,
    model_version: str | None = None,
    promise: str | None = None,
) -> dict[str, Any]:
    """A request as a row of the decision log.

    ``contract`` is the one that its candidates were sampled under, ``model_version`` the predictor's and
    ``promise`` the certificate's statement, where one stands behind the policy; ``text`` logs messages,
    completions and answers too, where else answers are digests. The chance with which the request was
    explored is the row's inclusion probability where it was, its complement where it was not.
    """
    ask, share = answer.ask, answer.ask.explore_share
    candidates = [
        {
            "round": draw.round,
            "status": draw.status,
            "score": draw.score,
            "raw_score": draw.raw_score if contract.scale == "raw" else None,
            "step_scores": draw.step_scores.steps if draw.step_scores and draw.score is not None else None,
            "tokens": draw.tokens,
            "prompt_tokens": draw.candidate.prompt_tokens,
            "reward_tokens": draw.step_scores.tokens if draw.step_scores else 0,
            "seed": draw.candidate.seed,
            "seconds": draw.seconds,
            "completion": draw.candidate.text if text else None,
            "answer_key": _kept(draw.answer, ask.question.id, text),
        }
        for draw in answer.draws
    ]
    return {
        "time": datetime.now(UTC),
        "request_id": request_id,
        "question_id": ask.question.id,
        "messages": ask.question.as_chat() if text else None,
        "contract": contract.model_dump_json(),
        "policy": ask.policy.model_dump_json(),
        "prior": "null" if answer.prior is None else answer.prior.model_dump_json(),
        "model_version": model_version,
        "promise": promise,
        "action": answer.decision.action,
        "reason": answer.decision.reason,
        "ended": answer.ended,
        "degraded": answer.degraded,
        "seen": answer.seen,
        "rounds": answer.rounds,
        "chosen": next((n for n, draw in enumerate(answer.draws) if draw is answer.chosen), None),
        "selection": answer.selection.kind,
        "votes": answer.votes,
        "explored": ask.explore,
        "inclusion_probability": share if ask.explore else 1 - share,
        "seconds": seconds,
        "candidates": candidates,
    }


def _kept(key: str | None, question_id: str, text: bool) -> str | None:
    """An answer's key, or its digest: votes can be counted, and a known answer found, without a text."""
    return key if text or key is None else answer_digest(question_id, key)
