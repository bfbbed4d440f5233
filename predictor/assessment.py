"""Choose a policy, certify it, and compare it with others on test questions. Plain functions."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from data.errors import ConfigError, OptScaleError, PoolError
from data.question import Question
from data.scores import ScoreTable
from predictor.assumptions import Finding, check
from predictor.baseline_comparison import Row, TargetRow, averaged, by_target, compare, currency
from predictor.certificate import Certificate, certify, drop_dominated, price_sequences, refuted
from predictor.correctness import Correctness, ReliabilityBin, reliability, training_rows
from predictor.decision import Policy
from predictor.empirical import fit_empirical
from predictor.families import EMPIRICAL, FAMILIES, get_family
from predictor.family_check import FamilyFit, choose, compare_families
from predictor.planning import ReferenceQuestions, realised_share
from predictor.policies import AnyPolicy, FixedN
from predictor.prior import Prior
from predictor.prior_quality import prior_metrics
from predictor.prior_value import PriorValue
from predictor.replay import Outcome, outcome, pick, replay
from predictor.reward_quality import selection_accuracy, within_question_auc
from predictor.scored_questions import ScoredQuestions
from predictor.settings import CertifySettings, Terms

PLANNED = 60
LEAST_TRAIN, LEAST_TUNE = 8, 4


class Assessment(NamedTuple):
    """Content of the report; on test questions unless it says otherwise."""

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
    reliability: list[ReliabilityBin]
    """Of ``correctness``: chances predicted for the shipped policy's answers, and shares that were right."""
    planned: dict[str, float]
    """Share of sets of `PLANNED` test questions whose cost lay in the 95 % range planned for them."""
    targets: list[TargetRow]
    """On train and tune: cost and gain of stopping at each of several targets."""
    left_out: Mapping[str, int] = {}
    """Calibration and test questions that the predictor had read, and that are in nothing here."""
    priors_from: str = "the population's prior alone, without a predictor"
    """Where the priors are from."""


def choose_family(
    named: str, target: float, train: ScoreTable, tune: ScoreTable
) -> tuple[str, list[FamilyFit]]:
    """The score family that predicts tune questions best, unless one is named; ``auto`` names none.

    Raises
    ------
    PoolError
        If there are too few questions to fit on, or to choose by.
    """
    if len(train) < LEAST_TRAIN or len(tune) < LEAST_TUNE:
        raise PoolError(
            f"the pool has {len(train)} train and {len(tune)} tune questions; at least {LEAST_TRAIN} and "
            f"{LEAST_TUNE} are needed: collect or import more questions"
        )
    names = list(FAMILIES) if named == "auto" else [named]
    if named in ("auto", EMPIRICAL):
        names = [*(n for n in names if n != EMPIRICAL), fit_empirical(train.scores).name]
    fits = compare_families(train.scores, tune.scores, target, names)
    return choose(fits), fits


def assess(
    policy: AnyPolicy,
    settings: CertifySettings,
    questions: ScoredQuestions,
    population: Prior,
    families: list[FamilyFit],
    *,
    contract: str,
    extra_policies: Mapping[str, Policy] | None = None,
    tokens_read: Callable[[Question], int] = lambda question: 0,
) -> Assessment:
    """Certify on calibration, then compare on test, whatever the priors are.

    Parameters
    ----------
    policy : it gives target and cap, and is shipped where none is certified.
    questions : the pool, without what may not be looked at; questions with fewer candidates than the cap take
        part in the findings only.
    contract : fingerprint of the scores' contract.
    extra_policies : policies to show beside.
    tokens_read : tokens that a prior of a question costs.

    Raises
    ------
    ConfigError
        If the tune, calibration or test fold has no question.
    """
    full, terms = questions.full(policy.cap), Terms.of(policy, settings)
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
    rows, outcomes = compare(terms, test, tune, policy, population, reading, extra_policies)
    shown = test.candidates(terms.cap)
    once = outcome(policy, shown, test.priors, terms.target)
    correctness, bins = check_correctness(policy, terms.cap, full.fold("train", "tune"), test)
    reference = to_reference(train.table, population)
    prompts, table = test.table.prompt_tokens, questions.table
    return Assessment(
        train=train.table,
        test=test,
        population=population,
        certificate=certificate,
        policy=policy,
        rows=rows,
        outcomes=outcomes,
        refuted={str(name): value for name, value in refuted(certificate, once).items()},
        findings=check(table.scores, table.status, table.texts, table.tokens, table.parts, terms.target),
        families=families,
        correctness=correctness,
        reliability=bins,
        planned=realised_share(policy, test.priors, shown, prompts, reference, size=PLANNED),
        targets=by_target(terms.cap, terms.orders, full.fold("train", "tune").table),
    )


