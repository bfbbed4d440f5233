"""What a predictor's priors are worth in decisions: tokens saved against the population's prior.

The same policies (`Value`, over a grid of prices) decide with three priors: the population's prior, the
predictor's, and each question's own law, which nobody can know. Fixed schedules, which read no prior, stand
beside them for every belief: without a predictor one would take them where they are cheaper. For each, the
mixture of policies with the fewest tokens that hits as often in as few rounds is found on some questions;
what is told is what these mixtures then did on others. There they do not hit equally often: a hit or a round
more or less counts as many tokens as the population's mixture would pay for it (the linear programme's
shadow prices).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from data.folds import Fold
from data.question import Question
from data.record import Record
from data.scores import ScoreTable
from predictor.baseline_comparison import schedules
from predictor.decision import Policy
from predictor.policies import Value
from predictor.prior import Prior, PriorBatch
from predictor.replay import Interval, bootstrap, outcomes
from predictor.scored_questions import ScoredQuestions

Array = NDArray[np.float64]
POPULATION, PREDICTOR, KNOWN = "population", "predictor", "oracle"
TOKEN_PRICES = (0.0005, 0.0015, 0.004, 0.01, 0.03)
"""Of a candidate of average length, in hits."""
ROUND_PRICES = (0.0, 0.006, 0.04)
"""In hits."""
_MOST = 1500  # questions on which mixtures are found
Split = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Rows on which mixtures are found, and rows of which is told."""


class PolicyRun(NamedTuple):
    """What a mixture of policies did with each question; every field (questions,)."""

    tokens: Array
    hits: Array
    rounds: Array


class PriorValue(Record):
    """The account, on questions on which no mixture was found.

    Intervals are of 95 %, questions resampled in pairs, mixtures and shadow prices held as they were found.
    """

    questions: int
    rounds_allowed: float
    """Rounds a question, on average, that every belief was allowed."""
    hits_wanted: float
    """Share of questions with a hit that every belief had to reach where mixtures were found."""
    tokens: dict[str, float]
    """Generated tokens a question, by belief."""
    hits: dict[str, float]
    rounds: dict[str, float]
    saved: tuple[float, float, float]
    """Tokens a question that the predictor saves against the population's prior and fixed schedules at equal
    hits and rounds: mean, low, high."""
    hit_price: float
    """Tokens that one hit more costs, as it was counted."""
    round_price: float
    """Tokens that one round less costs."""
    reading: float
    """Tokens a question that the predictor itself reads."""
    hit_difference: tuple[float, float, float]
    """Hits a question more than with the population's prior."""
    gap_closed: tuple[float, float, float] | None
    """Share of the tokens that knowing the law would save; None where that saves nothing to speak of."""
    break_even: float | None
    """Tokens a candidate from which the predictor pays for its reading; None if it saves nothing."""

    @property
    def statement(self) -> str:
        """The account in words."""
        mean, low, high = (value - self.reading for value in self.saved)
        if low > 0:
            verdict = "It pays here"
        elif high < 0:
            verdict = "It does not pay here"
        else:
            verdict = "Whether it pays here cannot be told from so few questions"
        worth = (
            f"from {self.break_even:.0f} tokens a candidate on its saving covers its reading"
            if self.break_even is not None
            else "as it saves no candidates, it pays at no length of candidate"
        )
        if self.gap_closed is None:
            known = "Knowing each question's law would save nothing"
        else:
            known = f"Of what knowing each question's law would save it has {_range(self.gap_closed, 100)} %"
        return (
            f"At {self.rounds_allowed:g} rounds and equal hits, the predictor saves {_range(self.saved)} "
            f"tokens a question against the population's prior and fixed schedules "
            f"({self.tokens[POPULATION]:.0f} tokens) and reads {self.reading:.0f} itself: {mean:+.1f} in all "
            f"({low:+.1f} to {high:+.1f}). {verdict}; {worth}. {known}. Hits differ by "
            f"{_range(self.hit_difference, 100)} points and rounds are {self.rounds[PREDICTOR]:.2f} to "
            f"{self.rounds[POPULATION]:.2f}; a point counts {self.hit_price / 100:.0f} tokens, a tenth of a "
            f"round {self.round_price / 10:.0f}. {self.questions} questions."
        )


def measure_prior_value(
    policy: Policy,
    whole: ScoredQuestions,
    unseen: tuple[Fold, ...],
    population: Prior,
    tokens_read: Callable[[Question], int],
) -> PriorValue:
    """The predictor's value in decisions on the test fold; policies are found on the folds ``unseen``.

    ``whole`` are questions with candidates up to the cap, with the predictor's priors; target and cap are
    those of ``policy``.
    """
    table = whole.table
    priors = {
        POPULATION: PriorBatch.of([population] * len(table)),
        PREDICTOR: whole.priors,
        KNOWN: PriorBatch.oracle(population, table.scores),
    }
    laws = priors[POPULATION].family.own_laws(table.scores)
    priors = {name: belief.without(laws) for name, belief in priors.items()}
    split = (np.flatnonzero(np.isin(table.folds, unseen)), np.flatnonzero(table.folds == "test"))
    reading = float(np.mean([tokens_read(question) for question in table.fold("test").questions]))
    return prior_value(policy.target, policy.cap, table, priors, [split], reading)


