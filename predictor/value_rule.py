"""A stopping rule learned on one's own questions: fitted value iteration (Longstaff and Schwartz, 2001).

Backwards from the cap, a ridge regression at each total says what going on is expected to be worth: the
accuracy that is gained until the rule stops, less the price of the candidates drawn until then.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from data.candidates import Array, Candidates, IntArray
from data.record import Record
from predictor.selection import Selection
from predictor.stopping import StoppingRule, totals
from predictor.votes import Votes, agreement, vote_features

ORDERS = 12
RIDGE = 0.03  # of the rows' number, on standardised features
PRICES = (0.005, 0.015, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3)


@dataclass(frozen=True, eq=False)
class Shown:
    """Candidates in one order, with what a selection makes of them; every array (questions, n, …)."""

    votes: Votes
    features: Array
    """(questions, n, features) what rules read."""
    gain: Array
    """What a rule learned on other pools expects of going on to the cap; 0 but at `totals`."""
    right: Array
    """Whether the delivered answer is right; NaN where it is not known."""
    spent: Array
    """Tokens so far."""
    scores: Array
    answers: IntArray

    @property
    def cap(self) -> int:
        """Candidates a question."""
        return self.right.shape[1]

    def select(self, rows: IntArray) -> "Shown":
        """Some questions."""
        votes = self.votes._replace(**{n: column[rows] for n, column in self.votes._asdict().items()})
        arrays = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "votes"}
        return Shown(votes, **arrays)

    @cached_property
    def agreement(self) -> Array:
        """See `predictor.votes.agreement`."""
        return agreement(self.votes)

    @cached_property
    def lead(self) -> Array:
        """The leader's votes ahead, as a share of the draws left; at 1 it cannot be overtaken."""
        left = self.cap - np.arange(1, self.cap + 1)
        return (self.votes.first - self.votes.second) / np.maximum(left, 1)

    @cached_property
    def saturation(self) -> Array:
        """Less the expected gain for each share of the draws left."""
        return -self.gain / np.maximum(1 - np.arange(1, self.cap + 1) / self.cap, 1e-9)

    @cached_property
    def best(self) -> Array:
        """The best score so far."""
        return np.maximum.accumulate(np.nan_to_num(self.scores), axis=1)


def show(candidates: Candidates, selection: Selection, rule: StoppingRule) -> Shown:
    """What a selection makes of candidates after each of them."""
    cap = candidates.answers.shape[1]
    votes = selection.count(candidates.answers, candidates.scores)
    features = vote_features(votes, cap)
    at = totals(cap) - 1  # rules are asked nowhere else
    gain = np.zeros(votes.first.shape)
    gain[:, at] = rule.gain(features[:, at])
    columns = [features, gain[..., None]]
    if not np.isnan(candidates.scores).all():
        columns.append(_score_features(np.nan_to_num(candidates.scores), votes.chosen))
        if selection.kind == "weighted_vote":
            columns.append(
                vote_features(Selection(kind="majority").count(candidates.answers, None), cap)[..., 1:6]
            )
    return Shown(
        votes,
        np.concatenate(columns, axis=-1),
        gain,
        np.take_along_axis(candidates.correct, votes.chosen, axis=1),
        candidates.tokens.cumsum(axis=1),
        candidates.scores,
        candidates.answers,
    )


def _score_features(scores: Array, chosen: IntArray) -> Array:
    """(questions, n, 4) mean, best and spread of the scores so far, and the delivered candidate's."""
    drawn = np.arange(1, scores.shape[1] + 1)
    mean = scores.cumsum(axis=1) / drawn
    spread = np.sqrt(np.maximum((scores**2).cumsum(axis=1) / drawn - mean**2, 0))
    best = np.maximum.accumulate(scores, axis=1)
    return np.stack([mean, best, spread, np.take_along_axis(scores, chosen, axis=1)], axis=-1)


