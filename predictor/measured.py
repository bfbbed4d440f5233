"""What contenders spend and lose on questions."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data.arrays import Array, IntArray
from predictor.contenders import Contender, contenders, of_rule
from predictor.policies import AnyPolicy
from predictor.prior import PriorBatch
from predictor.selection import Selection
from predictor.value_rule import Orders, fit_value_rules

ORDERS = 4


class Measured(NamedTuple):
    """A contender on questions that it was not fitted on; arrays (questions,), averaged over orders."""

    contender: Contender
    """Fitted on all of the questions."""
    draws: Array
    tokens: Array
    rounds: Array
    right: Array
    changed: Array
    """Whether the answer is another than that of all candidates."""
    loss: Array
    """The reference's success less its own; NaN where it is not known."""

    @property
    def known(self) -> Array:
        """The losses that are known."""
        return self.loss[~np.isnan(self.loss)]

    @property
    def policy(self) -> AnyPolicy:
        """What can be shipped of it."""
        assert self.contender.policy is not None, f"{self.contender.name} cannot be shipped"
        return self.contender.policy

    def on(self, priors: PriorBatch | None) -> "Measured":
        """With the contender for other questions; see `Contender.on`."""
        return self._replace(contender=self.contender.on(priors))


def measure(
    seen: Orders, rows: IntArray, selection: Selection, more: Sequence[Contender] = (), orders: int = ORDERS
) -> list[Measured]:
    """Every policy at each setting on the questions ``rows``, and ``more`` beside them.

    Rules that are learned on these questions are measured on the half that they were not fitted on.
    """
    scores = seen.candidates.scores[rows]
    ready = contenders(scores.shape[1], selection, None if np.isnan(scores).all() else scores, seen.rule)
    found = stopped([*ready, *more], seen, rows, selection, orders)
    halves = [fit_own(seen, rows[other::2], selection) for other in (1, 0)]
    if not all(halves):
        return found
    first, second = (stopped(own, seen, rows[k::2], selection, orders) for k, own in enumerate(halves))
    whole = np.empty((len(first), len(Measured._fields) - 1, len(rows)))
    whole[..., 0::2], whole[..., 1::2] = [m[1:] for m in first], [m[1:] for m in second]
    own = fit_own(seen, rows, selection)
    return found + [Measured(each, *values) for each, values in zip(own, whole, strict=True)]


def stopped(
    contenders: Sequence[Contender], seen: Orders, rows: IntArray, selection: Selection, orders: int
) -> list[Measured]:
    """Each contender as it is on the questions ``rows``."""
    sums = np.zeros((len(contenders), len(Measured._fields) - 1, len(rows)))
    for order in range(orders):
        shown = seen.show(selection, order, rows)
        for total, each in zip(sums, contenders, strict=True):
            if order < each.orders:
                drawn, rounds = each.stop(shown)
                at = np.arange(len(drawn)), drawn - 1
                right, changed, loss = shown.right[at], shown.changed[at], shown.reference - shown.right[at]
                total += np.array([drawn, shown.spent[at], rounds, right, changed, loss], float)
    pairs = zip(contenders, sums, strict=True)
    return [Measured(each, *total / min(orders, each.orders)) for each, total in pairs]


def run(contender: Contender, shown: Orders, rows: IntArray, orders: int) -> Measured:
    """One contender that can be shipped, on questions that it was not fitted on."""
    assert contender.policy is not None
    asked = contender._replace(orders=orders)  # however long it takes: fewer would weaken a test
    return stopped([asked], shown, rows, contender.policy.selection, orders)[0]


def fit_own(seen: Orders, rows: IntArray, selection: Selection) -> list[Contender]:
    """Rules learned on these questions, one a price; none where no success is known."""
    cap = seen.candidates.scores.shape[1]
    if np.isnan(seen.show(selection, 0, rows).right).any(axis=1).all():
        return []
    return [of_rule(value, selection, cap, seen.rule) for value in fit_value_rules(seen, rows, selection)]
