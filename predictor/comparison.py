"""The honest table: accuracy against tokens of every selection with every stopping rule.

Nothing is measured on questions that it was fitted or chosen on. Each policy stands at several settings, so
that its rows draw a frontier, and once at the cheapest setting that loses at most a point of accuracy on the
questions that it may look at.
"""

from collections import defaultdict
from typing import NamedTuple

import numpy as np

from data.candidates import Array, Candidates, IntArray
from data.errors import ConfigError
from data.record import Record
from predictor.compared_policies import LADDER, OWN, Entry, Kind, entries
from predictor.selection import Selection, accuracy, choose_weights
from predictor.stopping import StoppingRule
from predictor.value_rule import Orders, fit_value_rules

LOSE = 0.01
ORDERS = 20
CHOICE_ORDERS = 4
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


Key = tuple[str, Kind, str, str, bool]
"""Policy, kind, selection, setting, chosen."""


def compare(
    measured: Candidates,
    rule: StoppingRule,
    *,
    folds: IntArray | None = None,
    fit: Candidates | None = None,
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
    for fitted_on, inside in sides:
        options = selections(seen.candidates.select(fitted_on))
        preferred.append(max(options, key=lambda s: accuracy(s, seen.candidates.select(fitted_on))).kind)
        for selection in options:
            contenders = prepare(seen, fitted_on, selection)
            for order in range(orders):
                shown = asked.show(selection, order, inside)
                rows, final = np.arange(len(inside)), shown.votes.answer[:, -1]
                for entry, chosen in contenders:
                    drawn, rounds = entry.stop(shown)
                    place = drawn - 1
                    answer, delivered = shown.votes.answer[rows, place], shown.votes.chosen[rows, place]
                    same = np.where(final >= 0, answer == final, delivered == shown.votes.chosen[:, -1])
                    values = (drawn, shown.spent[rows, place], rounds, shown.right[rows, place], ~same)
                    key = (entry.policy, entry.kind, selection.kind, "" if chosen else entry.setting, chosen)
                    sums[key][:, inside] += np.array(values, float)
    rows_ = to_rows({key: values / orders for key, values in sums.items()}, seed)
    return Comparison(rows_, max(set(preferred), key=preferred.count))


def selections(seen: Candidates) -> list[Selection]:
    """Majority; with scores the best score and the weighted vote that is right most often."""
    found = [Selection(kind="majority")]
    if not np.isnan(seen.scores).all():
        found = [Selection(kind="best_score"), *found, choose_weights(seen)]
    return found


def prepare(seen: Orders, rows: IntArray, selection: Selection) -> list[tuple[Entry, bool]]:
    """Every policy at each setting, and again at the one chosen on the questions ``rows``.

    Own rules are fitted on these questions; what their price costs is measured on the half that they were not
    fitted on.
    """
    scores, known = seen.candidates.scores[rows], not np.isnan(seen.candidates.correct[rows]).all()
    ready = entries(scores.shape[1], selection, None if np.isnan(scores).all() else scores)
    if not known:
        return [(entry, False) for entry in ready]
    costs: dict[tuple[str, str], list[Array]] = defaultdict(list)
    full = []
    for half, other in ((rows[::2], rows[1::2]), (rows[1::2], rows[::2])):
        own = _own(seen, other, selection)
        for order in range(CHOICE_ORDERS):
            shown = seen.show(selection, order, half)
            place = np.arange(len(half))
            full.append(shown.right[:, -1])
            for entry in (*ready, *own):
                last = entry.stop(shown)[0] - 1
                costs[entry.policy, entry.setting].append(
                    np.array([shown.spent[place, last], shown.right[place, last]])
                )
    goal = float(np.nanmean(np.concatenate(full))) - LOSE
    everything, chosen = [*ready, *_own(seen, rows, selection)], list[Entry]()
    measures = {key: np.concatenate(parts, axis=1) for key, parts in costs.items()}
    for policy in dict.fromkeys(entry.policy for entry in everything):
        settings = [entry for entry in everything if entry.policy == policy]
        means = [np.nanmean(measures[policy, e.setting], axis=1) for e in settings]
        good = [place for place, (_, right) in enumerate(means) if right >= goal]
        best = (
            min(good, key=lambda p: means[p][0])
            if good
            else max(range(len(means)), key=lambda p: means[p][1])
        )
        chosen.append(settings[best])
    top = climb([e for e in chosen if e.policy in LADDER], measures, goal)
    chosen.append(top._replace(policy=PRODUCT, kind="adaptive"))
    return [*((entry, False) for entry in everything), *((entry, True) for entry in chosen)]


def climb(rungs: list[Entry], measures: dict[tuple[str, str], Array], goal: float) -> Entry:
    """The highest rung that is accurate enough and spends less than the one below it that was taken.

    It has to by a one-sided 90 % interval of the tokens saved. ``measures`` are tokens and right answers,
    each (orders x questions,).
    """
    order = sorted(rungs, key=lambda entry: LADDER.index(entry.policy))
    taken = order[0]
    for entry in order[1:]:
        spent, right = measures[entry.policy, entry.setting]
        saved = measures[taken.policy, taken.setting][0] - spent
        error = saved.std() / np.sqrt(saved.size / CHOICE_ORDERS)  # as if a question's orders were one
        if np.nanmean(right) >= goal and saved.mean() > 1.2816 * error:
            taken = entry
    return taken


def _own(seen: Orders, rows: IntArray, selection: Selection) -> list[Entry]:
    return [
        Entry(OWN, "adaptive", f"{rule.price:g}", rule.stop)
        for rule in fit_value_rules(seen, rows, selection)
    ]


def to_rows(measures: dict[Key, Array], seed: int = 0) -> list[Row]:
    """Rows of draws, tokens, rounds, right, changed, each (questions,), with what they gain."""
    found = []
    for selection in dict.fromkeys(key[2] for key in measures):
        inside = {key: values for key, values in measures.items() if key[2] == selection}
        tokens, right = (np.stack([values[i] for values in inside.values()]) for i in (1, 3))
        hull = np.array([key[1] != "adaptive" and not key[4] for key in inside])
        gains = gain_over(tokens, right, hull, seed)
        for (key, values), gain in zip(inside.items(), gains, strict=True):
            policy, kind, _, setting, chosen = key
            draws, spent, rounds, _, changed = values.mean(axis=1)
            known = values[3][~np.isnan(values[3])]
            found.append(
                Row(
                    policy=policy,
                    kind=kind,
                    selection=selection,
                    setting=setting,
                    draws=draws,
                    tokens=spent,
                    rounds=rounds,
                    accuracy=known.mean() if known.size else None,
                    changed=changed,
                    gain=gain if kind == "adaptive" else None,
                    chosen=chosen,
                )
            )
    return found


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
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), BOOTSTRAPS) / count
    weights = np.concatenate([np.full((1, count), 1 / count), weights])
    spent, accuracy = weights @ tokens.T, weights @ right.T
    saved, reached = np.empty(spent.shape), np.empty(0)
    for draw, (cost, share) in enumerate(zip(spent, accuracy, strict=True)):
        corners = lower_hull(share[hull], cost[hull])
        saved[draw] = 1 - cost / np.interp(share, *corners)
        if not draw:
            reached = (share >= corners[0][0]) & (share <= corners[0][-1])
    low, high = np.quantile(saved[1:], (0.025, 0.975), axis=0)
    return [
        Gain(tokens=saved[0, row], low=low[row], high=high[row]) if reached[row] else None
        for row in range(len(tokens))
    ]


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
