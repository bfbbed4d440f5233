"""The policies that compete, each at settings that draw its frontier."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from data.arrays import Array, IntArray
from predictor.beacon import Beacon
from predictor.families import BINS
from predictor.policies import AnyPolicy, FixedN, OptScale, Predictive, Schedule, Value
from predictor.policy_base import Policy, PolicyBase
from predictor.prior import PriorBatch
from predictor.replay import replay
from predictor.selection import Selection
from predictor.stopping import StoppingRule, fixed_sizes, held, totals
from predictor.value_rule import Shown, ValueRule, first_stop
from predictor.vote_policies import Agreement, Lead, Learned, OwnRule, VotePolicy

CONFIDENCES = (0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.998)
LEADS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5, 0.75, 1.0)
WINDOWS = (2, 3, 4, 5, 6, 8)
GAINS = (0.003, 0.006, 0.009, 0.012, 0.016, 0.02, 0.03, 0.04, 0.055, 0.075, 0.1, 0.15, 0.25)
SHARES = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
BEACON_PRICES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.06)
PAPER = 0.95
TOKEN_PRICES = np.geomspace(3e-4, 0.03, 6).tolist()  # of a candidate, in hits
ROUND_PRICE = 0.5  # in candidates
FEW = 2  # orders that are enough of a policy that takes long to replay
EVERY = 1000  # more than anyone asks for
FIXED, SCHEDULE, OWN = "fixed N", "fixed schedule", "learned on the own questions"
LADDER = (
    FIXED,
    SCHEDULE,
    "adaptive consistency in rounds",
    "lead",
    "learned on public pools",
    OWN,
)
"""From the plainest to the one that asks most of its user."""
Kind = Literal["fixed", "schedule", "adaptive"]
Stop = Callable[[Shown], tuple[IntArray, IntArray]]


class Contender(NamedTuple):
    """A policy at one setting."""

    name: str
    kind: Kind
    setting: str
    stop: Stop
    """(questions,) candidates drawn, and rounds."""
    policy: AnyPolicy | None = None
    """What can be shipped; None of a rival that cannot."""
    orders: int = EVERY
    """Orders of the candidates that it is compared in at most; a certificate's test takes all."""

    def on(self, priors: PriorBatch | None) -> "Contender":
        """The same for other questions; ``priors`` are theirs."""
        if self.policy is None or not self.policy.reads_prior:
            return self
        return self._replace(stop=partial(_replayed, policy=self.policy, priors=priors))


def contenders(cap: int, selection: Selection, scores: Array | None, rule: StoppingRule) -> list[Contender]:
    """Every policy that needs no fit and no prior, at each of its settings.

    ``scores`` (questions, n) of questions that may be looked at; the targets of schedules are quantiles of
    theirs. ``rule`` was learned on other pools.
    """
    common: dict[str, Any] = {"cap": cap, "selection": selection}
    found = [
        Contender(FIXED, "fixed", str(n), partial(_constant, n), FixedN(cap=n, selection=selection))
        for n in fixed_sizes(cap)
    ]
    if scores is not None and selection.reads_scores:
        best = np.maximum.accumulate(np.nan_to_num(scores), axis=1)[:, min(3, cap - 1)]
        targets = np.clip(np.round(np.quantile(best, SHARES) * BINS), 1, BINS - 1) / BINS
        for start, factor, last in _schedules(cap):
            for share, target in zip(SHARES, targets.tolist(), strict=True):
                schedule = Schedule(target=target, cap=last, start=start, factor=factor, selection=selection)
                setting = f"start {start}, x{factor:g}, to {last}, until quantile {share:g}"
                stop = partial(_hit_at, target=target, at=schedule.totals())
                found.append(Contender(SCHEDULE, "schedule", setting, stop, schedule))
    rounds, single = totals(cap), np.arange(1, cap + 1)
    for c in CONFIDENCES:
        one_by_one = Agreement(confidence=c, growth=1, **common)
        in_rounds = Agreement(confidence=c, **common)
        for name, policy, at in (
            ("adaptive consistency", one_by_one, single),
            ("adaptive consistency in rounds", in_rounds, rounds),
        ):
            stop = partial(_evident, column="agreement", level=c, at=at)
            found.append(Contender(name, "adaptive", f"{c:g}", stop, policy))
    for share in LEADS:
        stop = partial(_evident, column="lead", level=share, at=rounds)
        found.append(Contender("lead", "adaptive", f"{share:g}", stop, Lead(share=share, **common)))
    kept = held(rule)
    for price in GAINS:
        stop = partial(_evident, column="saturation", level=-price, at=rounds)
        learned = Learned(price=price, rule=kept, **common)
        found.append(Contender("learned on public pools", "adaptive", f"{price:g}", stop, learned))
    for size in [size for size in WINDOWS if size < cap]:
        name = "early-stopping self-consistency"
        found.append(Contender(name, "adaptive", str(size), _windows(size, cap)))
    return found