class ValueRule(Record):
    """What going on is worth at each total, linear in the features; JSON in and out."""

    price: float
    """Price of all candidates up to the cap, in questions answered right."""
    totals: tuple[int, ...]
    """Candidates in all after each round; the last is the cap."""
    centre: tuple[tuple[float, ...], ...]
    """(totals but the last, features)"""
    slope: tuple[tuple[float, ...], ...]
    intercept: tuple[float, ...]

    def worth(self, features: Array, place: int) -> Array:
        """(questions,) expected worth of going on from a total; features (questions, features)."""
        found: Array = (features - np.array(self.centre[place])) @ np.array(self.slope[place])
        return found + self.intercept[place]

    def stop(self, shown: Shown) -> tuple[IntArray, IntArray]:
        """(questions,) candidates drawn, and rounds."""
        stops = [self.worth(shown.features[:, n - 1], k) <= 0 for k, n in enumerate(self.totals[:-1])]
        return first_stop(np.stack([*stops, np.ones(len(shown.right), bool)], axis=1), np.array(self.totals))


def first_stop(stops: np.ndarray, at: IntArray) -> tuple[IntArray, IntArray]:
    """(questions,) the first of the totals ``at`` where a question stops, the last if none; and its round."""
    stops = stops.copy()
    stops[:, -1] = True
    place = stops.argmax(axis=1)
    return at[place], place + 1


class Orders:
    """Candidates of many questions in several orders, each shown once however often it is asked for."""

    def __init__(self, candidates: Candidates, rule: StoppingRule, seed: int = 0) -> None:
        self.candidates, self.rule, self.seed = candidates, rule, seed
        self._shown: dict[tuple[Selection, int], Shown] = {}

    def show(self, selection: Selection, order: int, rows: IntArray | None = None) -> Shown:
        """What the selection makes of some questions' candidates in the order of that number."""
        key = selection, order
        if key not in self._shown:
            self._shown[key] = show(self.candidates.shuffled(self.seed + order), selection, self.rule)
        return self._shown[key] if rows is None else self._shown[key].select(rows)


def fit_value_rules(
    orders: Orders, rows: IntArray, selection: Selection, prices: Sequence[float] = PRICES
) -> list[ValueRule]:
    """A rule for each price, fitted on several orders of the questions ``rows``; not on unknown verdicts."""
    known = rows[~np.isnan(orders.candidates.correct[rows]).any(axis=1)]
    shown = [orders.show(selection, order, known) for order in range(ORDERS)]
    at = totals(shown[0].cap) - 1
    features = np.concatenate([s.features[:, at] for s in shown])
    right = np.concatenate([s.right[:, at] for s in shown])
    cost = np.concatenate([s.spent[:, at] for s in shown]).mean(axis=0)
    centre, scale = features.mean(axis=0), features.std(axis=0) + 1e-9
    scaled = (features - centre) / scale
    return [_iterate(scaled, right, cost / cost[-1], price, centre, scale, at + 1) for price in prices]


def _iterate(
    scaled: Array, right: Array, cost: Array, price: float, centre: Array, scale: Array, at: IntArray
) -> ValueRule:
    rows, last = len(right), len(at) - 1
    value, slopes, intercepts = np.zeros(rows), [], []
    for place in range(last - 1, -1, -1):
        x = scaled[:, place]
        gained = right[:, place + 1] - right[:, place] - price * (cost[place + 1] - cost[place])
        y = gained + value
        mean = y.mean()
        slope = np.linalg.solve(x.T @ x + RIDGE * rows * np.eye(x.shape[1]), x.T @ (y - mean))
        value = np.where(x @ slope + mean > 0, y, 0.0)
        slopes.append((slope / scale[place]).tolist())
        intercepts.append(float(mean))
    return ValueRule(
        price=price,
        totals=tuple(at.tolist()),
        centre=tuple(map(tuple, centre[:-1].tolist())),
        slope=tuple(map(tuple, slopes[::-1])),
        intercept=tuple(intercepts[::-1]),
    )
