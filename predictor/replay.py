"""Replay: what policies would have drawn, hit and answered on scores that are already there."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from data.arrays import Array, BoolArray, IntArray
from data.candidates import Candidates
from data.errors import ConfigError
from predictor.policy_base import Policy
from predictor.prior import PriorBatch
from predictor.state import CHUNK, NoHitCache, State

_AT_ONCE = 1_000_000  # questions drawn again at once, over all resamples


class Replay(NamedTuple):
    """A policy's run on each question; every field (questions,)."""

    drawn: IntArray
    """Candidates drawn."""
    rounds: IntArray
    """Rounds they were drawn in."""
    best: Array
    """Best score among them."""
    chosen: IntArray
    """Column of the candidate that is the answer."""
    hit: BoolArray
    """Whether the best score reached the target."""
    required: IntArray
    """N* of the last estimate."""
    feasible: BoolArray
    """Whether that estimate called the target feasible within the cap."""


def replay(
    policy: Policy,
    scores: Array,
    priors: PriorBatch | None = None,
    tokens: Array | None = None,
    cache: NoHitCache | None = None,
    answers: IntArray | None = None,
) -> Replay:
    """Run ``policy`` over scores (questions, n), drawn from left to right.

    ``cache`` is shared by policies that are replayed over the same scores and priors. ``answers`` (equal
    numbers for equal ones, -1 for none) are for policies and selections that go by them.

    Raises
    ------
    ConfigError
        If the policy's cap is larger than the number of candidates on hand.

    Examples
    --------
    >>> from predictor import Schedule
    >>> replay(Schedule(target=0.9, cap=3), np.array([[0.2, 0.95, 0.3], [0.5, 0.5, 0.5]])).drawn
    array([3, 3])
    """
    if policy.cap > scores.shape[1]:
        raise ConfigError(
            f"the policy draws up to {policy.cap} candidates, but the pool has {scores.shape[1]} a "
            "question; lower the cap or collect more candidates"
        )
    scores = scores[:, : policy.cap]
    answers = None if answers is None else answers[:, : policy.cap]
    cache = cache or NoHitCache()  # a policy that plans once asks the same in each round
    chunks = [np.arange(len(scores))[rows] for rows in _chunks(len(scores))]
    parts = [_replay(policy, scores, priors, tokens, cache, answers, rows) for rows in chunks]
    return Replay(*(np.concatenate(fields) for fields in zip(*parts, strict=True)))


def _chunks(questions: int) -> list[slice]:
    """Rows in slices of `CHUNK`; one empty slice of nothing."""
    return [slice(start, start + CHUNK) for start in range(0, max(questions, 1), CHUNK)]


def round_ends(
    policy: Policy,
    scores: Array,
    priors: PriorBatch | None = None,
    tokens: Array | None = None,
    answers: IntArray | None = None,
) -> list[int]:
    """Candidates drawn at the end of each round of one question; arrays (1, n) in the order drawn.

    The last may be more than n: then the policy asks for candidates that are not there.
    """
    ends, drawn = list[int](), 0
    while drawn < scores.shape[1]:
        state = State(scores, np.array([drawn]), priors, tokens, answers=answers)
        more = int(policy.plan(state).more[0])
        if not more:
            break
        drawn += more
        ends.append(drawn)
    return ends


def _replay(
    policy: Policy,
    scores: Array,
    priors: PriorBatch | None,
    tokens: Array | None,
    cache: NoHitCache,
    answers: IntArray | None,
    rows: IntArray,
) -> Replay:
    """The replay of some rows of the scores."""
    columns = np.arange(scores.shape[1])
    drawn, rounds, required = np.zeros((3, len(rows)), dtype=np.int64)
    feasible, active = np.zeros(len(rows), dtype=bool), np.arange(len(rows))
    while active.size:
        asked = rows[active]
        prior = None if priors is None else priors[asked]
        lengths = None if tokens is None else tokens[asked, : policy.cap]
        given = None if answers is None else answers[asked]
        plan = policy.plan(State(scores[asked], drawn[active], prior, lengths, cache, asked, given))
        required[active], feasible[active] = plan.required, plan.feasible
        after = np.minimum(drawn[active] + plan.more, policy.cap)
        going = after > drawn[active]
        drawn[active] = after
        rounds[active] += going
        active = active[going]
    best, column = best_of(np.where(columns < drawn[:, None], scores[rows], np.nan))
    if (by := policy.selection).kind != "best_score":
        if answers is None:
            raise ConfigError(f"a selection by {by.kind} needs the candidates' answers, and none were given")
        column = by.count(answers[rows], scores[rows]).chosen[np.arange(len(rows)), drawn - 1]
    return Replay(drawn, rounds, best, column, best >= policy.target, required, feasible)


