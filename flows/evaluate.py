"""Which policy to ship, what is promised of it, and how it does beside the others. Plain functions."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from data.scores import ScoreTable
from flows.comparison import Row, averaged, by_target, compare, currency
from flows.config import Config
from predictor.assumptions import Finding, check
from predictor.certificate import Certificate, certify, ladders, refuted, thin
from predictor.correctness import Correctness, reliability, training_rows
from predictor.decision import Policy
from predictor.empirical import fit_empirical
from predictor.errors import ConfigError, OptScaleError
from predictor.families import EMPIRICAL, FAMILIES, get_family
from predictor.family_check import FamilyFit, choose, compare_families
from predictor.planning import Donors, realised_share
from predictor.policies import AnyPolicy, FixedN
from predictor.prior import Beliefs, Prior
from predictor.question import Question
from predictor.replay import Outcome, outcome, pick, replay

PLANNED = 60


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
    """Of all questions of the table that was assessed."""
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
    left_out: Mapping[str, int] = {}
    """Calibration and test questions that the predictor had read, and that are in nothing here."""
    told_by: str = "the population's prior alone, without a predictor"
    """Where the priors are from."""


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

    ``table`` is the pool, without what may not be looked at; questions with fewer candidates than the cap
    take no part but in the findings. ``believe`` gives the priors of a fold's questions, ``more`` are
    policies to show beside, ``tokens_read`` tells what a prior costs.

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


def to_donors(train: ScoreTable, population: Prior) -> Donors:
    """All candidates of the pool's train questions, as planning draws on them."""
    laws = get_family(population.family).own_laws(train.scores)
    return Donors(train.candidates(int(train.drawn.min())), train.prompt_tokens, population, laws)


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
    tokens, price = float(tune.candidates(policy.cap).tokens.mean()), currency(config, tune)
    first, sequences = policy, list[list[AnyPolicy]]()
    if settings.choose:
        first = FixedN(target=policy.target, cap=policy.cap)
        above = settings.epsilon.keys() != {"lost_hit"}
        for rising in ladders(policy.target, policy.cap, tokens, settings.round_candidates, above):
            found = averaged(config, dict(enumerate(rising)), tune, beliefs[0])
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
