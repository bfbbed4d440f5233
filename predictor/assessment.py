"""Design policies on train and tune, certify on calibration, compare on test: what a report shows."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from data.errors import ConfigError, OptScaleError, PoolError
from data.question import Question
from data.scores import ScoreTable
from data.shapes import Shapes
from predictor.assumptions import Finding, check
from predictor.certificate import Certificate, certify, refuted
from predictor.comparison import Row, compare
from predictor.contenders import of_policy
from predictor.correctness import Correctness, ReliabilityBin, reliability, training_rows
from predictor.design import REFERENCE, Design, design, selections
from predictor.empirical import fit_empirical
from predictor.families import EMPIRICAL, FAMILIES, get_family
from predictor.family_check import FamilyFit, choose, compare_families
from predictor.goal import Goal
from predictor.measured import Measured, run
from predictor.planning import ReferenceQuestions
from predictor.policies import AnyPolicy, FixedN, Predictive
from predictor.prior import Prior
from predictor.prior_quality import prior_metrics
from predictor.prior_value import PriorValue
from predictor.replay import pick, replay
from predictor.reward_quality import selection_accuracy, within_question_auc
from predictor.scored_questions import ScoredQuestions
from predictor.settings import CertifySettings, Prices
from predictor.stopping import load_rule
from predictor.value_rule import Orders

LEAST_TRAIN, LEAST_TUNE = 8, 4
CONFIDENCE = 0.95
SHIPPED = "shipped policy"
VOTE_OF = " vote of "
"""What is in the names of rows of plain votes that take as many tokens as the shipped policy."""


class Assessment(NamedTuple):
    """Content of the report; on test questions unless it says otherwise."""

    train: ScoreTable
    test: ScoredQuestions
    population: Prior | None
    """None where the pool has no scores."""
    design: Design
    certificate: Certificate
    policy: AnyPolicy
    """The certified policy; the reference where none is."""
    rows: list[Row]
    """Of the reference's selection, then of the shipped policy's, and those asked for."""
    shipped: Measured
    """The policy on test questions, in the goal's loss."""
    refuted: dict[str, float]
    """For each certified loss, the chance of so many on test questions if the promise held."""
    findings: list[Finding]
    """Of all questions of the table that was assessed."""
    families: list[FamilyFit]
    """Fitted on train, compared on tune."""
    correctness: Correctness | None
    """Fitted on train and tune; None where no answers or scores are known."""
    reliability: list[ReliabilityBin]
    """Of ``correctness``: chances predicted for the shipped policy's answers, and shares that were right."""
    reading: float = 0.0
    """Tokens a question that the predictor reads for the shipped policy."""
    left_out: Mapping[str, int] = {}
    """Calibration and test questions that the predictor had read, and that are in nothing here."""
    target: float = 1.0
    """Score that reports speak of as a hit."""
    certified_on: tuple[str, ...] = ()
    """Ids of the calibration questions that the certificate rests on."""
    priors_from: str = "the population's prior alone, without a predictor"
    """Where the priors are from."""

    def row(self, policy: str, setting: str | None = None) -> Row:
        """The first row of a policy: with the reference's selection, where that is shown."""
        return next(r for r in self.rows if r.policy == policy and setting in (None, r.setting))


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
    goal: Goal,
    settings: CertifySettings,
    questions: ScoredQuestions,
    population: Prior | None,
    families: list[FamilyFit],
    *,
    contract: str,
    shown_too: Mapping[str, AnyPolicy] | None = None,
    tokens_read: Callable[[Question], int] = lambda question: 0,
    one_a_group: bool = False,
    prices: Prices = Prices(),  # noqa: B008 - it is frozen
    used: Mapping[str, int] | None = None,
) -> Assessment:
    """Design on train and tune, certify on calibration, then compare on test, whatever the priors are.

    Parameters
    ----------
    policy : its cap is the most that is drawn, its target is what scores are told of; all of it is what is
        certified where nothing is chosen.
    questions : the pool, without what may not be looked at; questions with fewer candidates than the cap take
        part in the findings only.
    population : prior of a question of which nothing is known; None where the pool has no scores.
    contract : fingerprint of the scores' contract.
    shown_too : policies to show beside.
    tokens_read : tokens that a prior of a question costs.
    one_a_group : let one question of each group count in the certificate.
    prices : by which the cheapest policy is chosen.
    used : how often each question was certified on before. Where enough were never, only these certify; else
        each time halves the chance of an error that is left for this one.

    Raises
    ------
    ConfigError
        If the tune, calibration or test fold has no question, or nothing can be selected by.
    """
    cap = questions.table.usual_cap(policy.cap)
    target = policy.target
    policy = policy.model_copy(update={"cap": cap, "floor": min(policy.floor, cap)})
    full = questions.full(cap)
    train, seen = full.fold("train"), full.fold("train", "tune")
    calibration, test = full.fold("calibration"), full.fold("test")
    for name in ("tune", "calibration", "test"):
        if not (full.table.folds == name).any():
            raise ConfigError(
                f"the {name} fold is empty: a certificate needs questions of its own; collect more of them "
                "or raise the fold's share"
            )
    reading = float(np.mean([tokens_read(question) for question in seen.table.questions]))
    findings = check(questions.table, policy.target)
    # Not of calibration questions: they may not choose how they are tested.
    order = next(f for f in check(seen.table, policy.target) if f.name == "order")
    shuffled = order.verdict in ("fine", "unknown")
    orders = settings.orders if shuffled else 1
    made = design(policy, goal, settings, seen.candidates(cap), seen.priors, reading, shuffled, prices)
    calibration, times = fresh(calibration, used or {}, made.needed)
    made = made._replace(goal=made.goal.model_copy(update={"delta": made.goal.delta / 2**times}))
    certificate = certify(
        [each.on(calibration.priors) for each in made.sequence],
        Orders(calibration.candidates(cap), load_rule(settings.rule), 0, made.judge, not shuffled),
        made.goal,
        reference=made.reference,
        proposed=made.proposed.policy,
        orders=orders,
        target=made.judge.target if made.goal.hit else policy.target,
        contract=contract,
        question_ids=[q.id for q in calibration.table.questions],
        groups=calibration.table.groups,
        one_a_group=one_a_group,
        needed=made.needed,
        score_map=questions.table.score_map,
    )
    more: dict[str, Any] = {"shapes": Shapes.of(calibration.table.questions)}
    if used is not None:
        more |= {"uses": times + 1, "statement": certificate.statement + again(times)}
    certificate = certificate.model_copy(update=more)
    policy = certificate.to_ship(settings.uncertified)
    asked = Orders(test.candidates(cap), load_rule(settings.rule), 0, made.judge, not shuffled)
    shipped = run(of_policy(SHIPPED, policy, test.priors), asked, np.arange(len(test.table)), orders)
    share = float(shipped.tokens.mean() / test.candidates(cap).tokens.sum(axis=1).mean())
    n = max(round(cap * share), 1)
    votes: dict[str, AnyPolicy] = {
        f"{option.kind.removesuffix('_vote')}{VOTE_OF}{n}": FixedN(target=target, cap=n, selection=option)
        for option in selections(seen.candidates(cap))
        if option.kind != "best_score"
    }
    compared = compare(
        test.candidates(cap),
        load_rule(settings.rule),
        fit=seen.candidates(cap),
        target=made.judge.target if made.goal.hit else None,
        priors=test.priors,
        fit_priors=seen.priors,
        shown_too={SHIPPED: policy, REFERENCE: made.reference, **votes, **(shown_too or {})},
        only=tuple(dict.fromkeys((made.reference.selection, policy.selection))),
        orders=orders,
    )
    correctness, bins = check_correctness(policy, cap, seen, test)
    return Assessment(
        train=train.table,
        test=test,
        population=population,
        design=made,
        certificate=certificate,
        policy=policy,
        rows=compared.rows,
        shipped=shipped,
        refuted={str(name): value for name, value in refuted(certificate, shipped.loss).items()},
        findings=findings,
        families=families,
        correctness=correctness,
        reliability=bins,
        reading=reading if policy.reads_prior else 0.0,
        target=target,
        certified_on=tuple(question.id for question in calibration.table.questions),
    )