class Outcome(NamedTuple):
    """What a policy takes and reaches on each question; every field (questions,), averaged over orders."""

    candidates: Array
    rounds: Array
    tokens: Array
    """Generated tokens."""
    reward_tokens: Array
    """Tokens that the reward model reads."""
    reached: Array
    """Whether one of the candidates drawn reaches the target."""


def outcomes(
    policies: Sequence[Policy],
    candidates: Candidates,
    priors: PriorBatch | None = None,
    orders: int = 1,
    target: float | None = None,
) -> list[Outcome]:
    """Replay every policy over the pool's order (``orders`` = 1), or over that many random ones."""
    totals = np.zeros((len(policies), len(Outcome._fields), len(candidates.scores)))
    for number in range(orders):
        shown = candidates if orders == 1 else candidates.shuffled(number)
        for rows in _chunks(len(shown.scores)):
            part, prior, cache = shown.select(rows), None if priors is None else priors[rows], NoHitCache()
            for place, policy in enumerate(policies):
                totals[place, :, rows] += outcome(policy, part, prior, target, cache)
    return [Outcome(*total / orders) for total in totals]


def outcome(
    policy: Policy,
    candidates: Candidates,
    priors: PriorBatch | None = None,
    target: float | None = None,
    cache: NoHitCache | None = None,
) -> Outcome:
    """Replay one policy over one order of the candidates.

    ``target`` is the score that counts as a hit, the policy's own unless it aims higher.
    """
    run = replay(policy, candidates.scores, priors, candidates.tokens, cache, candidates.answers)
    drawn = np.arange(candidates.scores.shape[1]) < run.drawn[:, None]
    hit = candidates.scores >= (policy.target if target is None else target)
    spent, read = (np.where(drawn, v, 0.0).sum(axis=1) for v in (candidates.tokens, candidates.reward_tokens))
    reached = (hit & drawn).any(axis=1)
    return Outcome(run.drawn.astype(float), run.rounds.astype(float), spent, read, reached.astype(float))


class Interval(NamedTuple):
    """A mean with a bootstrap interval."""

    mean: float
    low: float
    high: float


def bootstrap(
    values: Array, weights: Array | None = None, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Mean over questions (NaN left out) and its percentile interval, questions resampled.

    ``weights`` makes it a ratio of sums, values over weights; for a paired difference give differences.
    """
    known = ~np.isnan(values)
    top = values[known]
    below = np.ones_like(top) if weights is None else weights[known]
    if not top.size or not below.sum():
        return Interval(np.nan, np.nan, np.nan)
    mean = float(top.sum() / below.sum())
    if top.size == 1:
        return Interval(mean, mean, mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        means = stats.bootstrap(
            (top, below),
            lambda values, weights, axis: values.sum(axis) / weights.sum(axis),
            paired=True,
            vectorized=True,
            n_resamples=resamples,
            batch=max(_AT_ONCE // top.size, 1),
            method="percentile",
            rng=np.random.default_rng(seed),
        ).bootstrap_distribution
    low, high = np.nanquantile(means, [(1 - level) / 2, (1 + level) / 2])  # NaN: a resample without weight
    return Interval(mean, float(low), float(high))


def resampled(count: int, resamples: int, seed: int) -> Array:
    """(1 + resamples, count) weights of questions: all alike, and then as often as each is drawn again."""
    alike = np.full(count, 1 / count)
    return np.vstack([alike, np.random.default_rng(seed).multinomial(count, alike, resamples) / count])


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
