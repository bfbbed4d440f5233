"""The report's table: the shipped policy beside its rivals, and a doubling schedule at each target."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from data.scores import ScoreTable
from flows.config import Config
from predictor.baselines import Beacon, adaptive_consistency, answers_known, early_stopping_consistency
from predictor.decision import Policy
from predictor.policies import AnyPolicy, FixedN, OptScale, Predictive, Quantile, Schedule
from predictor.prior import Beliefs, Prior
from predictor.replay import Name, Outcome, bootstrap, outcomes

Row = dict[str, Any]
SHIPPED = "shipped policy"
SCHEDULE = "best blind schedule"
KNOWN = "shipped policy, law known"
TARGETS = (0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98)


def compare(
    config: Config,
    table: ScoreTable,
    tune: ScoreTable,
    shipped: AnyPolicy,
    beliefs: tuple[Beliefs, Beliefs],
    population: Prior,
    reading: float,
    more: Mapping[str, Policy] | None = None,
) -> tuple[list[Row], dict[str, Outcome]]:
    """Rows of the report on ``table`` (beliefs: of tune, of the table), and the outcomes behind them.

    ``reading`` is what a prior costs, in tokens a question.
    """
    target, cap = config.policy.target, config.policy.cap
    schedule = best_schedule(config, tune, shipped, beliefs[0])
    (alone,) = averaged(config, {"": shipped}, table, beliefs[1]).values()
    policies = rivals(config, shipped, schedule, float(alone.draws.mean())) | dict(more or {})
    found = averaged(config, policies, table, beliefs[1])
    shown = table.candidates(cap)
    found |= averaged(config, {KNOWN: shipped}, table, Beliefs.hindsight(population, shown.scores))
    policies[KNOWN] = shipped
    if answers_known(shown):
        found["adaptive-consistency"] = adaptive_consistency(shown, cap, target=target)
        found["early-stopping self-consistency"] = early_stopping_consistency(shown, cap, target=target)
    full = found[f"fixed N = {cap}"]
    rows = [row(name, policies.get(name), o, full, found[SCHEDULE], reading) for name, o in found.items()]
    return rows, found


def row(
    name: str, policy: Policy | None, found: Outcome, full: Outcome, schedule: Outcome, reading: float
) -> Row:
    """What a policy spends, hits and answers, with 95 % intervals, and what it had promised."""
    tokens, hits, right = (bootstrap(v) for v in (found.tokens, found.hit, found.correct))
    share = bootstrap(found.tokens, full.tokens)
    saved = bootstrap(schedule.tokens - found.tokens, schedule.tokens)
    gained = bootstrap(-found.lost_accuracy)
    promised = float(found.promised.sum())
    promises = isinstance(policy, Predictive | Quantile | OptScale) and promised > 0
    return {
        "policy": name,
        "candidates": float(found.draws.mean()),
        "rounds": float(found.rounds.mean()),
        "generator tokens": tokens.mean,
        "tokens low": tokens.low,
        "tokens high": tokens.high,
        "of full cap": share.mean,
        "longest tokens": float(found.waited.mean()),
        "reward-model tokens": float(found.reward_tokens.mean()),
        "predictor tokens": reading if _reads_prior(policy) else 0.0,
        "hits": hits.mean,
        "hits low": hits.low,
        "hits high": hits.high,
        "lost hits": float(found.lost_hit.mean()),
        "accuracy": right.mean,
        "accuracy low": right.low,
        "accuracy high": right.high,
        "lost answers": _mean(found.lost_answer),
        "accuracy gained": gained.mean,
        "gained low": gained.low,
        "gained high": gained.high,
        "saved against schedule": saved.mean,
        "saved low": saved.low,
        "saved high": saved.high,
        "promised": getattr(policy, "confidence", None) if promises else None,
        "realised": float(found.kept.sum()) / promised if promises else None,
        "promised on": promised / len(found.hit) if promises else None,
    }


def rivals(config: Config, shipped: AnyPolicy, schedule: Schedule, mean_draws: float) -> dict[str, Policy]:
    """The policies of the report's table."""
    target, cap = config.policy.target, config.policy.cap
    common: dict[str, Any] = {"target": target, "cap": cap}
    equal = max(round(mean_draws), 1)
    sizes = [n for n in (1, 2, 4, 8, 16, 32, 64, 128) if n < cap]
    return {
        SHIPPED: shipped,
        SCHEDULE: schedule,
        "predictive bound, 90 %": Predictive(confidence=0.9, batch=4, floor=2, **common),
        "quantile bound, 90 %": Quantile(confidence=0.9, batch=4, floor=2, **common),
        "OptScale-0": OptScale(prior=False, **common),
        "OptScale-t": OptScale(**common),
        "OptScale-0 one-shot": OptScale(prior=False, one_shot=True, **common),
        "OptScale-t one-shot": OptScale(one_shot=True, **common),
        "BEACON": Beacon(**common),
        f"fixed N = {equal}, equal tokens": FixedN(target=target, cap=equal),
        **{f"fixed N = {n}": FixedN(target=target, cap=n) for n in [*sizes, cap]},
    }


