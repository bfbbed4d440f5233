"""The honest table: accuracy against tokens of every selection with every stopping rule.

Nothing is measured on questions that it was fitted or chosen on. Each policy stands at several settings, so
that its rows draw a frontier, and once at the cheapest setting that loses at most a point of accuracy on the
questions that it may look at.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.arrays import Array, IntArray
from data.candidates import Candidates
from data.errors import ConfigError
from data.record import Record
from predictor.contenders import FIXED, LADDER, Contender, Kind, of_policy, published
from predictor.design import best_selection, cheapest, selections
from predictor.measured import Measured, measure, stopped
from predictor.policies import AnyPolicy
from predictor.prior import PriorBatch
from predictor.replay import resampled
from predictor.selection import Selection
from predictor.stopping import StoppingRule
from predictor.value_rule import Orders

LOSE = 0.01
ORDERS = 20
BOOTSTRAPS = 1000
PRODUCT = "the product's choice"
"""The highest rung of the ladder that beats those below on the questions that it may look at."""


class Comparison(NamedTuple):
    """The rows, and the selection that is most accurate at the cap on questions that may be looked at."""

    rows: "list[Row]"
    selection: str


class Gain(Record):
    """Share of tokens saved at equal accuracy, with its 95 % interval over questions."""

    tokens: float
    low: float
    high: float


class Row(Record):
    """A policy with a selection at one setting; means over questions and orders of their candidates."""

    policy: str
    kind: Kind
    selection: str
    setting: str
    draws: float
    tokens: float
    rounds: float
    accuracy: float | None
    """Share right; None where no verdict is known."""
    changed: float
    """Share of answers that differ from the full cap's with the same selection."""
    gain: Gain | None
    """Against mixtures of fixed N and schedules with the same selection; None where none is as accurate."""
    chosen: bool = False
    """Whether the setting was chosen on questions that are not measured here."""
    group: str | None = None
    """The questions of which it is; None: all of them."""


class Key(NamedTuple):
    """What tells rows apart; see `Row`."""

    policy: str
    kind: Kind
    selection: str
    setting: str
    chosen: bool


def compare(
    measured: Candidates,
    rule: StoppingRule,
    *,
    folds: IntArray | None = None,
    fit: Candidates | None = None,
    target: float | None = None,
    priors: PriorBatch | None = None,
    fit_priors: PriorBatch | None = None,
    shown_too: Mapping[str, AnyPolicy] | None = None,
    only: Sequence[Selection] = (),
    groups: NDArray[np.str_] | None = None,
    orders: int = ORDERS,
    seed: int = 0,
) -> Comparison:
    """Measure every policy on candidates in several orders.

    Parameters
    ----------
    measured : all candidates up to the cap; scores all NaN where there is no verifier.
    rule : learned on other pools.
    folds : (questions,) a number each: what is fitted or chosen for a fold's questions sees the others only.
    fit : instead of folds, candidates of other questions to fit and choose on.
    target : score that is a hit, for what the papers have; None leaves these out.
    priors, fit_priors : of the questions that are measured, and of those to fit on; None leaves out what
        reads them.
    shown_too : policies to show as they are, each with its own selection.
    only : these selections alone, instead of every one that the pool has the scores for.
    groups : (questions,) names of groups, each of which has rows of its own, without a gain: single
        candidates, the full cap, and what was chosen.

    Raises
    ------
    ConfigError
        If there are neither folds nor candidates to fit on.
    """
    if (folds is None) == (fit is None):
        raise ConfigError("give either folds to cross-fit in, or a pool to fit on")
    questions = np.arange(len(measured.answers))
    asked = Orders(measured, rule, seed)
    seen = asked if fit is None else Orders(fit, rule, seed)
    sides = [(np.arange(len(seen.candidates.answers)), questions)]
    if folds is not None:
        sides = [(questions[folds != fold], questions[folds == fold]) for fold in np.unique(folds)]
    sums: dict[Key, Array] = defaultdict(lambda: np.zeros((5, len(questions))))
    preferred: list[str] = []

    def add(ready: Sequence[tuple[Contender, bool]], selection: Selection, inside: IntArray) -> None:
        found = stopped([contender for contender, _ in ready], asked, inside, selection, orders)
        for (contender, chosen), each in zip(ready, found, strict=True):
            setting = "" if chosen else contender.setting
            key = Key(contender.name, contender.kind, selection.kind, setting, chosen)
            sums[key][:, inside] = each.draws, each.tokens, each.rounds, each.right, each.changed

    scored, cap = not np.isnan(measured.scores).all(), measured.answers.shape[1]
    for fitted_on, inside in sides:
        known = seen.candidates.select(fitted_on)
        options = only or selections(known)
        preferred.append(best_selection(known, options).kind)
        for selection in options:
            given = priors if fit is None else fit_priors
            rivals = published(cap, selection, target, given) if target is not None and scored else []
            ready = prepare(seen, fitted_on, selection, rivals)
            add([(contender.on(priors), chosen) for contender, chosen in ready], selection, inside)
    for name, policy in (shown_too or {}).items():
        add([(of_policy(name, policy, priors), False)], policy.selection, questions)
    rows_ = to_rows(sums, seed)
    if groups is not None:
        shown = [k for k in sums if k.chosen or (k.policy == FIXED and k.setting in ("1", str(cap)))]
        for name in np.unique(groups):
            rows_ += [_row(key, sums[key][:, groups == name], None, str(name)) for key in shown]
    return Comparison(rows_, max(set(preferred), key=preferred.count))


