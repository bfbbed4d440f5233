"""The report's table: the shipped policy beside baselines, and a doubling schedule at each target.

A baseline has its best setting, or its name says which setting it has: see `cheapest`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data.record import Record
from data.scores import ScoreTable
from predictor.baselines import Beacon, adaptive_consistency, answers_known, early_stopping_consistency
from predictor.certificate import aims, cost
from predictor.decision import Policy
from predictor.policies import AnyPolicy, FixedN, OptScale, Schedule
from predictor.prior import Prior, PriorBatch
from predictor.replay import Interval, Name, Outcome, Summary, bootstrap, outcomes, summarise
from predictor.scored_questions import ScoredQuestions
from predictor.settings import Terms

SHIPPED = "shipped policy"
SCHEDULE = "best fixed schedule"
ORACLE = "shipped policy, oracle"
TARGETS = (0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98)


class Row(NamedTuple):
    """One policy of the table."""

    policy: str
    setting: str
    """Knobs that are not the policy's defaults."""
    means: Summary
    of_full_cap: float
    """Share of the full cap's generated tokens."""
    predictor_tokens: float
    """Tokens that the predictor reads for a prior; 0 for a policy that reads no prior."""
    saved: Interval
    """Generated tokens fewer than the best fixed schedule's, as a share of these."""
    saved_after_reading: Interval
    """The same with the predictor's tokens counted too."""
    correct_over_schedule: Interval
    confidence: float | None
    """Chance of a hit that the policy planned for; None if it promised nothing."""
    realised: float | None
    """Share of hits where it promised one."""

    def flat(self) -> dict[str, Any]:
        """Plain values by name, the ends of an interval beside its mean, for tables."""
        values = dict[str, Any]()
        for name, value in {**self._asdict(), **self.means._asdict()}.items():
            if isinstance(value, Interval):
                values |= {name: value.mean, f"{name}_low": value.low, f"{name}_high": value.high}
            elif name != "means":
                values[name] = value
        return values


class TargetRow(NamedTuple):
    """A schedule that stops at one target, on train and tune questions."""

    target: float
    of_full_cap: float
    means: Summary


def compare(
    terms: Terms,
    test: ScoredQuestions,
    tune: ScoredQuestions,
    shipped: AnyPolicy,
    population: Prior,
    reading: float,
    extra_policies: Mapping[str, Policy] | None = None,
) -> tuple[list[Row], dict[str, Outcome]]:
    """Rows of the report on ``test``, and the outcomes behind them; settings are chosen on ``tune``.

    ``reading`` is the cost of a prior, in tokens a question.
    """
    target, cap = terms.target, terms.cap
    policies = {SHIPPED: shipped, **baselines(terms, tune, shipped), **(extra_policies or {})}
    results = averaged(terms, policies, *test)
    shown = test.table.candidates(cap)
    results |= averaged(terms, {ORACLE: shipped}, test.table, PriorBatch.oracle(population, shown.scores))
    if answers_known(shown):
        results["adaptive-consistency, .95"] = adaptive_consistency(shown, cap, 0.95, target=target)
        results["early-stopping self-consistency, 5"] = early_stopping_consistency(
            shown, cap, 5, target=target
        )
    full, schedule = results[f"fixed N = {cap}"], results[SCHEDULE]
    policies[ORACLE] = shipped
    rows = [make_row(n, policies.get(n), o, full, schedule, reading) for n, o in results.items()]
    return rows, results


def make_row(
    name: str, policy: Policy | None, outcome: Outcome, full: Outcome, schedule: Outcome, reading: float
) -> Row:
    """Summarise an outcome, paired with the full cap and the best fixed schedule."""
    read = reading if getattr(policy, "reads_prior", False) else 0.0
    fewer = schedule.tokens - outcome.tokens
    promises = getattr(policy, "has_confidence", False) and outcome.promised.any()
    return Row(
        policy=name,
        setting=_setting(policy),
        means=summarise(outcome),
        of_full_cap=float(outcome.tokens.sum() / full.tokens.sum()),
        predictor_tokens=read,
        saved=bootstrap(fewer, schedule.tokens),
        saved_after_reading=bootstrap(fewer - read, schedule.tokens),
        correct_over_schedule=bootstrap(outcome.correct - schedule.correct),
        confidence=getattr(policy, "confidence", None) if promises else None,
        realised=float(outcome.kept.sum() / outcome.promised.sum()) if promises else None,
    )


