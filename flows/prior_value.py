"""What a predictor's priors are worth in decisions: tokens saved against the population's prior.

The same policies (`Value`, over a grid of prices) decide with three beliefs: the population's prior, the
predictor's, and each question's own law, which nobody can know. For each, the mixture of policies with the
fewest tokens that hits as often in as few rounds is found on questions of the train and tune folds; what is
told is what these mixtures then did on test questions.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from data.scores import ScoreTable
from flows.config import Config
from predictor.policies import Value
from predictor.prior import Beliefs
from predictor.replay import Interval, bootstrap, outcomes
from predictor.settings import Settings

Array = NDArray[np.float64]
POPULATION, PREDICTOR, KNOWN = "population", "predictor", "law known"
TOKEN_PRICES = (0.0005, 0.0015, 0.004, 0.01, 0.03)
"""Of a candidate of average length, in hits."""
ROUND_PRICES = (0.0, 0.006, 0.04)
"""In hits."""
_MOST = 500  # questions on which mixtures are found


class Course(NamedTuple):
    """What a mixture of policies did with each question; every field (questions,)."""

    tokens: Array
    draws: Array
    hits: Array
    rounds: Array


class PriorValue(Settings):
    """The account, on test questions; intervals are of 95 %, questions resampled in pairs."""

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
    """Tokens a question that the predictor saves against the population's prior: mean, low, high."""
    reading: float
    """Tokens a question that the predictor itself reads."""
    hit_difference: tuple[float, float, float]
    """Hits a question more than with the population's prior."""
    gap_closed: tuple[float, float, float]
    """Share of the tokens that knowing the law would save; NaN where that saves nothing."""
    candidates_saved: float
    break_even: float | None
    """Tokens a candidate from which the predictor pays for its reading; None if it saves no candidate."""

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
        share = "none" if np.isnan(self.gap_closed[0]) else f"{_range(self.gap_closed, 100)} %"
        return (
            f"At {self.rounds_allowed:g} rounds and equal hits, the predictor saves {_range(self.saved)} "
            f"tokens a question against the population's prior ({self.tokens[POPULATION]:.0f} tokens) and "
            f"reads {self.reading:.0f} itself: {mean:+.1f} in all ({low:+.1f} to {high:+.1f}). {verdict}; "
            f"{worth}. Of what knowing each question's law would save it has {share}. Hits differ by "
            f"{_range(self.hit_difference, 100)} points; it took {self.rounds[PREDICTOR]:.2f} rounds, the "
            f"population's prior {self.rounds[POPULATION]:.2f}. {self.questions} test questions."
        )


def prior_value(
    config: Config,
    found_on: ScoreTable,
    test: ScoreTable,
    beliefs: Mapping[str, tuple[Beliefs, Beliefs]],
    reading: float,
    rounds: float = 2.0,
    orders: int = 2,
) -> PriorValue:
    """Hold three beliefs (of ``found_on``, of ``test``) against each other at equal hits and rounds.

    ``reading`` is what the predictor reads, in tokens a question; ``rounds`` what a question may take on
    average. The hits wanted are nearly those of the whole cap.
    """
    rows = np.linspace(0, len(found_on) - 1, min(len(found_on), _MOST)).astype(int)
    chosen_on = np.zeros(len(found_on), bool)
    chosen_on[rows] = True
    some = found_on.select(chosen_on)
    grid = _policies(config, some)
    full = float((np.nanmax(some.scores[:, : config.policy.cap], axis=1) >= config.policy.target).mean())
    wanted = 0.98 * full
    told: dict[str, Course] = {}
    for name, (before, after) in beliefs.items():
        weights = _mixture(_courses(config, grid, some, before[rows], 1), wanted, rounds)
        told[name] = _mix(_courses(config, grid, test, after, orders), weights)
    flat, ours, known = (told[name] for name in (POPULATION, PREDICTOR, KNOWN))
    gap = bootstrap(flat.tokens - ours.tokens, flat.tokens - known.tokens)
    pays = (flat.tokens - known.tokens).mean() > 0
    candidates = float((flat.draws - ours.draws).mean())
    return PriorValue(
        questions=len(test),
        rounds_allowed=rounds,
        hits_wanted=wanted,
        tokens={n: float(c.tokens.mean()) for n, c in told.items()},
        hits={n: float(c.hits.mean()) for n, c in told.items()},
        rounds={n: float(c.rounds.mean()) for n, c in told.items()},
        saved=_triple(bootstrap(flat.tokens - ours.tokens)),
        reading=reading,
        hit_difference=_triple(bootstrap(ours.hits - flat.hits)),
        gap_closed=_triple(gap) if pays else (np.nan, np.nan, np.nan),
        candidates_saved=candidates,
        break_even=reading / candidates if candidates > 0 else None,
    )


def _policies(config: Config, table: ScoreTable) -> dict[str, Value]:
    length = max(float(table.candidates(config.policy.cap).tokens.mean()), 1.0)
    common: dict[str, Any] = {
        "target": config.policy.target,
        "cap": config.policy.cap,
        "candidate_tokens": length,
    }
    return {
        f"{token}/{wait}": Value(token_price=token / length, round_price=wait, **common)
        for token in TOKEN_PRICES
        for wait in ROUND_PRICES
    }


def _courses(
    config: Config, policies: Mapping[str, Value], table: ScoreTable, beliefs: Beliefs, orders: int
) -> list[Course]:
    """Each policy's course, and that of the whole cap in one round."""
    shown = table.candidates(config.policy.cap)
    found = outcomes(policies, shown, beliefs, orders, target=config.policy.target).values()
    courses = [Course(o.tokens, o.draws, o.hit, o.rounds) for o in found]
    whole = np.full(len(table), float(config.policy.cap))
    hits = (shown.scores.max(axis=1) >= config.policy.target).astype(float)
    return [*courses, Course(shown.tokens.sum(axis=1), whole, hits, np.ones(len(table)))]


def _mixture(courses: list[Course], hits: float, rounds: float) -> Array:
    """Weights (courses,) of the mixture with the fewest tokens that hits so often in so few rounds."""
    means = np.array([[values.mean() for values in course] for course in courses])
    tokens, _, hit, waited = means.T
    found = linprog(
        tokens,
        A_ub=[-hit, waited],
        b_ub=[-hits, rounds],
        A_eq=np.ones((1, len(tokens))),
        b_eq=[1.0],
        bounds=(0, 1),
    )
    weights: Array = found.x  # the whole cap in one round always fits
    return weights


def _mix(courses: list[Course], weights: Array) -> Course:
    return Course(
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
