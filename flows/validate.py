"""Validate: test the challenger's priors and decisions on questions it has not seen."""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.logging import get_run_logger

from data.errors import GateError
from data.folds import Fold
from data.pool import Pool
from flows import report, spent
from flows.champion import current
from flows.config import Config
from flows.examine import PriorSource, assess_priors, load_table, predictor_priors
from flows.model_card import model_card
from flows.paired import pair
from flows.tracking import (
    CHALLENGER,
    CHAMPION_THEN,
    VALIDATED,
    VALIDATION_RUN,
    Tracking,
    check_gate,
    temporary_folder,
)
from flows.train import STATES
from models import backbone
from predictor.assessment import Assessment, metrics
from predictor.certificate import Certificate
from predictor.comparison import Row
from predictor.contenders import FIXED
from predictor.learned.card import PredictorCard
from predictor.learned.store import load_predictor
from predictor.learned.unread import describe_left_out
from predictor.prior_quality import prior_intervals
from predictor.prior_value import PriorValue, measure_prior_value
from predictor.usual import UsualStatistics, usual


class Validated(NamedTuple):
    """The verdict on a challenger."""

    version: str
    metrics: dict[str, float]
    policies: list[Row]
    certificate: Certificate


@flow(name="validate", flow_run_name="validate")
def validate(config: Config, output: Path | None = None, version: str | None = None) -> Validated:
    """Certify on calibration, report on test; raises GateError where the version misses a threshold.

    ``version`` is the challenger where none is given. The report is written and logged before the gate is
    asked, so a refused version can be read. The verdict is written when it is known: until then, that of an
    earlier validation stands.
    """
    tracking, target = Tracking(config), output or config.home.resolve() / "report"
    version, champion = version or tracking.version_of(CHALLENGER), current(config)
    pool, table = load_table(config)
    contract = pool.manifest.contract.fingerprint
    computed = backbone.arithmetic(config.predictor.dtype)
    run = tracking.run("validate", table, pool.manifest.digest, computed_in=computed)
    with temporary_folder(config) as folder, run as run_id:
        files = tracking.download(version, Path(folder))
        predictor = load_predictor(files, cache=config.home.resolve() / STATES)
        priors = predictor_priors(predictor, table, contract, f"predictor version {version}")
        test = spent.name_of(config, version, pool.manifest.digest)
        used = spent.times_used(config, test)
        assessment = assess_priors(config, contract, priors, used=used)
        spent.keep(config, test, assessment.certified_on)
        made = assessment.certificate.model_copy(update={"made": datetime.now(UTC)})
        assessment = assessment._replace(certificate=made)
        value = value_of(config, predictor.card, priors)
        paired = pair(config, priors, assessment)
        measured = metrics(assessment, value) | paired.metrics
        page = write_page(Path(folder), config, pool, predictor.card, priors, assessment, value, measured)
        tracking.metrics(measured)
        tracking.table(plain_rows(assessment), "policies.json")
        for file in sorted(page.iterdir()):
            tracking.file(file)
        shutil.copytree(page, target, dirs_exist_ok=True)
    announce(assessment, value, target)
    get_run_logger().info("%s", paired.says)
    new = sum(question not in used for question in assessment.certified_on)
    get_run_logger().info(
        "of %d calibration questions %d were never certified on", len(assessment.certified_on), new
    )
    try:
        check_gate(measured, config.gate.thresholds(len(assessment.refuted)))
    except GateError:
        tracking.untag(version, VALIDATED, VALIDATION_RUN, CHAMPION_THEN)
        raise
    # "validated" last: where it stands, all else that a bundle reads is there too.
    verdict = {CHAMPION_THEN: champion or "", VALIDATION_RUN: run_id, VALIDATED: pool.manifest.digest}
    tracking.tag(version, **verdict)
    return Validated(version, measured, assessment.rows, assessment.certificate)


def value_of(config: Config, card: PredictorCard, priors: PriorSource) -> PriorValue:
    """The priors' value in decisions on the test fold."""
    # A network has learnt its train questions by heart; the other kinds leave out the one that is asked.
    unseen: tuple[Fold, ...] = ("tune",) if card.kind == "lora" else ("train", "tune")
    target, cap = config.policy.target, priors.questions.table.usual_cap(config.policy.cap)
    questions, population = priors.questions.full(cap), priors.require_population()
    chosen, held = np.isin(questions.table.folds, unseen), questions.table.folds == "test"
    return measure_prior_value(target, cap, questions, population, chosen, held, priors.tokens_read)


def write_page(
    folder: Path,
    config: Config,
    pool: Pool,
    card: PredictorCard,
    priors: PriorSource,
    assessment: Assessment,
    value: PriorValue,
    metrics: dict[str, float],
) -> Path:
    """The report, and beside it the files that a bundle and a reader take."""
    page = folder / "report"
    page.mkdir()
    for name, record in (
        ("certificate", assessment.certificate),
        ("correctness", assessment.correctness),
        ("prior-value", value),
        ("usual", UsualStatistics(usual(priors.questions, assessment.policy, assessment.certificate))),
    ):
        (page / f"{name}.json").write_text("null" if record is None else record.model_dump_json(indent=1))
    intervals = prior_intervals(assessment.test, priors.require_population())
    text = model_card(config, card, pool.manifest, priors.questions.table, intervals, value.statement)
    (page / "model-card.md").write_text(text)
    report.write(page, config, pool, assessment, metrics, value.statement)
    return page


def announce(assessment: Assessment, value: PriorValue, target: Path) -> None:
    """Show the result in Prefect."""
    logger = get_run_logger()
    create_table_artifact(
        table=plain_rows(assessment), key="policies", description="policies on the test fold"
    )
    create_markdown_artifact(assessment.certificate.statement, key="certificate")
    if assessment.left_out:
        logger.warning("%s", describe_left_out(assessment.left_out))
    for line in (assessment.certificate.statement, value.statement, f"report: {target / 'report.html'}"):
        logger.info("%s", line)


def plain_rows(assessment: Assessment) -> list[dict[str, Any]]:
    """The rows of the report's table as plain values."""
    rows = [row for row in assessment.rows if row.chosen or row.policy == FIXED or not row.setting]
    return [row.model_dump(exclude={"gain"}) | {"saved": row.gain and row.gain.tokens} for row in rows]
