"""Which policy to ship, what is promised of it, and how it does beside the others. Plain functions."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from data.errors import ConfigError, OptScaleError
from data.question import Question
from data.scores import ScoreTable
from predictor.assumptions import Finding, check
from predictor.baseline_comparison import Row, averaged, by_target, compare, currency
from predictor.certificate import Certificate, certify, drop_dominated, price_sequences, refuted
from predictor.correctness import Correctness, reliability, training_rows
from predictor.decision import Policy
from predictor.empirical import fit_empirical
from predictor.families import EMPIRICAL, FAMILIES, get_family
from predictor.family_check import FamilyFit, choose, compare_families
from predictor.planning import ReferenceQuestions, realised_share
from predictor.policies import AnyPolicy, FixedN
from predictor.prior import Prior
from predictor.replay import Outcome, outcome, pick, replay
from predictor.scored_questions import ScoredQuestions
from predictor.settings import CertifySettings, Terms

PLANNED = 60


class Assessment(NamedTuple):
    """All that the report tells; on test questions unless it says otherwise."""

    train: ScoreTable
    test: ScoredQuestions
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
    priors_from: str = "the population's prior alone, without a predictor"
    """Where the priors are from."""


def choose_family(
    named: str, target: float, train: ScoreTable, tune: ScoreTable
) -> tuple[str, list[FamilyFit]]:
    """The score family that foretells tune questions best, unless one is named; ``auto`` names none."""
    names = list(FAMILIES) if named == "auto" else [named]
    if named in ("auto", EMPIRICAL):
        names = [*(n for n in names if n != EMPIRICAL), fit_empirical(train.scores).name]
    fits = compare_families(train.scores, tune.scores, target, names)
    return choose(fits), fits


def assess(
    policy: AnyPolicy,
    settings: CertifySettings,
    asked: ScoredQuestions,
    population: Prior,
    families: list[FamilyFit],
    *,
    contract: str,
    more: Mapping[str, Policy] | None = None,
    tokens_read: Callable[[Question], int] = lambda question: 0,
) -> Assessment:
    """Certify on calibration, then look at test: whatever the priors are, the same examination.

    Parameters
    ----------
    policy : it gives target and cap, and is shipped where none is certified.
    asked : the pool, without what may not be looked at; questions with fewer candidates than the cap take no
        part but in the findings.
    contract : fingerprint of the scores' contract.
    more : policies to show beside.
    tokens_read : what a prior costs.

    Raises
    ------
    ConfigError
        If the tune, calibration or test fold has no question.
    """
    full, terms = asked.full(policy.cap), Terms.of(policy, settings)
    train, tune, calibration, test = (full.fold(n) for n in ("train", "tune", "calibration", "test"))
    for name, fold in (("tune", tune), ("calibration", calibration), ("test", test)):
        if not len(fold.table):
            raise ConfigError(
                f"the {name} fold is empty: a certificate needs questions of its own; collect more of them "
                "or raise the fold's share"
            )
    certificate = certify_policy(policy, settings, tune, calibration, contract)
    policy = certificate.policy or policy
    reading = float(np.mean([tokens_read(question) for question in test.table.questions]))
    rows, found = compare(terms, test, tune, policy, population, reading, more)
    seen = outcome(policy, test.candidates(certificate.cap), test.priors, certificate.target)
    correctness, reliability = check_correctness(policy, terms.cap, train, tune, test)
    planned = realised_share(
        policy,
        test.priors,
        test.candidates(policy.cap),
        test.table.prompt_tokens,
        to_reference(train.table, population),
        size=PLANNED,
    )
    table = asked.table
    return Assessment(
        train=train.table,
        test=test,
        population=population,
        certificate=certificate,
        policy=policy,
        rows=rows,
        outcomes=found,
        refuted={str(name): value for name, value in refuted(certificate, seen).items()},
        findings=check(table.scores, table.status, table.texts, table.tokens, table.parts, terms.target),
        families=families,
        correctness=correctness,
        reliability=reliability,
        planned=planned,
        targets=by_target(terms.cap, terms.orders, full.fold("train", "tune").table),
    )


def to_reference(train: ScoreTable, population: Prior) -> ReferenceQuestions:
    """All candidates of the pool's train questions, as planning draws on them."""
    laws = get_family(population.family).own_laws(train.scores)
    return ReferenceQuestions(train.candidates(int(train.drawn.min())), train.prompt_tokens, population, laws)


def check_correctness(
    policy: AnyPolicy, cap: int, train: ScoredQuestions, tune: ScoredQuestions, test: ScoredQuestions
) -> tuple[Correctness | None, list[Row]]:
    """P(correct | selected maximum, n, prior), fitted on train and tune, held against test."""
    try:
        parts = [training_rows(fold.candidates(cap), fold.priors.moments[0]) for fold in (train, tune)]
        best, drawn, means_, right = (np.concatenate(column) for column in zip(*parts, strict=True))
        fitted = Correctness.fit(best, drawn, means_, right)
    except OptScaleError:  # no answer is known, or all are right: nothing to learn, and the report says so
        return None, []
    shown = test.candidates(cap)
    course = replay(policy, shown.scores, test.priors, shown.tokens)
    told = fitted.predict(course.best, course.drawn, test.priors.moments[0])
    return fitted, reliability(told, pick(shown.correct, course.chosen))


def certify_policy(
    policy: AnyPolicy,
    settings: CertifySettings,
    tune: ScoredQuestions,
    calibration: ScoredQuestions,
    contract: str,
) -> Certificate:
    """Order policies on tune, test them on calibration."""
    terms = Terms.of(policy, settings)
    tokens, price = float(tune.candidates(policy.cap).tokens.mean()), currency(terms, tune.table)
    first, sequences = policy, list[list[AnyPolicy]]()
    if settings.choose:
        first = FixedN(target=policy.target, cap=policy.cap)
        for rising in price_sequences(
            policy.target, policy.cap, tokens, settings.round_candidates, terms.answers
        ):
            found = averaged(terms, dict(enumerate(rising)), *tune)
            sequences.append(drop_dominated(rising, [price(o) for o in found.values()]))
    return certify(
        first,
        sequences,
        calibration.candidates(policy.cap),
        calibration.priors,
        price=price,
        target=policy.target,
        cap=policy.cap,
        epsilon=settings.epsilon,
        delta=settings.delta,
        contract=contract,
        question_ids=[q.id for q in calibration.table.questions],
        groups=calibration.table.groups,
    )