def prior_value(
    target: float,
    cap: int,
    table: ScoreTable,
    priors: Mapping[str, PriorBatch],
    splits: Sequence[Split],
    reading: float,
    rounds: float = 2.0,
    orders: int = 2,
) -> PriorValue:
    """Hold three priors of the table's questions against each other at equal hits and rounds.

    Each of ``splits`` finds mixtures on its first rows and tells of its second ones, which no two splits may
    share. ``reading`` is what the predictor reads, in tokens a question; ``rounds`` what a question may take
    on average. The hits wanted are nearly those of the whole cap.
    """
    grid = _policies(target, cap, table)
    fixed = _courses(target, cap, schedules(target, cap), table, None, orders)
    courses = {n: _courses(target, cap, grid, table, belief, orders) + fixed for n, belief in priors.items()}
    parts: dict[str, list[PolicyRun]] = {name: [] for name in priors}
    prices, wanted = [], []
    for rows, told in splits:
        known = rows[np.linspace(0, len(rows) - 1, min(len(rows), _MOST)).astype(int)]
        full = table.scores[known, :cap].max(axis=1) >= target
        wanted.append(0.98 * full.mean())
        for name in priors:
            weights, price = _mixture([_take(c, known) for c in courses[name]], wanted[-1], rounds)
            parts[name].append(_mix([_take(c, told) for c in courses[name]], weights))
            if name == POPULATION:
                prices.append(np.tile(price, (len(told), 1)))
    done = {name: PolicyRun(*map(np.concatenate, zip(*found, strict=True))) for name, found in parts.items()}
    hit_price, round_price = np.concatenate(prices).T
    flat, ours = done[POPULATION], done[PREDICTOR]

    def saved(course: PolicyRun) -> Array:
        hits, waited = course.hits - flat.hits, course.rounds - flat.rounds
        equal: Array = flat.tokens - course.tokens + hit_price * hits - round_price * waited
        return equal

    most = saved(done[KNOWN])
    gain, closed = bootstrap(saved(ours)), _triple(bootstrap(saved(ours), most))
    told = np.concatenate([rows for _, rows in splits])
    length = _length(cap, table.select(np.isin(np.arange(len(table)), told)))
    return PriorValue(
        questions=len(told),
        rounds_allowed=rounds,
        hits_wanted=float(np.mean(wanted)),
        tokens={n: float(c.tokens.mean()) for n, c in done.items()},
        hits={n: float(c.hits.mean()) for n, c in done.items()},
        rounds={n: float(c.rounds.mean()) for n, c in done.items()},
        saved=_triple(gain),
        hit_price=float(hit_price.mean()),
        round_price=float(round_price.mean()),
        reading=reading,
        hit_difference=_triple(bootstrap(ours.hits - flat.hits)),
        gap_closed=closed if most.mean() > 0 and np.isfinite(closed).all() else None,
        break_even=reading * length / gain.mean if gain.mean > 0 else None,
    )


def _length(cap: int, table: ScoreTable) -> float:
    """Tokens of a candidate, on average."""
    return max(float(table.candidates(cap).tokens.mean()), 1.0)


def _policies(target: float, cap: int, table: ScoreTable) -> list[Value]:
    length = _length(cap, table)
    common: dict[str, Any] = {
        "target": target,
        "cap": cap,
        "candidate_tokens": length,
    }
    return [
        Value(token_price=token / length, round_price=wait, **common)
        for token in TOKEN_PRICES
        for wait in ROUND_PRICES
    ]


def _courses(
    target: float,
    cap: int,
    policies: Sequence[Policy],
    table: ScoreTable,
    priors: PriorBatch | None,
    orders: int,
) -> list[PolicyRun]:
    """Each policy's course."""
    shown = table.candidates(cap)
    found = outcomes(dict(enumerate(policies)), shown, priors, orders, target=target).values()
    return [PolicyRun(o.tokens, o.hit, o.rounds) for o in found]


def _take(course: PolicyRun, rows: NDArray[np.int64]) -> PolicyRun:
    return PolicyRun(*(values[rows] for values in course))


def _mixture(courses: list[PolicyRun], hits: float, rounds: float) -> tuple[Array, Array]:
    """Weights (courses,) of the mixture with the fewest tokens that hits so often in so few rounds.

    And its shadow prices (2,): tokens for a hit more, and for a round less.
    """
    means = np.array([[values.mean() for values in course] for course in courses])
    tokens, hit, waited = means.T
    found = linprog(
        tokens,
        A_ub=[-hit, waited],
        b_ub=[-hits, rounds],
        A_eq=np.ones((1, len(tokens))),
        b_eq=[1.0],
        bounds=(0, 1),
    )
    return found.x, -found.ineqlin.marginals  # the whole cap in one round, a schedule, always fits


def _mix(courses: list[PolicyRun], weights: Array) -> PolicyRun:
    return PolicyRun(
        *(
            sum(w * values for w, values in zip(weights, field, strict=True))
            for field in zip(*courses, strict=True)
        )
    )


def _triple(interval: Interval) -> tuple[float, float, float]:
    return (interval.mean, interval.low, interval.high)


def _range(values: tuple[float, float, float], scale: float = 1.0) -> str:
    mean, low, high = (scale * value for value in values)
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"