def baselines(terms: Terms, tune: ScoredQuestions, shipped: AnyPolicy) -> dict[str, Policy]:
    """The policies of the report's table beside the shipped one.

    OptScale has its authors' single setting: a confidence of .95, three scores first.
    """
    target, cap = terms.target, terms.cap
    common: dict[str, Any] = {"target": target, "cap": cap}
    (goal,) = averaged(terms, {"": shipped}, *tune).values()
    # Ended at a higher score than the target, a schedule would draw more and hit it no more often.
    policies = {SCHEDULE: cheapest(terms, schedules(target, cap), tune.table, None, goal)[0]}
    if cap >= 3:  # BEACON looks at three scores first
        prices = [(price, batch) for price in (0.0003, 0.001, 0.003, 0.01, 0.03) for batch in (1, 4, 8)]
        beacons = [Beacon(cost=price, batch=batch, **common) for price, batch in prices]
        best, missed = cheapest(terms, beacons, *tune, goal)
        policies[f"best BEACON{missed}"] = best
    if terms.answers and not np.isnan(goal.correct).all():
        higher = [schedule for aim in aims(target) for schedule in schedules(aim, cap)]
        best, missed = cheapest(terms, higher, tune.table, None, goal, right=True)
        policies[f"{SCHEDULE}, as many right{missed}"] = best
    paper: dict[str, Any] = {"confidence": 0.95, "floor": min(3, cap), **common}
    policies |= {
        "OptScale-0, .95": OptScale(prior=False, **paper),
        "OptScale-t, .95": OptScale(**paper),
        "OptScale-0 one-shot, .95": OptScale(prior=False, one_shot=True, **paper),
        "OptScale-t one-shot, .95": OptScale(one_shot=True, **paper),
    }
    equal = max(round(float(goal.draws.mean())), 1)
    policies[f"fixed N = {equal}, equal on tune"] = FixedN(target=target, cap=equal)
    sizes = [n for n in (1, 2, 4, 8, 16, 32, 64, 128) if n < cap]
    return policies | {f"fixed N = {n}": FixedN(target=target, cap=n) for n in [*sizes, cap]}


def schedules(target: float, cap: int) -> list[Policy]:
    """Fixed schedules that end at a score of ``target``; one of them is the whole cap in one round."""
    lasts = sorted({cap, *(max(cap * k // 8, 1) for k in range(2, 8))})
    starts, factors = (1, 2, 3, 4, 5, 6, 8, 10, 12, cap), (1.0, 1.5, 2.0, 3.0, 4.0)
    knobs = {(min(start, last), factor, last) for start in starts for factor in factors for last in lasts}
    return [
        Schedule(target=target, cap=last, start=start, factor=factor)
        for start, factor, last in sorted(knobs)
        if start < last or factor == 1  # all in one round: the factor is nothing
    ]


def cheapest(
    terms: Terms,
    family: Sequence[Policy],
    tune: ScoreTable,
    priors: PriorBatch | None,
    goal: Outcome,
    right: bool = False,
) -> tuple[Policy, str]:
    """The cheapest setting on tune that hits the target as often as ``goal`` in as few rounds.

    In the currency that chose the shipped policy; with ``right`` it also has as many right answers. Where
    none does all, right answers are given up first, then rounds, then hits, and the text says so.
    """
    price, slack = currency(terms, tune), 1e-9  # sums of the same losses in another order

    def rank(outcome: Outcome) -> tuple[int, float]:
        if outcome.hit.mean() < goal.hit.mean() - slack:
            return 3, -float(outcome.hit.mean())
        if outcome.rounds.mean() > goal.rounds.mean() + slack:
            return 2, price(outcome)
        if right and np.nanmean(outcome.correct) < np.nanmean(goal.correct) - slack:
            return 1, price(outcome)
        return 0, price(outcome)

    ranks = {n: rank(o) for n, o in averaged(terms, dict(enumerate(family)), tune, priors).items()}
    best = min(ranks, key=lambda n: ranks[n])
    return family[best], ("", ", but fewer right", ", more rounds", ", fewer hits")[ranks[best][0]]


def currency(terms: Terms, tune: ScoreTable) -> Callable[[Outcome], float]:
    """Price by which policies are chosen on tune questions: generated tokens, and rounds at their price."""
    tokens = float(tune.candidates(terms.cap).tokens.mean())
    return lambda outcome: cost(outcome, tokens, terms.round_candidates)


def by_target(cap: int, orders: int, table: ScoreTable) -> list[TargetRow]:
    """For choosing a target: what a doubling schedule that stops on it spends, reaches and answers.

    It fits nothing, so train and tune questions may be used; calibration and test must not be.
    """
    start, candidates = max(cap // 16, 1), table.candidates(cap)
    policies = {target: Schedule(target=target, cap=cap, start=start) for target in TARGETS}
    results = outcomes(policies, candidates, None, orders)
    full = candidates.tokens.sum()
    return [TargetRow(t, float(o.tokens.sum() / full), summarise(o)) for t, o in results.items()]


def averaged(
    terms: Terms, policies: Mapping[Name, Policy], table: ScoreTable, priors: PriorBatch | None
) -> dict[Name, Outcome]:
    """Outcomes of policies on a table's questions, each averaged over orders of its candidates.

    Hits are those of the terms' target, whatever the policies aim at.
    """
    return outcomes(policies, table.candidates(terms.cap), priors, terms.orders, target=terms.target)


def _setting(policy: Policy | None) -> str:
    """The knobs that are not the policy's defaults, target and cap left out."""
    if not isinstance(policy, Record):
        return ""
    knobs = policy.model_dump(exclude_defaults=True, exclude={"kind", "cap"})
    return ", ".join(f"{k} {f'{v:.4g}' if isinstance(v, float) else v}" for k, v in knobs.items())
