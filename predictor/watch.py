"""Watching: tests that may be looked at at any time, and that a long quiet past does not make slow.

Each value is bet on against the null, "the mean lies within these limits": a stake's wealth is multiplied by
1 + stake (x - limit), which gains nothing on average as long as the null holds (Waudby-Smith and Ramdas,
JRSS B 86, 2024). A change may come at any moment, so a bet is begun anew each hour, and the wealth of all of
them is added up: an e-detector (Shin, Ramdas and Rinaldo, arXiv 2203.03532), which is Shiryaev and Roberts'
procedure with bets in place of likelihood ratios. Under the null the sum gains one an hour on average, so
that it reaches A within T hours with a chance of at most T / A (Ville), whatever the traffic.
"""

from typing import Literal, Self

import numpy as np

from data.arrays import Array, IntArray
from data.record import Record
from data.score_map import ScoreMap
from predictor.risk import log_growth, upper_bound

HOURS = 24 * 365.25
"""Bets that are begun in a year."""
SLIP = 0.1
"""Chance that a limit which was estimated is wrong, on each side, at most; in simulations half of that."""
LATELY = 500
"""Values that the mean which is told speaks of, about."""
Worse = Literal["higher", "lower", "either"]


class Usual(Record):
    """What a statistic was on questions that nothing was fitted on: its mean, and how well that is known."""

    questions: int
    mean: float
    low: float
    """The mean is not below it, with confidence 1 - `SLIP`."""
    high: float
    ranks: ScoreMap | None = None
    """What makes a rank among train questions of a value as it is logged."""

    @classmethod
    def of(cls, values: Array, ranks: ScoreMap | None = None) -> Self:
        """Of values (questions,) in [0, 1], one a question: questions are independent, candidates are not."""
        low, high = 1 - upper_bound(1 - values, SLIP), upper_bound(values, SLIP)
        mean = float(values.mean())
        return cls(questions=len(values), mean=mean, low=max(low, 0.0), high=min(high, 1.0), ranks=ranks)

    def within(self, margin: float, worse: Worse) -> "Detector":
        """Tells when the mean leaves what it may have been before by more than the margin."""
        return Detector(
            above=None if worse == "lower" else self.high + margin,
            below=None if worse == "higher" else self.low - margin,
        )


class Detector(Record):
    """The wealth of all bets that the mean has left its limits; JSON in and out, so that it goes on."""

    above: float | None
    """The null: the mean is at most this. None: it may be as high as it likes."""
    below: float | None
    """And at least this."""
    log_wealth: tuple[float, ...] = ()
    """Of each stake on each side; empty before the first value."""
    hour: int = -1
    """In which bets were last begun."""
    seen: int = 0
    """Values so far."""
    lately: float = 0.0
    """Mean of about the last `LATELY` of them."""

    def after(self, hours: IntArray, values: Array) -> Self:
        """With further values (n,), in [0, 1], or in [-1, 1] as losses are.

        Within an hour (whole ones since any date) their order does not matter; one that is late counts in the
        last hour.
        """
        if not len(values):
            return self
        hours = np.maximum(np.maximum.accumulate(hours), self.hour)
        logs, hour = np.array(self.log_wealth or [-np.inf] * self._bets(values[:0]).shape[0]), self.hour
        for now in np.unique(hours).tolist():
            if now > hour:
                logs, hour = np.logaddexp(logs, 0.0), now
            distinct, counts = np.unique(values[hours == now], return_counts=True)
            logs = logs + self._bets(distinct) @ counts
        kept = (1 - 1 / LATELY) ** len(values) if self.seen else 0.0
        return self.model_copy(
            update={
                "log_wealth": tuple(logs.tolist()),
                "hour": hour,
                "seen": self.seen + len(values),
                "lately": kept * self.lately + (1 - kept) * float(values[-LATELY:].mean()),
            }
        )

    def _bets(self, values: Array) -> Array:
        """(sides x stakes, values) logarithm of what each value multiplies a stake's wealth by."""
        sides = [] if self.above is None else [log_growth(-values, -self.above)]
        sides += [] if self.below is None else [log_growth(values, self.below)]
        return np.concatenate(sides)

    @property
    def evidence(self) -> float:
        """Logarithm of the sum of all bets' wealth, averaged over stakes and sides."""
        if not self.log_wealth:
            return -np.inf
        return float(np.logaddexp.reduce(self.log_wealth)) - float(np.log(len(self.log_wealth)))

    def alarms(self, a_year: float) -> bool:
        """Whether it is told, where false alarms may come ``a_year`` times (.1: once in ten years)."""
        return self.evidence >= np.log(HOURS / a_year)
