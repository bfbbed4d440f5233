"""Replay: what policies would have drawn, hit and answered on scores that are already there."""

from collections.abc import Hashable, Mapping
from typing import NamedTuple, TypeVar

import numpy as np

from data.candidates import Candidates
from data.errors import ConfigError
from predictor.decision import CHUNK, Array, BoolArray, IntArray, NoHitCache, Policy, State
from predictor.prior import PriorBatch

Name = TypeVar("Name", bound=Hashable)
_AT_ONCE = 1_000_000  # questions drawn again at once, over all resamples


class Replay(NamedTuple):
    """A policy's course on each question; every field (questions,)."""

    drawn: IntArray
    """Candidates drawn."""
    rounds: IntArray
    """Rounds they were drawn in."""
    best: Array
    """Best score among them."""
    chosen: IntArray
    """Column of the best candidate (the first of equals)."""
    hit: BoolArray
    """Whether the best score reached the target."""
    required: IntArray
    """N* of the last estimate."""
    feasible: BoolArray
    """Whether that estimate called the target feasible within the cap."""
    waited: Array
    """Tokens that a parallel generator waits for: the longest candidate of each round, summed."""


def replay(
    policy: Policy,
    scores: Array,
    priors: PriorBatch | None = None,
    tokens: Array | None = None,
    cache: NoHitCache | None = None,
) -> Replay:
    """Run ``policy`` over scores (questions, n), drawn from left to right.

    ``cache`` is shared by policies that are replayed over the same scores and priors, of at most `CHUNK`
    questions.

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
    parts = []
    for start in range(0, max(len(scores), 1), CHUNK):
        rows = slice(start, start + CHUNK)
        shown = scores[rows, : policy.cap]
        parts.append(
            _replay(
                policy,
                shown,
                None if priors is None else priors[rows],
                None if tokens is None else tokens[rows, : policy.cap],
                cache or NoHitCache(*shown.shape),  # a policy that plans once asks the same in each round
            )
        )
    return Replay(*(np.concatenate(fields) for fields in zip(*parts, strict=True)))


def round_ends(
    policy: Policy, scores: Array, priors: PriorBatch | None = None, tokens: Array | None = None
) -> list[int]:
    """Candidates drawn at the end of each round of one question, scores and tokens (1, n) in the order drawn.

    The last may be more than n: then the policy asks for candidates that are not there.
    """
    ends, drawn = list[int](), 0
    while drawn < scores.shape[1]:
        more = int(policy.plan(State(scores, np.array([drawn]), priors, tokens)).more[0])
        if not more:
            break
        drawn += more
        ends.append(drawn)
    return ends


def _replay(
    policy: Policy, scores: Array, priors: PriorBatch | None, tokens: Array | None, cache: NoHitCache
) -> Replay:
    drawn = np.zeros(len(scores), dtype=np.int64)
    rounds, required = np.zeros_like(drawn), np.zeros_like(drawn)
    feasible = np.zeros(len(scores), dtype=bool)
    waited, columns = np.zeros(len(scores)), np.arange(scores.shape[1])
    active = np.arange(len(scores))
    while active.size:
        plan = policy.plan(
            State(
                scores[active],
                drawn[active],
                None if priors is None else priors[active],
                None if tokens is None else tokens[active],
                cache,
                active,
            )
        )
        required[active], feasible[active] = plan.required, plan.feasible
        more = np.minimum(plan.more, policy.cap - drawn[active])
        if tokens is not None:
            before, after = drawn[active, None], (drawn[active] + more)[:, None]
            asked = (columns >= before) & (columns < after)
            waited[active] += np.where(asked, tokens[active], 0.0).max(axis=1, initial=0.0)
        drawn[active] += more
        rounds[active] += more > 0
        active = active[more > 0]
    best, column = best_of(np.where(columns < drawn[:, None], scores, np.nan))
    return Replay(drawn, rounds, best, column, best >= policy.target, required, feasible, waited)


class Outcome(NamedTuple):
    """What a policy did with each question, averaged over orders; every field (questions,)."""

    draws: Array
    rounds: Array
    tokens: Array
    """Generated tokens."""
    reward_tokens: Array
    waited: Array
    """Sum over rounds of a round's longest candidate, in tokens."""
    hit: Array
    correct: Array
    """NaN where the question's answer is not known."""
    lost_hit: Array
    """1 where all candidates reach the target and the policy's do not."""
    lost_answer: Array
    """1 where the best of all candidates is right and the policy's is wrong; NaN where not known."""
    lost_accuracy: Array
    """Right answers of the full cap less those of the policy: 1, 0 or -1; NaN where not known."""
    promised: Array
    """Share of orders in which the policy held the target to be feasible."""
    kept: Array
    """Share of orders in which it did and hit."""


