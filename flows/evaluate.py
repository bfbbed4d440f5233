"""Which policy to ship, what is promised of it, and how it does beside the others. Plain functions."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from data.scores import ScoreTable
from flows.config import Config
from predictor.assumptions import Finding, check
from predictor.baselines import Beacon, adaptive_consistency, answers_known, early_stopping_consistency
from predictor.certificate import Certificate, certify, cost, ladders, refuted, thin
from predictor.correctness import Correctness, reliability, training_rows
from predictor.decision import Policy
from predictor.empirical import fit_empirical
from predictor.errors import ConfigError, OptScaleError
from predictor.families import EMPIRICAL, FAMILIES
from predictor.family_check import FamilyFit, choose, compare_families
from predictor.planning import Donors, realised_share
from predictor.policies import AnyPolicy, FixedN, OptScale, Predictive, Quantile, Schedule
from predictor.prior import Beliefs, Prior
from predictor.question import Question
from predictor.replay import Name, Outcome, bootstrap, outcome, outcomes, pick, replay

Row = dict[str, Any]
SHIPPED = "shipped policy"
SCHEDULE = "best blind schedule"
KNOWN = "shipped policy, law known"
PLANNED = 60
TARGETS = (0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98)


class Assessment(NamedTuple):
    """All that the report tells; on test questions unless it says otherwise."""

    train: ScoreTable
    test: ScoreTable
    beliefs: Beliefs
    population: Prior
    certificate: Certificate
    policy: AnyPolicy
    """The cheapest certified policy; the config's where none is."""
    rows: list[Row]
    outcomes: dict[str, Outcome]
    refuted: dict[str, float]
    """For each certified loss, the chance of so many on test questions if the promise held."""
    findings: list[Finding]
    """Of all questions of the pool."""
    families: list[FamilyFit]
    """Fitted on train, compared on tune."""
    correctness: Correctness | None
    """Fitted on train and tune; None where no answers are known."""
    reliability: list[Row]
    """Of ``correctness``: what it said, and how often the shipped policy's answer was right."""
    planned: dict[str, float]
    """How often sets of `PLANNED` test questions took what the plan for them had said, at 95 %."""
    targets: list[Row]
    """On train and tune: what stopping at each of several targets would cost and save, whatever the law."""


def choose_family(config: Config, train: ScoreTable, tune: ScoreTable) -> tuple[str, list[FamilyFit]]:
    """The score family that foretells tune questions best, unless the config names one."""
    named = config.predictor.family
    names = list(FAMILIES) if named == "auto" else [named]
    if named in ("auto", EMPIRICAL):
        names = [*(n for n in names if n != EMPIRICAL), fit_empirical(train.scores).name]
    fits = compare_families(train.scores, tune.scores, config.policy.target, names)
    return choose(fits), fits


def assess(
    config: Config,
    contract: str,
    table: ScoreTable,
    believe: Callable[[ScoreTable], Beliefs],
    population: Prior,
    families: list[FamilyFit],
    more: Mapping[str, Policy] | None = None,
    tokens_read: Callable[[Question], int] = lambda question: 0,
) -> Assessment:
    """Certify on calibration, then look at test: whatever the priors are, the same examination.

    ``table`` is the whole pool; questions with fewer candidates than the cap take no part but in the
    findings. ``believe`` gives the priors of a fold's questions, ``more`` are policies to show beside,
    ``tokens_read`` tells what a prior costs.

    Raises
    ------
    ConfigError
        If the tune, calibration or test fold has no question.
    """
    full = table.full(config.policy.cap)
    train, tune, calibration, test = (full.fold(n) for n in ("train", "tune", "calibration", "test"))
    for name, fold in (("tune", tune), ("calibration", calibration), ("test", test)):
        if not len(fold):
            raise ConfigError(
                f"the {name} fold is empty: a certificate needs questions of its own; collect more of them "
                "or raise the fold's share"
            )
    believed = {id(fold): believe(fold) for fold in (train, tune, calibration, test)}
    beliefs = believed[id(test)]
    certificate = certify_policy(
        config, contract, tune, calibration, (believed[id(tune)], believed[id(calibration)])
    )
    policy = certificate.policy or config.policy
    reading = float(np.mean([tokens_read(question) for question in test.questions]))
    rows, found = compare(
        config, test, tune, policy, (believed[id(tune)], beliefs), population, reading, more
    )
    seen = outcome(policy, test.candidates(certificate.cap), beliefs, certificate.target)
    correctness, reliability = check_correctness(
        config, policy, (train, tune, test), (believed[id(train)], believed[id(tune)], beliefs)
    )
    return Assessment(
        train,
        test,
        beliefs,
        population,
        certificate,
        policy,
        rows,
        found,
        {str(name): value for name, value in refuted(certificate, seen).items()},
        check(table.scores, table.status, table.texts, table.tokens, table.parts, config.policy.target),
        families,
        correctness,
        reliability,
        realised_share(
            policy,
            beliefs,
            test.candidates(policy.cap),
            test.prompt_tokens,
            to_donors(train, population),
            size=PLANNED,
        ),
        by_target(config, full.fold("train", "tune")),
    )


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


