"""The report's table: the shipped policy beside its rivals, and a doubling schedule at each target.

A rival stands there at its best setting, or its name says which setting it is: see `cheapest`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from data.record import Record
from data.scores import ScoreTable
from predictor.baselines import Beacon, adaptive_consistency, answers_known, early_stopping_consistency
from predictor.certificate import aims, cost
from predictor.decision import Policy
from predictor.policies import AnyPolicy, FixedN, OptScale, Predictive, Quantile, Schedule
from predictor.prior import Prior, PriorBatch
from predictor.replay import Name, Outcome, bootstrap, outcomes
from predictor.scored_questions import ScoredQuestions
from predictor.settings import Terms

Row = dict[str, Any]
SHIPPED = "shipped policy"
SCHEDULE = "best fixed schedule"
KNOWN = "shipped policy, oracle"
FACTORS = (1.0, 1.5, 2.0, 3.0, 4.0)
TARGETS = (0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98)


def compare(
    terms: Terms,
    test: ScoredQuestions,
    tune: ScoredQuestions,
    shipped: AnyPolicy,
    population: Prior,
    reading: float,
    more: Mapping[str, Policy] | None = None,
) -> tuple[list[Row], dict[str, Outcome]]:
    """Rows of the report on ``test``, and the outcomes behind them; settings are chosen on ``tune``.

    ``reading`` is what a prior costs, in tokens a question.
    """
    target, cap = terms.target, terms.cap
    policies = {SHIPPED: shipped, **rivals(terms, tune, shipped), **(more or {})}
    found = averaged(terms, policies, *test)
    shown = test.table.candidates(cap)
    found |= averaged(terms, {KNOWN: shipped}, test.table, PriorBatch.oracle(population, shown.scores))
    policies[KNOWN] = shipped
    if answers_known(shown):
        found["adaptive-consistency, .95"] = adaptive_consistency(shown, cap, 0.95, target=target)
        found["early-stopping self-consistency, 5"] = early_stopping_consistency(shown, cap, 5, target=target)
    full = found[f"fixed N = {cap}"]
    rows = [row(name, policies.get(name), o, full, found[SCHEDULE], reading) for name, o in found.items()]
    return rows, found


def row(
    name: str, policy: Policy | None, found: Outcome, full: Outcome, schedule: Outcome, reading: float
) -> Row:
    """What a policy spends, hits and answers, with 95 % intervals, and what it had promised.

    What it saves against the schedule is a share of the schedule's generated tokens: of generated tokens
    alone, and after what its priors read.
    """
    tokens, hits, right = (bootstrap(v) for v in (found.tokens, found.hit, found.correct))
    share = bootstrap(found.tokens, full.tokens)
    read = reading if getattr(policy, "reads_prior", False) else 0.0
    saved = bootstrap(schedule.tokens - found.tokens, schedule.tokens)
    in_all = bootstrap(schedule.tokens - found.tokens - read, schedule.tokens)
    gained, over = bootstrap(-found.lost_accuracy), bootstrap(found.correct - schedule.correct)
    promised = float(found.promised.sum())
    promises = getattr(policy, "has_confidence", False) and promised > 0
    return {
        "policy": name,
        "setting": _setting(policy),
        "candidates": float(found.draws.mean()),
        "rounds": float(found.rounds.mean()),
        "generator tokens": tokens.mean,
        "tokens low": tokens.low,
        "tokens high": tokens.high,
        "of full cap": share.mean,
        "longest tokens": float(found.waited.mean()),
        "reward-model tokens": float(found.reward_tokens.mean()),
        "predictor tokens": read,
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
        "saved after reading": in_all.mean,
        "saved after reading low": in_all.low,
        "saved after reading high": in_all.high,
        "right over schedule": over.mean,
        "right over schedule low": over.low,
        "right over schedule high": over.high,
        "promised": getattr(policy, "confidence", None) if promises else None,
        "realised": float(found.kept.sum()) / promised if promises else None,
        "promised on": promised / len(found.hit) if promises else None,
    }


def rivals(terms: Terms, tune: ScoredQuestions, shipped: AnyPolicy) -> dict[str, Policy]:
    """The policies of the report's table beside the shipped one.

    The paper's are as its authors' single setting has them: a confidence of .95, three scores first.
    """
    cap = terms.cap
    common: dict[str, Any] = {"target": terms.target, "cap": cap}
    (goal,) = averaged(terms, {"": shipped}, *tune).values()
    found: dict[str, Policy] = {}
    for name, family in families(**common).items():
        if family:
            best, short = cheapest(terms, family, *tune, goal)
            found[f"{name}{short}"] = best
    if terms.answers and not np.isnan(goal.correct).all():
        higher = [s for aim in aims(terms.target) for s in schedules(aim, cap)]
        best, short = cheapest(terms, higher, tune.table, None, goal, right=True)
        found[f"{SCHEDULE}, as many right{short}"] = best
    paper: dict[str, Any] = {"confidence": 0.95, "floor": min(3, cap), **common}
    found |= {
        "OptScale-0, .95": OptScale(prior=False, **paper),
        "OptScale-t, .95": OptScale(**paper),
        "OptScale-0 one-shot, .95": OptScale(prior=False, one_shot=True, **paper),
        "OptScale-t one-shot, .95": OptScale(one_shot=True, **paper),
    }
    equal = max(round(float(goal.draws.mean())), 1)
    sizes = [n for n in (1, 2, 4, 8, 16, 32, 64, 128) if n < cap]
    found[f"fixed N = {equal}, equal on tune"] = FixedN(target=terms.target, cap=equal)
    return found | {f"fixed N = {n}": FixedN(target=terms.target, cap=n) for n in [*sizes, cap]}


def families(target: float, cap: int) -> dict[str, list[Policy]]:
    """Rivals by name, each with the settings that it may choose from on tune questions."""
    common: dict[str, Any] = {"target": target, "cap": cap}
    looks = [
        {"confidence": confidence, "batch": batch, "floor": min(floor, cap)}
        for confidence in (0.5, 0.8, 0.9, 0.95, 0.99)
        for batch in (4, 8)
        for floor in (2, 4)
    ]
    prices = [(price, batch) for price in (0.0003, 0.001, 0.003, 0.01, 0.03) for batch in (1, 4, 8)]
    return {
        # Ended at a higher score than the target, it would draw more and hit it no more often.
        SCHEDULE: schedules(target, cap),
        "best predictive bound": [Predictive(**look, **common) for look in looks],
        "best quantile bound": [Quantile(**look, **common) for look in looks],
        # It looks at three scores first.
        "best BEACON": [Beacon(cost=price, batch=batch, **common) for price, batch in prices if cap >= 3],
    }


def schedules(target: float, cap: int) -> list[Policy]:
    """Fixed schedules that end at a score of ``target``; one of them is the whole cap in one round."""
    lasts = sorted({cap, *(max(cap * k // 8, 1) for k in range(2, 8))})
    starts = (1, 2, 3, 4, 5, 6, 8, 10, 12, cap)
    knobs = {(min(start, last), factor, last) for start in starts for factor in FACTORS for last in lasts}
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
    none does all, the cheapest of those that hit as often; where none hits as often, the one that hits most.
    The text says what is missed, and is empty where nothing is.
    """
    found = list(averaged(terms, dict(enumerate(family)), tune, priors).values())
    price, slack = currency(terms, tune), 1e-9  # sums of the same losses in another order
    hits = np.array([o.hit.mean() for o in found])
    hitting = hits >= goal.hit.mean() - slack
    fits = hitting & (np.array([o.rounds.mean() for o in found]) <= goal.rounds.mean() + slack)
    missed = ", more rounds"
    if right and fits.any():
        answered = np.array([np.nanmean(o.correct) for o in found]) >= np.nanmean(goal.correct) - slack
        fits, missed = fits & answered, ", but not"
    for among, short in ((fits, ""), (hitting, missed)):
        if among.any():
            return family[min(np.flatnonzero(among).tolist(), key=lambda n: price(found[n]))], short
    return family[int(hits.argmax())], ", fewer hits"


