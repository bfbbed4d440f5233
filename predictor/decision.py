"""Decisions: sample m more, accept, or give up, with the reason."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from functools import cached_property, lru_cache
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data.contract import require_scores
from data.errors import ConfigError, ScoreError
from data.record import Record
from predictor.families import get_family
from predictor.prior import Prior, PriorBatch
from predictor.selection import Selection, number_answers
from predictor.votes import Votes

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
CHUNK = 256  # questions planned at once: their tables stay in the cache, and memory stays flat


class Reason(IntEnum):
    """Why a policy samples on or stops; ``words`` says it to a user."""

    words: str

    def __new__(cls, number: int, words: str) -> "Reason":
        member = int.__new__(cls, number)
        member._value_ = number
        member.words = words
        return member

    FIRST_LOOK = 0, "too few scores for a first estimate"
    BOUND_NOT_REACHED = 1, "fewer samples than the bound asks for"
    BOUND_REACHED = 2, "as many samples as the bound asks for"
    CAP_REACHED = 3, "the cap is reached"
    PLAN_DONE = 4, "the planned number of samples is reached"
    PLAN_NOT_DONE = 5, "the planned number of samples is not reached"
    HIT = 6, "a score has reached the target"
    HOPELESS = 7, "a score at the target is too unlikely within the cap"
    WORTH_MORE = 8, "what more samples are expected to gain exceeds their price"
    NOT_WORTH_MORE = 9, "what more samples are expected to gain is below their price"
    VOTES_OPEN = 10, "the answers do not settle it yet"
    VOTES_SETTLED = 11, "more answers are not worth their price"


class Plan(NamedTuple):
    """The next round of many questions; every field (questions,)."""

    more: IntArray
    """Samples to ask for in the next round; 0 stops."""
    reason: IntArray
    """A `Reason`."""
    required: IntArray
    """Samples in all that the policy's estimate asks for; the cap where not feasible."""
    feasible: BoolArray
    """Whether the policy held the target to be within reach of the cap."""


