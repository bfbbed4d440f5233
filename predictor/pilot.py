"""What a pilot of some 50 to 300 questions shows.

How right one candidate is and all are, whether candidates are independent draws, what a verifier is worth.

Candidates of one question that are independent draws from its law can be put in any order. So what blocks of
N neighbours are worth is held against blocks of N in random orders; where neighbours share a seed, a cache or
a state they are worth less, as much as a smaller number of independent draws: the effective N.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from data.candidates import Array, Candidates
from data.errors import ConfigError
from predictor.replay import Interval, best_of, bootstrap, pick, spent
from predictor.selection import Selection, choose_weights

LEAST, ENOUGH, MOST = 50, 100, 300
"""Questions: fewer tell nothing; with so many no candidates are given up for more of them; at most."""
FEWEST = 4
"""Candidates a question at least."""
ORDERS = 20
RESAMPLES = 1000
LEVEL = 0.99
"""Confidence at which candidates are called dependent."""
TRIFLE = 0.1
"""Share of the draws by which the effective N may differ before it matters."""
ANY, BEST, MAJORITY, VOTE, TOP = "any right", "best score", "majority", "weighted vote", "highest score"


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
    """What N neighbours are worth, and N candidates in random orders."""

    draws: int
    observed: float
    independent: float
    """The same of independent draws."""
    difference: Interval
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
        """Whether that is more than a tenth of the draws."""
        return self.shown and abs(self.blocks[-1].effective / self.blocks[-1].draws - 1) > TRIFLE


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
    fewer: int
    """Candidates that can be scored for the tokens of all, unscored, where a token read costs `price`."""
    price: float
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
    alike: float | None
    """Intraclass correlation of the verdicts of one question's candidates."""
    verifier: Verifier | None


def examine(candidates: Candidates, price: float = 1.0, seed: int = 0) -> Findings:
    """All that a pilot shows of candidates (questions, n).

    ``price`` is that of a token read by the verifier, in generated tokens.
    """
    judged = ~np.isnan(candidates.correct).any(axis=1)
    known = candidates.select(np.flatnonzero(judged))
    scored = not np.isnan(candidates.scores).all()
    values = _right(known, scored) if judged.any() else {}
    best_vote = values.get(VOTE, values.get(MAJORITY))
    return Findings(
        questions=len(candidates.scores),
        candidates=candidates.scores.shape[1],
        accuracy={name: bootstrap(right) for name, right in values.items()},
        gain=None if best_vote is None else bootstrap(best_vote - values["single"]),
        curves=tuple(_curves(known if judged.any() else candidates, scored, bool(judged.any()), seed)),
        alike=intraclass(known.correct) if judged.sum() > 1 else None,
        verifier=_verifier(known, values, price) if VOTE in values else None,
    )


def _right(known: Candidates, scored: bool) -> dict[str, Array]:
    """(questions,) whether each way is right with all candidates; the weighted vote is cross-fitted."""
    found = {"single": known.correct.mean(axis=1)}
    if scored:
        found[BEST] = delivered(known, Selection())
    if (known.answers >= 0).any():
        found[MAJORITY] = delivered(known, Selection(kind="majority"))
        if scored and len(known.scores) > 1:
            found[VOTE] = _cross_fitted(known, known.scores.shape[1])
    return found


def delivered(candidates: Candidates, selection: Selection) -> Array:
    """(questions,) verdict on the answer that is selected of all candidates."""
    chosen = selection.count(candidates.answers, candidates.scores).chosen[:, -1]
    return pick(candidates.correct, chosen)


def _cross_fitted(known: Candidates, draws: int) -> Array:
    """(questions,) verdict on the weighted vote of the first ``draws``; the other half chose its weights."""
    right = np.empty(len(known.scores))
    for half in (0, 1):
        rows, others = np.arange(half, len(right), 2), np.arange(1 - half, len(right), 2)
        right[rows] = delivered(known.select(rows).first(draws), choose_weights(known.select(others)))
    return right