def currency(terms: Terms, tune: ScoreTable) -> Callable[[Outcome], float]:
    """What policies are chosen by on tune questions: generated tokens, and rounds at their price."""
    tokens = float(tune.candidates(terms.cap).tokens.mean())
    return lambda found: cost(found, tokens, terms.round_candidates)


def by_target(cap: int, orders: int, table: ScoreTable) -> list[Row]:
    """For choosing a target: what a doubling schedule that stops on it spends, reaches and answers.

    It fits nothing, so train and tune questions may be used; calibration and test must not be.
    """
    rows = []
    full = table.candidates(cap).tokens.sum(axis=1)
    for target in TARGETS:
        schedule = Schedule(target=target, cap=cap, start=max(cap // 16, 1))
        found = outcomes({"": schedule}, table.candidates(cap), None, orders)[""]
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
    terms: Terms, policies: Mapping[Name, Policy], table: ScoreTable, priors: PriorBatch | None
) -> dict[Name, Outcome]:
    """Outcomes of policies on a table's questions, each averaged over orders of its candidates.

    Hits are those of the terms' target, whatever the policies aim at.
    """
    shown = table.candidates(terms.cap)
    return outcomes(policies, shown, priors, terms.orders, target=terms.target)


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def _setting(policy: Policy | None) -> str:
    """The knobs that are not the policy's defaults, target and cap left out."""
    if not isinstance(policy, Record):
        return ""
    knobs = policy.model_dump(exclude_defaults=True, exclude={"kind", "cap"})
    return ", ".join(f"{name} {_short(value)}" for name, value in knobs.items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