def best_schedule(config: Config, tune: ScoreTable, beside: AnyPolicy, beliefs: Beliefs) -> Schedule:
    """The cheapest blind schedule on tune that reaches the target of ``beside`` as often in as few rounds.

    One round of the whole cap always does, if nothing else does.
    """
    target, cap = beside.target, config.policy.cap
    (goal,) = averaged(config, {"": beside}, tune, beliefs, target).values()
    schedules = [
        Schedule(target=target, cap=max(last, 1), start=start, factor=factor)
        for start in (1, 2, 3, 4, 6, 8, 12, cap)
        for factor in (1.0, 1.5, 2.0, 3.0, 4.0)
        for last in sorted({cap, *(cap * k // 8 for k in range(2, 8))})
    ]
    found = averaged(config, dict(enumerate(schedules)), tune, None, target)
    hits, rounds = goal.hit.mean(), goal.rounds.mean()
    fits = [n for n, o in found.items() if o.hit.mean() >= hits and o.rounds.mean() <= rounds]
    if not fits:
        return Schedule(target=target, cap=cap, start=cap)
    return schedules[min(fits, key=lambda n: float(found[n].tokens.mean()))]


def by_target(config: Config, table: ScoreTable) -> list[Row]:
    """For choosing a target: what a doubling schedule that stops on it spends, reaches and answers.

    It fits nothing, so train and tune questions may be used; calibration and test must not be.
    """
    cap, rows = config.policy.cap, []
    full = table.candidates(cap).tokens.sum(axis=1)
    for target in TARGETS:
        schedule = Schedule(target=target, cap=cap, start=max(cap // 16, 1))
        found = outcomes({"": schedule}, table.candidates(cap), None, config.certify.orders)[""]
        gained = bootstrap(-found.lost_accuracy)
        rows.append(
            {
                "target": target,
                "reached": float(found.hit.mean()),
                "of full cap": float(found.tokens.sum() / full.sum()),
                "rounds": float(found.rounds.mean()),
                "lost answers": _mean(found.lost_answer),
                "accuracy gained": gained.mean,
                "gained low": gained.low,
                "gained high": gained.high,
            }
        )
    return rows


def averaged(
    config: Config,
    policies: Mapping[Name, Policy],
    table: ScoreTable,
    beliefs: Beliefs | None,
    target: float | None = None,
) -> dict[Name, Outcome]:
    """Outcomes of policies on a table's questions, each averaged over orders of its candidates."""
    shown, goal = table.candidates(config.policy.cap), target or config.policy.target
    return outcomes(policies, shown, beliefs, config.certify.orders, target=goal)


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def _reads_prior(policy: Policy | None) -> bool:
    silent = policy is None or isinstance(policy, FixedN | Schedule | Beacon)
    return not silent and getattr(policy, "prior", True)