def to_donors(train: ScoreTable, population: Prior) -> Donors:
    """All candidates of the pool's train questions, as planning draws on them."""
    return Donors(train.candidates(int(train.drawn.min())), train.prompt_tokens, population)


def check_correctness(
    config: Config,
    policy: AnyPolicy,
    folds: tuple[ScoreTable, ScoreTable, ScoreTable],
    beliefs: tuple[Beliefs, Beliefs, Beliefs],
) -> tuple[Correctness | None, list[Row]]:
    """P(correct | selected maximum, n, prior), fitted on train and tune, held against test."""
    shown = [fold.candidates(config.policy.cap) for fold in folds]
    means = [b.moments[0] for b in beliefs]
    try:
        parts = [training_rows(c, m) for c, m in zip(shown[:2], means[:2], strict=True)]
        best, drawn, means_, right = (np.concatenate(column) for column in zip(*parts, strict=True))
        fitted = Correctness.fit(best, drawn, means_, right)
    except OptScaleError:  # no answer is known, or all are right: nothing to learn, and the report says so
        return None, []
    course = replay(policy, shown[2].scores, beliefs[2], shown[2].tokens)
    told = fitted.predict(course.best, course.drawn, means[2])
    return fitted, reliability(told, pick(shown[2].correct, course.chosen))


def certify_policy(
    config: Config, contract: str, tune: ScoreTable, calibration: ScoreTable, beliefs: tuple[Beliefs, Beliefs]
) -> Certificate:
    """Order policies on tune, test them on calibration; ``beliefs`` are those of the two folds."""
    settings, policy = config.certify, config.policy
    tokens = float(tune.candidates(policy.cap).tokens.mean())

    def price(found: Outcome) -> float:
        return cost(found, tokens, settings.round_candidates)

    first, sequences = policy, list[list[AnyPolicy]]()
    if settings.choose:
        first = FixedN(target=policy.target, cap=policy.cap)
        above = settings.epsilon.keys() != {"lost_hit"}
        for rising in ladders(policy.target, policy.cap, tokens, settings.round_candidates, above):
            found = _averaged(config, dict(enumerate(rising)), tune, beliefs[0])
            sequences.append(thin(rising, [price(o) for o in found.values()]))
    return certify(
        first,
        sequences,
        calibration.candidates(policy.cap),
        beliefs[1],
        price=price,
        target=policy.target,
        cap=policy.cap,
        epsilon=settings.epsilon,
        delta=settings.delta,
        contract=contract,
        question_ids=[q.id for q in calibration.questions],
        groups=calibration.groups,
    )


def _averaged(
    config: Config,
    policies: Mapping[Name, Policy],
    table: ScoreTable,
    beliefs: Beliefs | None,
    target: float | None = None,
) -> dict[Name, Outcome]:
    shown, goal = table.candidates(config.policy.cap), target or config.policy.target
    return outcomes(policies, shown, beliefs, config.certify.orders, target=goal)


def best_schedule(config: Config, tune: ScoreTable, beside: AnyPolicy, beliefs: Beliefs) -> Schedule:
    """The cheapest blind schedule on tune that reaches the target of ``beside`` as often in as few rounds.

    One round of the whole cap always does, if nothing else does.
    """
    target, cap = beside.target, config.policy.cap
    (goal,) = _averaged(config, {"": beside}, tune, beliefs, target).values()
    schedules = [
        Schedule(target=target, cap=max(last, 1), start=start, factor=factor)
        for start in (1, 2, 3, 4, 6, 8, 12, cap)
        for factor in (1.0, 1.5, 2.0, 3.0, 4.0)
        for last in sorted({cap, *(cap * k // 8 for k in range(2, 8))})
    ]
    found = _averaged(config, dict(enumerate(schedules)), tune, None, target)
    hits, rounds = goal.hit.mean(), goal.rounds.mean()
    fits = [n for n, o in found.items() if o.hit.mean() >= hits and o.rounds.mean() <= rounds]
    if not fits:
        return Schedule(target=target, cap=cap, start=cap)
    return schedules[min(fits, key=lambda n: float(found[n].tokens.mean()))]


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
    (alone,) = _averaged(config, {"": shipped}, table, beliefs[1]).values()
    policies = rivals(config, shipped, schedule, float(alone.draws.mean())) | dict(more or {})
    found = _averaged(config, policies, table, beliefs[1])
    shown = table.candidates(cap)
    found |= _averaged(config, {KNOWN: shipped}, table, Beliefs.hindsight(population, shown.scores))
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


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def _reads_prior(policy: Policy | None) -> bool:
    silent = policy is None or isinstance(policy, FixedN | Schedule | Beacon)
    return not silent and getattr(policy, "prior", True)