def outcomes(
    policies: Mapping[Name, Policy],
    candidates: Candidates,
    priors: PriorBatch | Mapping[Name, PriorBatch | None] | None = None,
    orders: int = 1,
    seed: int = 0,
    target: float | None = None,
) -> dict[Name, Outcome]:
    """Replay every policy over the pool's order (``orders`` = 1), or over that many random ones.

    ``candidates`` are the full cap that losses are paired with. ``priors`` may differ by policy: then
    they are a mapping from its name.
    """
    believed = {name: priors.get(name) if isinstance(priors, Mapping) else priors for name in policies}
    questions, n = candidates.scores.shape
    sums: dict[Name, list[Array]] = {name: [] for name in policies}
    for number in range(orders):
        shown = candidates if orders == 1 else candidates.shuffled(seed + number)
        parts: dict[Name, list[Outcome]] = {name: [] for name in policies}
        for start in range(0, max(questions, 1), CHUNK):
            rows = slice(start, start + CHUNK)
            part = shown.select(rows)
            caches: dict[int, NoHitCache] = {}
            for name, policy in policies.items():
                prior = believed[name]
                cache = caches.setdefault(id(prior), NoHitCache(len(part.scores), n))
                parts[name].append(outcome(policy, part, prior and prior[rows], target, cache))
        for name, found in parts.items():
            joined = [np.concatenate(fields) for fields in zip(*found, strict=True)]
            sums[name] = [a + b for a, b in zip(sums[name], joined, strict=True)] if sums[name] else joined
    return {name: Outcome(*(total / orders for total in totals)) for name, totals in sums.items()}


def outcome(
    policy: Policy,
    candidates: Candidates,
    priors: PriorBatch | None = None,
    target: float | None = None,
    cache: NoHitCache | None = None,
) -> Outcome:
    """One policy's course on one order of the candidates, paired with all of them on the same order.

    ``target`` is the score that counts as a hit, the policy's own unless it aims higher.
    """
    course = replay(policy, candidates.scores, priors, candidates.tokens, cache)
    goal = policy.target if target is None else target
    hit = course.best >= goal
    top, top_column = best_of(candidates.scores)
    right = pick(candidates.correct, course.chosen)
    top_right = pick(candidates.correct, top_column)
    known = ~np.isnan(candidates.correct).all(axis=1)
    promised = course.feasible.astype(float)
    return Outcome(
        draws=course.drawn.astype(float),
        rounds=course.rounds.astype(float),
        tokens=spent(candidates.tokens, course.drawn),
        reward_tokens=spent(candidates.reward_tokens, course.drawn),
        waited=course.waited,
        hit=hit.astype(float),
        correct=np.where(known, right, np.nan),
        lost_hit=((top >= goal) & ~hit).astype(float),
        lost_answer=np.where(known, (top_right == 1) & (right != 1), np.nan).astype(float),
        lost_accuracy=np.where(known, (top_right == 1) * 1.0 - (right == 1), np.nan),
        promised=promised,
        kept=promised * hit,
    )


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
    rng, means, rows = np.random.default_rng(seed), np.empty(resamples), max(_AT_ONCE // top.size, 1)
    for start in range(0, resamples, rows):
        part = means[start : start + rows]
        chosen = rng.integers(0, top.size, (len(part), top.size))
        with np.errstate(divide="ignore", invalid="ignore"):
            part[:] = top[chosen].sum(axis=1) / below[chosen].sum(axis=1)
    low, high = np.nanquantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(top.sum() / below.sum()), float(low), float(high))


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
