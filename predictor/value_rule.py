"""A stopping rule learned on one's own questions: fitted value iteration (Longstaff and Schwartz, 2001).

Backwards from the cap, a ridge regression at each total says what going on is expected to be worth: the
accuracy that is gained until the rule stops, less the price of the candidates drawn until then.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from data.arrays import Array, IntArray
from data.candidates import Candidates
from data.record import Record
from predictor.goal import Judge, same_answer
from predictor.selection import Selection
from predictor.state import NoHitCache
from predictor.stopping import StoppingRule, totals
from predictor.votes import FEATURES, Votes, agreement, vote_features

ORDERS = 12
RIDGE = 0.03  # of the rows' number, on standardised features
GAIN = len(FEATURES)  # the column of what another rule expects
PRICES = (0.005, 0.015, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3)


@dataclass(frozen=True, eq=False)
class Shown:
    """Candidates in one order, with what a selection makes of them; every array (questions, n, …)."""

    votes: Votes
    features: Array
    """(questions, totals, features) what rules read; see `features_at`."""
    gain: Array
    """What a rule learned on other pools expects of going on to the cap; 0 but at `totals`."""
    right: Array
    """Whether stopping here is a success, by the judge: the answer is right; NaN where it is not known."""
    reference: Array
    """(questions,) whether what policies are held against is one."""
    spent: Array
    """Tokens so far."""
    candidates: Candidates
    rows: IntArray
    """(questions,) places of these questions among all that are shown."""

    @property
    def cap(self) -> int:
        """Candidates a question."""
        return self.right.shape[1]

    def select(self, rows: IntArray) -> "Shown":
        """Some questions."""
        votes, names = Votes._make(column[rows] for column in self.votes), [f.name for f in fields(self)]
        arrays = {name: getattr(self, name)[rows] for name in names if name not in ("votes", "candidates")}
        return Shown(votes=votes, candidates=self.candidates.select(rows), **arrays)

    @cached_property
    def cache(self) -> NoHitCache:
        """For policies that are replayed on these questions."""
        return NoHitCache()

    @cached_property
    def changed(self) -> NDArray[np.bool_]:
        """Whether the answer is another than that of all candidates."""
        return ~same_answer(self.votes, self.votes.answer[:, [-1]], self.votes.chosen[:, [-1]])

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
        return np.maximum.accumulate(np.nan_to_num(self.candidates.scores), axis=1)


def show(
    candidates: Candidates, selection: Selection, rule: StoppingRule, judge: Judge | None = None
) -> Shown:
    """What a selection makes of candidates after each of them; see `Orders`."""
    cap = candidates.answers.shape[1]
    votes = selection.count(candidates.answers, candidates.scores)
    at = np.broadcast_to(totals(cap) - 1, (len(votes.chosen), len(totals(cap))))
    features = features_at(candidates.answers, candidates.scores, votes, selection, rule, cap, at)
    gain = np.zeros(votes.first.shape)
    np.put_along_axis(gain, at, features[..., GAIN], axis=1)
    right, reference = (judge or Judge(selection=selection)).judge(candidates, votes)
    rows, spent = np.arange(len(votes.chosen)), candidates.tokens.cumsum(axis=1)
    return Shown(votes, features, gain, right, reference, spent, candidates, rows)


def features_at(
    answers: IntArray,
    scores: Array,
    votes: Votes,
    selection: Selection,
    rule: StoppingRule,
    cap: int,
    at: IntArray,
) -> Array:
    """(questions, k, features) of the states after the candidates in columns ``at`` (questions, k).

    The shares of the vote and what another rule expects; with a selection by scores also the mean, best and
    spread of those so far, the delivered candidate's, and the shares of the plain vote.
    """
    drawn = at + 1
    shares = vote_features(votes.at(at), cap, drawn)
    columns = [shares, rule.gain(shares)[..., None]]
    if selection.reads_scores:
        scores, so_far = np.nan_to_num(scores), np.arange(1, scores.shape[1] + 1)
        mean = scores.cumsum(axis=1) / so_far
        spread = np.sqrt(np.maximum((scores**2).cumsum(axis=1) / so_far - mean**2, 0))
        best = np.maximum.accumulate(scores, axis=1)
        delivered = np.take_along_axis(scores, votes.chosen, axis=1)
        told = [np.take_along_axis(v, at, axis=1) for v in (mean, best, spread, delivered)]
        columns.append(np.stack(told, axis=-1))
        plain = Selection(kind="majority").count(answers, None).at(at)
        columns.append(vote_features(plain, cap, drawn)[..., 1:6])
    return np.concatenate(columns, axis=-1)


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
        stops = [self.worth(shown.features[:, k], k) <= 0 for k in range(len(self.totals) - 1)]
        return first_stop(np.stack([*stops, np.ones(len(shown.right), bool)], axis=1), np.array(self.totals))


def first_stop(stops: np.ndarray, at: IntArray) -> tuple[IntArray, IntArray]:
    """(questions,) the first of the totals ``at`` where a question stops, the last if none; and its round."""
    stops = stops.copy()
    stops[:, -1] = True
    place = stops.argmax(axis=1)
    return at[place], place + 1


@dataclass(eq=False)
class Orders:
    """Candidates of many questions in several orders, each shown once however often it is asked for.

    Parameters
    ----------
    rule : learned on other pools.
    judge : tells success; None: the answer is right, and the reference is the same selection's at the cap.
    own : show the pool's own order alone, whatever number is asked for.
    """

    candidates: Candidates
    rule: StoppingRule
    seed: int = 0
    judge: Judge | None = None
    own: bool = False
    _shown: dict[tuple[Selection, int], Shown] = field(init=False, default_factory=dict)

    def show(self, selection: Selection, order: int, rows: IntArray | None = None) -> Shown:
        """What the selection makes of some questions' candidates in the order of that number."""
        key = selection, order
        if key not in self._shown:
            shuffled = self.candidates if self.own else self.candidates.shuffled(self.seed + order)
            self._shown[key] = show(shuffled, selection, self.rule, self.judge)
        return self._shown[key] if rows is None else self._shown[key].select(rows)