def fresh(
    calibration: ScoredQuestions, used: Mapping[str, int], needed: int | None
) -> tuple[ScoredQuestions, int]:
    """Those that never were certified on, if they are enough; else all, and how often one of them was."""
    times = np.array([used.get(question.id, 0) for question in calibration.table.questions])
    new = times == 0
    if needed is not None and new.sum() >= needed:
        calibration, times = calibration.select(new), times[new]
    return calibration, int(times.max(initial=0))


def again(times: int) -> str:
    """What a statement adds where its questions were certified on before."""
    if not times:
        return ""
    before = "once" if times == 1 else f"{times} times"
    return f" Its questions were certified on {before} before: each time halves the chance of an error."


def metrics(assessment: Assessment, value: PriorValue | None) -> dict[str, float]:
    """Metrics of the priors, of the shipped policy and of the reward model on test questions."""
    test = assessment.test.table
    shipped, full = assessment.row(SHIPPED), assessment.shipped.tokens.mean()
    found = {
        "loss": float(np.nanmean(assessment.shipped.loss)),
        "of_full_cap": float(full / test.candidates(assessment.certificate.cap).tokens.sum(axis=1).mean()),
        "rounds": shipped.rounds,
        "refutation_p_value": min(assessment.refuted.values(), default=1.0),
    }
    if assessment.population is None:
        return found
    found = prior_metrics(assessment.test, assessment.population) | found | bound_coverage(assessment)
    auc, both = within_question_auc(test.scores, test.correct)
    found |= {"reward_auc_within": auc} if both else {}
    found |= {} if value is None or value.gap_closed is None else {"prior_gap_closed": value.gap_closed.mean}
    return found | selection_accuracy(test.scores, test.correct)


