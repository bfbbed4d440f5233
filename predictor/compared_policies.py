"""The policies of the honest table, each at settings that draw its frontier."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import attrgetter
from typing import Literal, NamedTuple

import numpy as np

from data.candidates import Array, IntArray
from predictor.selection import Selection
from predictor.stopping import totals
from predictor.value_rule import Shown, first_stop

LEVELS = (0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.998)
LEADS = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
WINDOWS = (2, 3, 4, 5, 6, 8)
GAINS = (0.003, 0.006, 0.012, 0.02, 0.03, 0.04, 0.055, 0.075, 0.1, 0.15, 0.25)
OWN = "learned on the own questions"
LADDER = (
    "fixed N",
    "fixed schedule",
    "adaptive consistency in rounds",
    "lead",
    "learned on public pools",
    OWN,
)
"""From the plainest to the one that asks most of its user."""
SHARES = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
Kind = Literal["fixed", "schedule", "adaptive"]
Stop = Callable[[Shown], tuple[IntArray, IntArray]]
Evidence = Callable[[Shown], Array]


class Entry(NamedTuple):
    """A policy at one setting."""

    policy: str
    kind: Kind
    setting: str
    stop: Stop


def fixed_sizes(cap: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, 24, … and the cap."""
    powers = [2**k for k in range(cap.bit_length())]
    return sorted({n for power in powers for n in (power, power * 3 // 2) if n < cap} | {cap})


def entries(cap: int, selection: Selection, scores: Array | None) -> list[Entry]:
    """Every policy that needs no fit, at each of its settings."""

    def each(levels: Sequence[float], evidence: Evidence, one: bool) -> Iterator[tuple[str, Stop]]:
        at = np.arange(1, cap + 1) if one else totals(cap)
        for level in levels:
            yield f"{abs(level):g}", partial(_stop_at, evidence=evidence, level=level, at=at)

    def constant(n: int) -> Stop:
        return lambda shown: (np.full(len(shown.right), n), np.ones(len(shown.right), np.int64))

    found = [Entry("fixed N", "fixed", str(n), constant(n)) for n in fixed_sizes(cap)]
    if scores is not None and selection.reads_scores:
        best = np.maximum.accumulate(np.nan_to_num(scores), axis=1)[:, min(3, cap - 1)]
        targets = np.quantile(best, SHARES).tolist()
        for start, growth in ((1, 2.0), (2, 1.5)):
            at = totals(cap, start, growth)
            for share, target in zip(SHARES, targets, strict=True):
                setting = f"start {start}, x{growth:g}, until quantile {share:g}"
                stop = partial(_stop_at, evidence=attrgetter("best"), level=target, at=at)
                found.append(Entry("fixed schedule", "schedule", setting, stop))
    for name, levels, evidence, one in (
        ("adaptive consistency", LEVELS, attrgetter("agreement"), True),
        ("adaptive consistency in rounds", LEVELS, attrgetter("agreement"), False),
        ("lead", LEADS, attrgetter("lead"), False),
        ("learned on public pools", [-price for price in GAINS], attrgetter("saturation"), False),
    ):
        found += [Entry(name, "adaptive", setting, stop) for setting, stop in each(levels, evidence, one)]
    found += [
        Entry("early-stopping self-consistency", "adaptive", str(w), _windows(w, cap))
        for w in WINDOWS
        if w < cap
    ]
    return found


def _stop_at(shown: Shown, evidence: Evidence, level: float, at: IntArray) -> tuple[IntArray, IntArray]:
    return first_stop(evidence(shown)[:, at - 1] >= level, at)


def _windows(size: int, cap: int) -> Stop:
    """Stop at the first window of ``size`` answers that are all equal (Li et al., ICLR 2024)."""
    at = np.append(np.arange(size, cap, size), cap)

    def stop(shown: Shown) -> tuple[IntArray, IntArray]:
        answers = shown.answers
        alike = [
            (answers[:, n - size : n] == answers[:, n - 1, None]).all(axis=1) & (answers[:, n - 1] >= 0)
            for n in at[:-1]
        ]
        return first_stop(np.stack([*alike, np.ones(len(answers), bool)], axis=1), at)

    return stop