def fit_value_rules(
    orders: Orders, rows: IntArray, selection: Selection, prices: Sequence[float] = PRICES
) -> list[ValueRule]:
    """A rule for each price, fitted on several orders of the questions ``rows``; not on unknown verdicts."""
    known = rows[~np.isnan(orders.show(selection, 0, rows).right).any(axis=1)]
    shown = [orders.show(selection, order, known) for order in range(ORDERS)]
    at = totals(shown[0].cap) - 1
    features = np.concatenate([s.features for s in shown])
    right = np.concatenate([s.right[:, at] for s in shown])
    cost = np.concatenate([s.spent[:, at] for s in shown]).mean(axis=0)
    centre, scale = features.mean(axis=0), features.std(axis=0) + 1e-9
    scaled = (features - centre) / scale
    slopes, intercepts = _iterate(scaled, right, cost / cost[-1], np.array(prices))
    return [
        ValueRule(
            price=price,
            totals=tuple((at + 1).tolist()),
            centre=tuple(map(tuple, centre[:-1].tolist())),
            slope=tuple(map(tuple, (slopes[:, :, number] / scale[:-1]).tolist())),
            intercept=tuple(intercepts[:, number].tolist()),
        )
        for number, price in enumerate(prices)
    ]


def _iterate(scaled: Array, right: Array, cost: Array, prices: Array) -> tuple[Array, Array]:
    """(totals but the last, features, prices) slopes and (totals but the last, prices) intercepts."""
    rows, last, width = len(right), right.shape[1] - 1, scaled.shape[-1]
    value, means = np.zeros((rows, len(prices))), np.zeros((last, len(prices)))
    slopes = np.zeros((last, width, len(prices)))
    for place in range(last - 1, -1, -1):
        x = np.ascontiguousarray(scaled[:, place])
        gained = right[:, [place + 1]] - right[:, [place]] - prices * (cost[place + 1] - cost[place])
        y = gained + value
        means[place] = y.mean(axis=0)
        slopes[place] = np.linalg.solve(x.T @ x + RIDGE * rows * np.eye(width), x.T @ (y - means[place]))
        value = np.where(x @ slopes[place] + means[place] > 0, y, 0.0)
    return slopes, means