def bound_coverage(assessment: Assessment) -> dict[str, float]:
    """The paper's N*: how often it calls the target feasible within the cap, and is right where it does.

    N* is the fewest samples whose best reaches the target with a chance of `CONFIDENCE`, by the prior.
    """
    candidates = assessment.test.candidates(assessment.certificate.cap)
    bound = Predictive(target=assessment.target, cap=assessment.certificate.cap, confidence=CONFIDENCE)
    ran = replay(bound, candidates.scores, assessment.test.priors, candidates.tokens)
    found = {"bound_feasible": float(ran.feasible.mean()), "bound_samples": float(ran.required.mean())}
    return found | ({"bound_coverage": float(ran.hit[ran.feasible].mean())} if ran.feasible.any() else {})


def to_reference(train: ScoreTable, population: Prior) -> ReferenceQuestions:
    """All candidates of the pool's train questions, as planning draws on them."""
    laws = get_family(population.family).own_laws(train.scores)
    return ReferenceQuestions(train.candidates(int(train.drawn.min())), train.prompt_tokens, population, laws)


def check_correctness(
    policy: AnyPolicy, cap: int, fitted_on: ScoredQuestions, test: ScoredQuestions
) -> tuple[Correctness | None, list[ReliabilityBin]]:
    """P(correct | selected maximum, n, prior), fitted and then compared with the answers on test."""
    if fitted_on.priors is None or test.priors is None:
        return None, []
    rows = training_rows(fitted_on.candidates(cap), fitted_on.priors.moments[0])
    try:
        model = Correctness.fit(*rows)
    except OptScaleError:  # no answer is known, or all are right: nothing to learn, and the report says so
        return None, []
    shown = test.candidates(cap)
    ran = replay(policy, shown.scores, test.priors, shown.tokens, answers=shown.answers)
    predicted = model.predict(ran.best, ran.drawn, test.priors.moments[0])
    return model, reliability(predicted, pick(shown.correct, ran.chosen))
