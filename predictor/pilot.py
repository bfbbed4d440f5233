"""What a pilot of some 50 to 300 questions shows.

How right one candidate is and all are, whether candidates are independent draws, what a verifier is worth.

Candidates of one question that are independent draws from its law can be put in any order. So what blocks of
N neighbours are worth is held against blocks of N in random orders; where neighbours share a seed, a cache or
a state they are worth less, as much as a smaller number of independent draws: the effective N.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from data.arrays import Array
from data.candidates import Candidates
from data.errors import ConfigError
from predictor.replay import Interval, bootstrap, pick, resampled
from predictor.selection import Selection, choose_weights
from predictor.stopping import fixed_sizes

LEAST, ENOUGH, MOST = 50, 100, 300
"""Questions: fewer tell nothing; with so many no candidates are given up for more of them; at most."""
FEWEST = 4
"""Candidates a question at least."""
ORDERS = 20
RESAMPLES = 1000
LEVEL = 0.99
"""Confidence at which candidates are called dependent."""
TRIFLE = 0.1
"""Share of the draws that the effective N may be smaller by before it matters."""
ANY, BEST, MAJORITY, VOTE, TOP = "any right", "best score", "majority", "weighted vote", "highest score"
KINDS = {BEST: Selection(), MAJORITY: Selection(kind="majority"), VOTE: Selection(kind="weighted_vote")}


class Plan(NamedTuple):
    """What a budget is spent on."""

    questions: int
    candidates: int
    """A question."""


def plan(budget: int, candidate_tokens: float, available: int, cap: int) -> Plan:
    """Questions and candidates that a budget of generated tokens has room for.

    The cap halves until a hundred questions fit, or all there are, or at least `LEAST` with the fewest
    candidates.

    Raises
    ------
    ConfigError
        If not even those fit; says what would.
    """
    sizes = [size for k in range(cap.bit_length()) if (size := cap >> k) >= min(FEWEST, cap)]
    for wanted in (ENOUGH, LEAST):
        for size in sizes:
            fit = int(budget / (candidate_tokens * size))
            if fit >= min(wanted, available):
                return Plan(min(fit, available, MOST), size)
    least = int(np.ceil(candidate_tokens * sizes[-1] * min(LEAST, available)))
    raise ConfigError(
        f"a budget of {budget:,} tokens is too small: {min(LEAST, available)} questions with {sizes[-1]} "
        f"candidates of {candidate_tokens:.0f} tokens take {least:,}"
    )


class Block(NamedTuple):
    """What N neighbours are worth."""

    draws: int
    effective: float
    """Independent draws that are worth as much, and its 95 % interval over questions."""
    low: float
    high: float


class Curve(NamedTuple):
    """One quantity of blocks of neighbours, at several N."""

    name: str
    blocks: tuple[Block, ...]
    difference: Interval
    """From independent draws, over all N; of confidence `LEVEL`."""

    @property
    def shown(self) -> bool:
        """Whether neighbours are shown to be worth another number of draws than they are."""
        return self.difference.low > 0 or self.difference.high < 0

    @property
    def matters(self) -> bool:
        """Whether they are worth fewer, by more than a tenth."""
        return self.difference.high < 0 and self.blocks[-1].effective < (1 - TRIFLE) * self.blocks[-1].draws


class Verifier(NamedTuple):
    """What scores add to a vote, and what they cost."""

    vote: Interval
    """Right answers of the weighted vote less those of the majority, of the same candidates."""
    best: Interval
    """The same of the best score."""
    tokens: float
    """Read by the reward model a question."""
    share: float
    """Of the generated tokens."""
    price: float
    """Of a token read, in generated ones."""
    fewer: int
    """Candidates that can be scored for what all cost unscored."""
    at_equal_cost: Interval
    """Right answers of the weighted vote of so many less those of the majority of all."""

    @property
    def keep(self) -> bool:
        """Whether it is shown to add right answers."""
        return self.vote.low > 0


class Findings(NamedTuple):
    """What a pilot shows."""

    questions: int
    candidates: int
    accuracy: dict[str, Interval]
    """Share right of a single candidate and of each selection from all; empty where no verdict is known."""
    gain: Interval | None
    """Right answers of the vote (weighted, where there are scores) less those of a single candidate."""
    curves: tuple[Curve, ...]
    verifier: Verifier | None


def examine(candidates: Candidates, price: float = 1.0, seed: int = 0) -> Findings:
    """All that a pilot shows of candidates (questions, n).

    Accuracy is that of the questions whose verdicts are all known; the weighted vote is cross-fitted.
    ``price`` is that of a token read by the verifier, in generated tokens.
    """
    known = candidates.select(np.flatnonzero(~np.isnan(candidates.correct).any(axis=1)))
    judged, scored = len(known.scores) > 1, not np.isnan(candidates.scores).all()
    values = _right(known, scored) if judged else {}
    vote, n = values.get(VOTE, values.get(MAJORITY)), candidates.scores.shape[1]
    return Findings(
        questions=len(candidates.scores),
        candidates=n,
        accuracy={name: bootstrap(right) for name, right in values.items()},
        gain=None if vote is None else bootstrap(vote - values["single"]),
        curves=tuple(_curves(known if judged else candidates, scored, judged, seed)),
        verifier=_verifier(known, values, price) if VOTE in values else None,
    )


def _right(known: Candidates, scored: bool) -> dict[str, Array]:
    """(questions,) whether each way is right with all candidates."""
    found, answered = {"single": known.correct.mean(axis=1)}, bool((known.answers >= 0).any())
    if scored:
        found[BEST] = delivered(known, Selection())
    if answered:
        found[MAJORITY] = delivered(known, Selection(kind="majority"))
    if scored and answered:
        found[VOTE] = _cross_fitted(known, known.scores.shape[1])
    return found


def delivered(candidates: Candidates, selection: Selection) -> Array:
    """(questions,) verdict on the answer that is selected of all candidates."""
    return pick(candidates.correct, selection.count(candidates.answers, candidates.scores).chosen[:, -1])


def _cross_fitted(known: Candidates, draws: int) -> Array:
    """(questions,) verdict on the weighted vote of the first ``draws``; the other half chose its weights."""
    right = np.empty(len(known.scores))
    for half in (0, 1):
        rows, others = np.arange(half, len(right), 2), np.arange(1 - half, len(right), 2)
        right[rows] = delivered(known.select(rows).first(draws), choose_weights(known.select(others)))
    return right


def _verifier(known: Candidates, values: Mapping[str, Array], price: float) -> Verifier:
    generated, read = (float(v.sum(axis=1).mean()) for v in (known.tokens, known.reward_tokens))
    fewer = max(int(known.scores.shape[1] * generated / (generated + price * read)), 1)
    ways = (values[VOTE], values[BEST], _cross_fitted(known, fewer))
    vote, best, equal = (bootstrap(right - values[MAJORITY]) for right in ways)
    return Verifier(vote, best, read, read / generated, price, fewer, equal)


def _curves(candidates: Candidates, scored: bool, judged: bool, seed: int) -> Iterator[Curve]:
    """Each quantity that the candidates have."""
    cap, answered = candidates.scores.shape[1], bool((candidates.answers >= 0).any())
    has = {TOP: scored, ANY: judged, BEST: judged and scored, VOTE: judged and scored and answered}
    has[MAJORITY] = judged and answered and not scored
    sizes = fixed_sizes(cap)
    asked = [n for n in sizes if n & (n - 1) == 0 and 1 < n <= cap // 2]
    orders = [candidates.shuffled(seed + number) for number in range(ORDERS if asked else 0)]
    for name in (name for name, there in has.items() if there and asked):
        drawn = {n: np.stack([_blocks(order, name, n) for order in orders]) for n in sizes}
        yield _curve(name, {n: _blocks(candidates, name, n) for n in asked}, drawn, seed)


def _blocks(candidates: Candidates, name: str, n: int) -> Array:
    """(questions,) mean over blocks of n neighbours of what a block is worth."""
    questions, cap = candidates.scores.shape
    columns = candidates.first(cap // n * n)._asdict()
    block = Candidates(**{key: values.reshape(-1, n) for key, values in columns.items()})
    if name == ANY:
        worth = block.correct.max(axis=1)
    elif name == TOP:
        worth = block.scores.max(axis=1)
    else:
        worth = delivered(block, KINDS[name])
    return worth.reshape(questions, -1).mean(axis=1)


def _curve(name: str, observed: Mapping[int, Array], drawn: Mapping[int, Array], seed: int) -> Curve:
    """Of blocks in the order observed (questions,) and in random ones (orders, questions), by their size."""
    independent, sizes = np.stack([values.mean(axis=0) for values in drawn.values()]), np.array(list(drawn))
    weights = resampled(count := independent.shape[1], RESAMPLES, seed)
    curves, blocks = weights @ independent.T, []
    for n, values in observed.items():
        pairs = zip(weights @ values, curves, strict=True)
        worth = [_draws_worth(value, sizes, curve) for value, curve in pairs]
        blocks.append(Block(n, worth[0], *map(float, np.quantile(worth[1:], (0.025, 0.975)))))
    # Were the order of no account, the one observed would be one more of the random ones.
    orders = np.mean([drawn[n] for n in observed], axis=0)
    away = float((np.mean(list(observed.values()), axis=0) - orders.mean(axis=0)).mean())
    error = float(np.sqrt(orders.var(axis=0, ddof=1).sum() * (1 + 1 / len(orders)))) / count
    reach = float(norm.ppf((1 + LEVEL) / 2)) * error
    return Curve(name, tuple(blocks), Interval(away, away - reach, away + reach))


def _draws_worth(value: float, sizes: Array, curve: Array) -> float:
    """Independent draws that are worth ``value``: where the curve, made to rise, first reaches it."""
    rising = np.maximum.accumulate(curve) + 1e-12 * np.arange(len(curve))
    return float(np.interp(value, rising, sizes))