def informed(
    cap: int, selection: Selection, targets: Sequence[float], candidate_tokens: float, priors: PriorBatch
) -> list[Contender]:
    """Policies that read a prior: value of information, for each target at several prices."""
    return [
        of_policy(
            "value of information",
            Value(
                target=target,
                cap=cap,
                token_price=float(price / candidate_tokens),
                candidate_tokens=candidate_tokens,
                round_price=float(price * ROUND_PRICE),
                selection=selection,
            ),
            priors,
            f"target {target:.3g}, price {price:.2g}",
        )
        for target in targets
        for price in TOKEN_PRICES
    ]


def published(cap: int, selection: Selection, target: float, priors: PriorBatch | None) -> list[Contender]:
    """What the papers have for a target score: OptScale with its authors' confidence, BEACON, stop on hit."""
    common: dict[str, Any] = {"cap": cap, "selection": selection, "target": target}
    paper: dict[str, Any] = {"confidence": PAPER, "floor": min(3, cap), **common}
    on_hit = FixedN(batch=1, stop_on_hit=True, **common)
    found = [of_policy("stop on hit", on_hit, None, f"target {target:g}")]
    for one_shot in (False, True):
        name = "OptScale-0" + ", one-shot" * one_shot
        zero = OptScale(prior=False, one_shot=one_shot, **paper)
        setting = f"target {target:g}, confidence {PAPER}"
        found.append(of_policy(name, zero, None, setting)._replace(orders=FEW))
        if priors is not None:
            t = OptScale(one_shot=one_shot, **paper)
            found.append(of_policy(name.replace("-0", "-t"), t, priors, setting))
    if priors is not None:
        for confidence in CONFIDENCES[2:6]:
            bound = Predictive(confidence=confidence, **common)
            found.append(of_policy("predictive bound", bound, priors, f"target {target:g}, {confidence:g}"))
    if cap >= 3:  # BEACON looks at three scores first
        for price in BEACON_PRICES:
            for batch in (1, 4):
                beacon = Beacon(cost=price, batch=batch, cap=cap, selection=selection)
                stop = partial(_replayed, policy=beacon, priors=None)
                setting = f"price {price:g}, batch {batch}"
                found.append(Contender("BEACON", "adaptive", setting, stop, None, FEW))
    return found


def of_policy(name: str, policy: AnyPolicy, priors: PriorBatch | None, setting: str = "") -> Contender:
    """Any policy as it is; ``priors`` one a question of those that are shown."""
    kind: Kind = "fixed" if isinstance(policy, FixedN) and not policy.stop_on_hit else "adaptive"
    stop = partial(_replayed, policy=policy, priors=priors)
    return Contender(name, kind, setting, stop, policy, FEW if policy.reads_prior else EVERY)


def of_rule(value: ValueRule, selection: Selection, cap: int, rule: StoppingRule) -> Contender:
    """A rule that was fitted on the own questions, with another's expectation among its features."""
    policy = OwnRule(value=value, rule=held(rule), cap=cap, selection=selection)
    return Contender(OWN, "adaptive", f"{value.price:g}", value.stop, policy)


def _schedules(cap: int) -> Iterator[tuple[int, float, int]]:
    for last in sorted({cap, max(cap * 3 // 4, 1)}):
        for start, factor in ((1, 2.0), (2, 1.5), (3, 2.0), (4, 3.0)):
            if start < last:
                yield start, factor, last


def _constant(n: int, shown: Shown) -> tuple[IntArray, IntArray]:
    return np.full(len(shown.rows), n), np.ones(len(shown.rows), np.int64)


def _hit_at(shown: Shown, target: float, at: IntArray) -> tuple[IntArray, IntArray]:
    return first_stop(shown.best[:, at - 1] >= target, at)


def _evident(shown: Shown, column: str, level: float, at: IntArray) -> tuple[IntArray, IntArray]:
    evidence: Array = getattr(shown, column)
    return first_stop(evidence[:, at - 1] >= level, at)


def _windows(size: int, cap: int) -> Stop:
    """Stop at the first window of ``size`` answers that are all equal (Li et al., ICLR 2024)."""
    at = np.append(np.arange(size, cap, size), cap)

    def stop(shown: Shown) -> tuple[IntArray, IntArray]:
        windows = np.stack([shown.candidates.answers[:, n - size : n] for n in at], axis=1)
        alike = (windows == windows[..., -1:]).all(axis=2) & (windows[..., -1] >= 0)
        return first_stop(alike, at)

    return stop


def _replayed(shown: Shown, policy: Policy, priors: PriorBatch | None) -> tuple[IntArray, IntArray]:
    given = None if priors is None else priors[shown.rows]
    if isinstance(policy, PolicyBase) and not isinstance(policy, VotePolicy):
        policy = policy.model_copy(update={"selection": Selection()})  # where it stops is all that is asked
    asked = shown.candidates
    run = replay(policy, asked.scores, given, asked.tokens, shown.cache, asked.answers)
    return run.drawn, run.rounds