@dataclass(eq=False)
class State:
    """Many questions as a policy sees them: their scores so far, and their priors.

    Parameters
    ----------
    scores : (questions, n) scores in the order drawn, NaN where a candidate has none (it failed, was
        cut, or is over-length): it counts as drawn and as a score of 0, the miss that it is.
    drawn : (questions,) candidates drawn; what lies beyond is not read.
    priors : the questions' priors; None where the policy reads none.
    tokens : (questions, n) completion tokens of the candidates; None where they are not known.
    cache : chances of no hit that were asked for before, of the same scores, priors and ``rows``.
    rows : (questions,) the questions' rows in the cache.
    answers : (questions, n) equal numbers for equal answers of a question, -1 for none; None: not known.
    """

    scores: Array
    drawn: IntArray
    priors: PriorBatch | None = None
    tokens: Array | None = None
    cache: "NoHitCache | None" = None
    rows: IntArray | None = None
    answers: IntArray | None = None

    def __post_init__(self) -> None:
        self.seen = np.arange(self.scores.shape[1]) < self.drawn[:, None]
        self.scores = np.where(self.seen, np.nan_to_num(self.scores), 0.0)
        self.best: Array = self.scores.max(axis=1, initial=0.0)
        self.counted: dict[Selection, Votes] = {}  # a rule and its selection ask for the same

    def __len__(self) -> int:
        return len(self.drawn)

    def at(self, drawn: IntArray) -> "State":
        """The questions as they were after their first ``drawn`` candidates."""
        return replace(self, drawn=np.minimum(self.drawn, drawn))

    def select(self, rows: IntArray) -> "State":
        """Some of the questions."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "cache"}
        chosen: dict[str, Any] = {name: v if v is None else v[rows] for name, v in given.items()}
        return replace(self, **chosen)

    def hit(self, target: float) -> BoolArray:
        """(questions,) whether a score has reached the target."""
        return (self.best >= target) & (self.drawn > 0)

    def count(self, selection: Selection) -> tuple[IntArray, Votes]:
        """The answers, and the vote after each candidate; columns beyond ``drawn`` say nothing.

        Raises
        ------
        ConfigError
            If no answers were given.
        """
        if self.answers is None:
            raise ConfigError("this policy goes by the candidates' answers, and none were given")
        if selection not in self.counted:
            self.counted[selection] = selection.count(self.answers, self.scores)
        return self.answers, self.counted[selection]

    def require_priors(self) -> PriorBatch:
        """The priors.

        Raises
        ------
        ConfigError
            If none were given.
        """
        if self.priors is None:
            raise ConfigError(
                "this policy reads a prior a question, and none was given: give one, or a schedule policy"
            )
        return self.priors

    @cached_property
    def weights(self) -> Array:
        """(questions, laws) posterior: prior times the likelihood of the scores so far, exact on the grid."""
        priors = self.require_priors()
        family, weights = priors.family, priors.table[priors.index]
        if len(self) == 1:  # the rows of a few scores are faster than the whole table
            weights = weights + family.log_mass[family.bin(self.scores[0, : self.drawn[0]])].sum(axis=0)
        else:
            weights = weights + family.log_likelihood(np.where(self.seen, self.scores, np.nan))
        weights -= weights.max(axis=1, keepdims=True)
        np.exp(weights, out=weights)
        weights /= weights.sum(axis=1, keepdims=True)
        return weights

    def no_hit(self, target: float, longest: int) -> Array:
        """(questions, longest + 1) chance that none of m = 0 … longest more samples reaches the target.

        The posterior predictive sum over laws of weight x F(s-)^m: it carries the uncertainty of the
        estimate, which a plug-in of one (mu, sigma) does not.
        """
        if self.cache is not None:
            return self.cache.no_hit(self, target, longest)
        return self.weights @ _miss_powers(self.require_priors().family.name, target, longest)

    def miss_quantile(self, target: float, level: float) -> Array:
        """(questions,) log F(s-) that the question's own exceeds with a chance of at most 1 - level."""
        order, log_miss = _sorted_misses(self.require_priors().family.name, target)
        below = np.cumsum(self.weights[:, order], axis=1)
        return log_miss[np.minimum((below < level).sum(axis=1), len(order) - 1)]


@lru_cache(maxsize=32)
def _miss_powers(family: str, target: float, longest: int) -> Array:
    """(laws, longest + 1) F(s-)^m; the largest tables of a policy, so they are kept."""
    return np.exp(get_family(family).log_miss(target)[:, None] * np.arange(longest + 1))


@lru_cache(maxsize=32)
def _sorted_misses(family: str, target: float) -> tuple[IntArray, Array]:
    """(laws,) order of the laws by log F(s-), and these in that order."""
    log_miss = get_family(family).log_miss(target)
    order = np.argsort(log_miss)
    return order, log_miss[order]


class NoHitCache:
    """Results of `State.no_hit` by question and candidates drawn, for policies that are replayed beside
    each other: they meet the same scores again and again.
    """

    def __init__(self) -> None:
        self.curves: dict[tuple[float, int], dict[tuple[int, int], Array]] = {}
        """By target and length, then by the question's row and the candidates drawn: (length + 1,)."""

    def no_hit(self, state: State, target: float, longest: int) -> Array:
        """See `State.no_hit`."""
        assert state.rows is not None
        curves = self.curves.setdefault((target, longest), {})
        keys = list(zip(state.rows.tolist(), state.drawn.tolist(), strict=True))
        if new := [place for place, key in enumerate(keys) if key not in curves]:
            fresh = State(state.scores[new], state.drawn[new], state.require_priors()[new])
            chances = fresh.no_hit(target, longest)
            curves.update((keys[place], row) for place, row in zip(new, chances, strict=True))
        return np.stack([curves[key] for key in keys])


class Policy(Protocol):
    """From a state to a plan. A policy is a small frozen value that is JSON in and out."""

    @property
    def target(self) -> float: ...

    @property
    def cap(self) -> int: ...

    @property
    def selection(self) -> Selection: ...

    def plan(self, state: State) -> Plan:
        """Plan the next round of each question."""


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
