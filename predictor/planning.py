"""Planning: the cost of a set of questions under a policy, before anything is generated.

A question to come is taken to be like a pool question: a reference question is drawn for it, and the
policy is replayed on that one's own candidates in another order. So scores, lengths and prompts keep
whatever ties them, and no law is assumed. A question's prior only says which reference question it is more
like: each is drawn with odds of the evidence that its scores have under that prior, over the evidence they
have under the population's (Bayes' rule); without a prior of its own all are alike. Reference questions are
a finite sample too, so every replicate weighs them anew (Bayesian bootstrap, Rubin 1981, Ann. Statist. 9):
that moves all questions of a replicate together and does not average out over many questions.
"""

from typing import NamedTuple, Self

import numpy as np
from pydantic import ConfigDict, Field

from data.arrays import Array, IntArray
from data.candidates import Candidates
from data.errors import ConfigError
from data.record import Record
from predictor.policy_base import Policy
from predictor.prior import Prior, PriorBatch
from predictor.replay import outcome

RUNS = 2048  # replayed a policy at most; where there are many priors, at least LEAST a prior
LEAST = 16
ORDERS = 16  # of a reference question's candidates; more would add little, as the questions differ by more
_AT_ONCE = 2**19  # weights of replicates that are held together
LEVEL = 0.95  # chance that a total lies in its range, if the questions are drawn like the reference questions
TINY = 1e-200  # a prior that no reference question fits at all takes any of them


class ReferenceQuestions(NamedTuple):
    """Pool questions that questions to come are taken to be like."""

    candidates: Candidates
    """Arrays (questions, n); token counts that are all 0 are not known."""
    prompt_tokens: Array
    """(questions,)"""
    population: Prior
    """The prior fitted on their scores, which questions' own priors are held against."""
    laws: IntArray | None = None
    """(questions,) laws of the family that they are themselves (`Family.own_laws`); None if none is."""


class Range(Record):
    """A quantity to come: its mean, and the range that it lies in with the chance `LEVEL`."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Array) -> Self:
        """Of values (replicates,); the ends are values that occur, for counts cannot lie between."""
        low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
        return cls(mean=float(values.mean()), low=float(low), high=float(high))


class Forecast(Record):
    """Totals over a set of questions; None where the reference questions' tokens are not known."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    questions: int
    candidates: Range
    rounds: Range
    tokens: Range | None = None
    """Generated tokens."""
    reward_tokens: Range | None = None
    """Tokens that the reward model reads."""
    prompt_tokens: Range | None = None
    """Tokens of the prompts, which each round sends again."""
    reached: Range
    """Share of questions with a score of at least the target."""
    totals: dict[str, Array] = Field(exclude=True, repr=False)
    """(replicates,) totals of each quantity that is known; of ``reached`` the number of questions."""

    def weigh(self, **prices: float) -> Range | None:
        """Range of the sum of quantities times prices, e.g. money; None where one of them is not known."""
        asked = {name: price for name, price in prices.items() if price}
        if not asked.keys() <= self.totals.keys():
            return None
        total = np.zeros_like(self.totals["candidates"])
        return Range.of(sum((p * self.totals[name] for name, p in asked.items()), total))


def estimate(
    policy: Policy,
    priors: PriorBatch,
    reference: ReferenceQuestions,
    replicates: int = 1000,
    seed: int = 0,
) -> Forecast:
    """Forecast what ``policy`` will spend and reach on the questions whose priors are ``priors``.

    A run of the policy on one question does not depend on the others, so at most `RUNS` (`ORDERS` a reference
    question; at least `LEAST` a distinct prior) are replayed for all replicates, and a replicate draws among
    them: time and memory go with the distinct priors, not with questions times replicates.

    Raises
    ------
    ConfigError
        If there are no questions or no reference, their families differ, or the policy's cap is above the
        reference questions' candidates.
    """
    if not len(priors) or not len(reference.prompt_tokens):
        raise ConfigError(
            f"{len(priors)} questions to plan and {len(reference.prompt_tokens)} pool questions"
        )
    rng = np.random.default_rng(seed)
    chosen, runs = _replay_reference(policy, priors, reference, rng)
    totals = _totals(chosen, runs, priors.index, replicates, rng)
    ranges = {name: Range.of(values) for name, values in totals.items()}
    ranges["reached"] = Range.of(totals["reached"] / len(priors))
    return Forecast(questions=len(priors), **ranges, totals=totals)


def _replay_reference(
    policy: Policy, priors: PriorBatch, reference: ReferenceQuestions, rng: np.random.Generator
) -> tuple[IntArray, dict[str, Array]]:
    """Questions drawn for each distinct prior, and each known quantity of a run on them; (priors, each)."""
    if priors.family.name != reference.population.family:
        raise ConfigError(
            f"priors of {priors.family.name}, but a population of {reference.population.family}"
        )
    likelihood = priors.family.log_likelihood(reference.candidates.scores)
    likelihood = np.exp(likelihood - likelihood.max(axis=1, keepdims=True))  # the peak cancels in the odds
    likelihood /= (likelihood @ np.exp(reference.population.log_weights()) + TINY)[:, None]
    each = max(min(RUNS, ORDERS * len(reference.prompt_tokens)) // len(priors.table), LEAST)
    at = (np.arange(each) + rng.random((len(priors.table), 1))) / each  # systematic sampling
    chosen, parts = np.empty(at.shape, dtype=np.int64), []
    for start in range(0, len(at), block := max(RUNS // each, 1)):
        rows = slice(start, start + block)
        line = np.cumsum(np.exp(priors.table[rows]) @ likelihood.T + TINY, axis=1)
        chosen[rows] = [np.searchsorted(x[:-1], a * x[-1]) for x, a in zip(line, at[rows], strict=True)]
        picked = chosen[rows].ravel()
        index = start + np.arange(len(line)).repeat(each)
        asked = PriorBatch(priors.family, priors.table, index, priors.strength)
        if reference.laws is not None:  # of a question to come no law knows the scores
            asked = asked.without(reference.laws[picked])
        shown = reference.candidates.select(picked).shuffled(int(rng.integers(2**31)))
        run = outcome(policy, shown, asked)
        parts.append(run._asdict() | {"prompt_tokens": reference.prompt_tokens[picked] * run.rounds})
    tokens = {**reference.candidates._asdict(), "prompt_tokens": reference.prompt_tokens}
    known = [n for n in parts[0] if "tokens" not in n or tokens[n].any()]
    return chosen, {n: np.concatenate([p[n] for p in parts]).reshape(at.shape) for n in known}


def _totals(
    chosen: IntArray, runs: dict[str, Array], index: IntArray, replicates: int, rng: np.random.Generator
) -> dict[str, Array]:
    """(replicates,) totals of each quantity over questions whose priors are ``index``."""
    priors, asked = np.unique(index, return_counts=True)
    question, block = chosen[priors], max(_AT_ONCE // chosen[priors].size, 1)
    parts = []
    for start in range(0, replicates, block):
        weights = rng.exponential(size=(min(block, replicates - start), chosen.max() + 1))[:, question]
        taken = rng.multinomial(asked, weights / weights.sum(axis=-1, keepdims=True))
        parts.append([np.tensordot(taken, values[priors], 2) for values in runs.values()])
    return dict(zip(runs, np.concatenate(parts, axis=1), strict=True))