def measure(assessment: Assessment, value: PriorValue) -> dict[str, float]:
    """Metrics of the priors, of the shipped policy and of the reward model on test questions."""
    test, shipped = assessment.test.table, assessment.rows[0]
    metrics = prior_metrics(assessment.test, assessment.population) | {
        "lost_hits": shipped.means.lost_hit.mean,
        "of_full_cap": shipped.of_full_cap,
        "refutation_p_value": min(assessment.refuted.values()),
    }
    auc, both = within_question_auc(test.scores, test.correct)
    metrics |= {"reward_auc_within": auc} if both else {}
    metrics |= {} if value.gap_closed is None else {"prior_gap_closed": value.gap_closed.mean}
    return metrics | selection_accuracy(test.scores, test.correct)


def to_reference(train: ScoreTable, population: Prior) -> ReferenceQuestions:
    """All candidates of the pool's train questions, as planning draws on them."""
    laws = get_family(population.family).own_laws(train.scores)
    return ReferenceQuestions(train.candidates(int(train.drawn.min())), train.prompt_tokens, population, laws)


def check_correctness(
    policy: AnyPolicy, cap: int, fitted_on: ScoredQuestions, test: ScoredQuestions
) -> tuple[Correctness | None, list[ReliabilityBin]]:
    """P(correct | selected maximum, n, prior), fitted and then compared with the answers on test."""
    rows = training_rows(fitted_on.candidates(cap), fitted_on.priors.moments[0])
    try:
        model = Correctness.fit(*rows)
    except OptScaleError:  # no answer is known, or all are right: nothing to learn, and the report says so
        return None, []
    shown = test.candidates(cap)
    run = replay(policy, shown.scores, test.priors, shown.tokens, answers=shown.answers)
    predicted = model.predict(run.best, run.drawn, test.priors.moments[0])
    return model, reliability(predicted, pick(shown.correct, run.chosen))


def certify_policy(
    policy: AnyPolicy,
    settings: CertifySettings,
    tune: ScoredQuestions,
    calibration: ScoredQuestions,
    contract: str,
) -> Certificate:
    """Order policies on tune, test them on calibration."""
    terms = Terms.of(policy, settings)
    target, cap, price = terms.target, terms.cap, currency(terms, tune.table)
    first, sequences = policy, list[list[AnyPolicy]]()
    if settings.choose:
        first = FixedN(target=target, cap=cap)
        tokens = float(tune.candidates(cap).tokens.mean())
        for rising in price_sequences(target, cap, tokens, terms.round_candidates, terms.answers):
            results = averaged(terms, dict(enumerate(rising)), *tune)
            sequences.append(drop_dominated(rising, [price(result) for result in results.values()]))
    return certify(
        first,
        sequences,
        calibration.candidates(cap),
        calibration.priors,
        price=price,
        target=target,
        cap=cap,
        epsilon=settings.epsilon,
        delta=settings.delta,
        contract=contract,
        question_ids=[q.id for q in calibration.table.questions],
        groups=calibration.table.groups,
    )