def prepare(
    seen: Orders, rows: IntArray, selection: Selection, more: Sequence[Contender]
) -> list[tuple[Contender, bool]]:
    """Every policy at each setting, and again at the one chosen on the questions ``rows``."""
    measured = measure(seen, rows, selection, more)
    everything = [(each.contender, False) for each in measured]
    if np.isnan(measured[0].loss).all():
        return everything
    names = dict.fromkeys(each.contender.name for each in measured)
    families = [[each for each in measured if each.contender.name == name] for name in names]
    chosen = [each[cheapest(each, np.array([m.tokens.mean() for m in each]), LOSE)] for each in families]
    top = climb([each for each in chosen if each.contender.name in LADDER]).contender
    product = top._replace(name=PRODUCT, kind="adaptive")
    return [*everything, *((each.contender, True) for each in chosen), (product, True)]


def climb(rungs: Sequence[Measured]) -> Measured:
    """The highest rung that is accurate enough and spends less than the one below it that was taken.

    It has to by a one-sided 90 % interval of the tokens saved.
    """
    order = sorted(rungs, key=lambda each: LADDER.index(each.contender.name))
    taken = order[0]
    for each in order[1:]:
        saved = taken.tokens - each.tokens
        if np.nanmean(each.loss) <= LOSE and saved.mean() > 1.2816 * saved.std() / np.sqrt(saved.size):
            taken = each
    return taken


def to_rows(measures: dict[Key, Array], seed: int = 0) -> list[Row]:
    """Rows of draws, tokens, rounds, right, changed, each (questions,), with what they gain."""
    found = []
    for selection in dict.fromkeys(key.selection for key in measures):
        inside = {key: values for key, values in measures.items() if key.selection == selection}
        tokens, right = (np.stack([values[i] for values in inside.values()]) for i in (1, 3))
        hull = np.array([key.kind != "adaptive" and not key.chosen for key in inside])
        gains = gain_over(tokens, right, hull, seed)
        for (key, values), gain in zip(inside.items(), gains, strict=True):
            found.append(_row(key, values, gain if key.kind == "adaptive" else None))
    return found


def _row(key: Key, values: Array, gain: Gain | None, group: str | None = None) -> Row:
    """The means of draws, tokens, rounds, right, changed: ``values`` (5, questions)."""
    draws, tokens, rounds, _, changed = values.mean(axis=1)
    known = values[3][~np.isnan(values[3])]
    means = {"draws": draws, "tokens": tokens, "rounds": rounds, "changed": changed}
    accuracy = known.mean() if known.size else None
    return Row(**key._asdict(), **means, accuracy=accuracy, gain=gain, group=group)


def gain_over(tokens: Array, right: Array, hull: np.ndarray, seed: int = 0) -> list[Gain | None]:
    """What each row saves at equal accuracy against mixtures of the rows of ``hull``.

    Questions are drawn again, all rows alike, hull included (percentile bootstrap). Where a draw's hull does
    not reach a row's accuracy, its most accurate mixture stands for it, which flatters the hull.

    Parameters
    ----------
    tokens, right : (rows, questions)
    hull : (rows,) whether a row belongs to what is compared with.
    """
    known = ~np.isnan(right).any(axis=0)
    tokens, right = tokens[:, known], right[:, known]
    count = tokens.shape[1]
    if not count:
        return [None] * len(tokens)
    weights = resampled(count, BOOTSTRAPS, seed)
    spent, accuracy = weights @ tokens.T, weights @ right.T
    saved, reached = np.empty(spent.shape), np.empty(0)
    for draw, (cost, share) in enumerate(zip(spent, accuracy, strict=True)):
        corners = lower_hull(share[hull], cost[hull])
        saved[draw] = 1 - cost / np.interp(share, *corners)
        if not draw:
            reached = (share >= corners[0][0]) & (share <= corners[0][-1])
    low, high = np.quantile(saved[1:], (0.025, 0.975), axis=0)
    ends = zip(saved[0], low, high, reached, strict=True)
    return [Gain(tokens=mean, low=least, high=most) if there else None for mean, least, most, there in ends]


def lower_hull(accuracy: Array, cost: Array) -> tuple[Array, Array]:
    """Corners, by rising accuracy, of the least cost of mixtures that are at least as accurate."""
    corners: list[tuple[float, float]] = []
    for point in sorted(zip(accuracy.tolist(), cost.tolist(), strict=True), key=lambda p: (p[0], -p[1])):
        while corners and corners[-1][1] >= point[1]:
            corners.pop()
        while len(corners) > 1 and _above(corners[-2], corners[-1], point):
            corners.pop()
        corners.append(point)
    x, y = zip(*corners, strict=True)
    return np.array(x), np.array(y)


def _above(first: tuple[float, float], middle: tuple[float, float], last: tuple[float, float]) -> bool:
    rise = (last[1] - first[1]) * (middle[0] - first[0])
    return (middle[1] - first[1]) * (last[0] - first[0]) >= rise
