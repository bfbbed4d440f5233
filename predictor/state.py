"""What a policy sees of many questions: candidates so far, priors, and what follows from them."""

from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from data.arrays import Array, BoolArray, IntArray
from data.errors import ConfigError
from predictor.families import get_family
from predictor.prior import PriorBatch
from predictor.selection import Selection
from predictor.votes import Votes

CHUNK = 256  # questions planned at once: their tables stay in the cache, and memory stays flat


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