def _verifier(known: Candidates, values: Mapping[str, Array], price: float) -> Verifier:
    n = known.scores.shape[1]
    everything = np.full(len(known.scores), n)
    generated, read = (float(spent(v, everything).mean()) for v in (known.tokens, known.reward_tokens))
    fewer = max(int(n * generated / (generated + price * read)), 1)
    return Verifier(
        vote=bootstrap(values[VOTE] - values[MAJORITY]),
        best=bootstrap(values[BEST] - values[MAJORITY]),
        tokens=read,
        share=read / generated if generated else 0.0,
        fewer=fewer,
        price=price,
        at_equal_cost=bootstrap(_cross_fitted(known, fewer) - values[MAJORITY]),
    )


def intraclass(correct: Array) -> float:
    """Intraclass correlation of verdicts (questions, n), by analysis of variance; 0 where they are alike."""
    questions, n = correct.shape
    if n < 2 or questions < 2:
        return 0.0
    means = correct.mean(axis=1)
    between, within = n * means.var(ddof=1), correct.var(axis=1, ddof=1).mean()
    total = between + (n - 1) * within
    return float(max((between - within) / total, 0.0)) if total else 0.0


def _curves(candidates: Candidates, scored: bool, judged: bool, seed: int) -> list[Curve]:
    """Each quantity that the candidates have."""
    cap = candidates.scores.shape[1]
    names = [TOP] * scored
    if judged:
        names += [ANY, *([BEST] * scored)]
        if (candidates.answers >= 0).any():
            names.append(VOTE if scored else MAJORITY)
    sizes = sorted({n for k in range(cap.bit_length()) for n in (2**k, 3 * 2**k // 2) if n <= cap} | {cap})
    asked = [n for n in sizes if n & (n - 1) == 0 and 1 < n <= cap // 2]
    if not asked or not names:
        return []
    orders = [candidates.shuffled(seed + number) for number in range(ORDERS)]
    found = []
    for name in names:
        independent = {n: np.mean([_blocks(order, name, n) for order in orders], axis=0) for n in sizes}
        observed = {n: _blocks(candidates, name, n) for n in asked}
        found.append(_curve(name, observed, independent, seed))
    return found


def _blocks(candidates: Candidates, name: str, n: int) -> Array:
    """(questions,) mean over blocks of n neighbours of what a block is worth."""
    questions, cap = candidates.scores.shape
    count = cap // n
    columns = candidates.first(count * n)._asdict()
    block = Candidates(**{key: values.reshape(questions * count, n) for key, values in columns.items()})
    if name == ANY:
        worth = block.correct.max(axis=1)
    elif name == TOP:
        worth = best_of(block.scores)[0]
    else:
        kind = {BEST: "best_score", MAJORITY: "majority", VOTE: "weighted_vote"}[name]
        worth = delivered(block, Selection.model_validate({"kind": kind}))
    return worth.reshape(questions, count).mean(axis=1)


def _curve(name: str, observed: Mapping[int, Array], independent: Mapping[int, Array], seed: int) -> Curve:
    sizes, curve = np.array(list(independent)), np.stack(list(independent.values()))
    count = curve.shape[1]
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES) / count
    weights = np.concatenate([np.full((1, count), 1 / count), weights])
    expected = weights @ curve.T
    blocks = []
    for n, values in observed.items():
        worth = [_draws_worth(w, sizes, rising) for w, rising in zip(weights @ values, expected, strict=True)]
        low, high = np.quantile(worth[1:], (0.025, 0.975))
        blocks.append(
            Block(
                draws=n,
                observed=float(values.mean()),
                independent=float(independent[n].mean()),
                difference=bootstrap(values - independent[n]),
                effective=worth[0],
                low=float(low),
                high=float(high),
            )
        )
    away = np.mean([values - independent[n] for n, values in observed.items()], axis=0)
    return Curve(name=name, blocks=tuple(blocks), difference=bootstrap(away, level=LEVEL))


def _draws_worth(value: float, sizes: Array, curve: Sequence[float]) -> float:
    """Independent draws that are worth ``value``: where the curve, made to rise, first reaches it."""
    rising = np.maximum.accumulate(curve)
    return float(np.interp(value, rising + 1e-12 * np.arange(len(rising)), sizes))
