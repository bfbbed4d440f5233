"""Validate: hold the challenger's priors and decisions against questions it has not seen."""

import shutil
from pathlib import Path
from typing import NamedTuple

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.logging import get_run_logger

from data.contract import require_same_contract
from data.errors import ContractError, GateError
from data.folds import Fold
from data.pool import Pool
from data.scores import load_scores
from flows import report
from flows.config import Config
from flows.model_card import model_card
from flows.tracking import (
    CHALLENGER,
    CHAMPION,
    CHAMPION_THEN,
    VALIDATED,
    VALIDATION_RUN,
    Tracking,
    check_gate,
    scratch,
)
from flows.train import STATES
from models import backbone
from predictor.assessment import assess, choose_family
from predictor.baseline_comparison import Row
from predictor.certificate import Certificate
from predictor.learned.store import load_predictor
from predictor.learned.unread import leave_out_read
from predictor.learned.unread import told as told_left_out
from predictor.prior import PriorBatch
from predictor.prior_quality import prior_intervals, prior_metrics
from predictor.prior_value import measure_prior_value
from predictor.reward_quality import selection_accuracy, within_question_auc
from predictor.scored_questions import ScoredQuestions


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
    logger = get_run_logger()
    tracking = Tracking(config)
    version, champion = version or tracking.version_of(CHALLENGER), tracking.find(CHAMPION)
    pool = Pool.open(config.pool_location)
    contract = pool.manifest.contract.fingerprint
    table = load_scores(pool, config.folds)
    computed = backbone.arithmetic(config.predictor.dtype)
    run = tracking.run("validate", table, pool.manifest.digest, computed_in=computed)
    with scratch() as folder, run as run_id:
        predictor = load_predictor(
            tracking.download(version, Path(folder)), cache=config.home.resolve() / STATES
        )
        try:
            require_same_contract(predictor.card.contract, contract, "validation")
        except ContractError:
            logger.exception("the challenger speaks of other scores")
            raise
        table, left_out = leave_out_read(table, predictor.card)
        if left_out:
            logger.warning("%s", told_left_out(left_out))
        train, tune = table.fold("train"), table.fold("tune")
        policy, population = config.policy, predictor.card.population
        _, families = choose_family(config.predictor.family, policy.target, train, tune)
        asked = ScoredQuestions(table, PriorBatch.of(predictor.predict(table.questions)))
        found = assess(
            policy,
            config.certify,
            asked,
            population,
            families,
            contract=contract,
            tokens_read=predictor.tokens_read,
        )._replace(left_out=left_out, priors_from=f"predictor version {version}")
        test = found.test.table
        metrics = prior_metrics(found.test, found.population)
        metrics["lost_hits"] = found.rows[0]["lost hits"]
        metrics["of_full_cap"] = found.rows[0]["of full cap"]
        metrics["refutation_p_value"] = min(found.refuted.values())
        auc, both = within_question_auc(test.scores, test.correct)
        metrics |= {"reward_auc_within": auc} if both else {}
        metrics |= selection_accuracy(test.scores, test.correct)
        page = Path(folder) / "report"
        page.mkdir()
        (page / "certificate.json").write_text(found.certificate.model_dump_json(indent=1))
        fitted = "null" if found.correctness is None else found.correctness.model_dump_json(indent=1)
        (page / "correctness.json").write_text(fitted)
        # A network has learnt its train questions by heart; the other kinds leave out the one that is asked.
        unseen: tuple[Fold, ...] = ("tune",) if predictor.card.kind == "lora" else ("train", "tune")
        whole = asked.full(policy.cap)
        value = measure_prior_value(policy, whole, unseen, population, predictor.tokens_read)
        if value.gap_closed is not None:
            metrics["prior_gap_closed"] = value.gap_closed[0]
        (page / "prior-value.json").write_text(value.model_dump_json(indent=1))
        intervals = prior_intervals(found.test, population)
        card = model_card(config, predictor.card, pool.manifest, table, intervals, value.statement)
        (page / "model-card.md").write_text(card)
        report.write(page, config, pool, found, metrics, value.statement)
        tracking.metrics(metrics)
        tracking.table(found.rows, "policies.json")
        for file in sorted(page.iterdir()):
            tracking.file(file)
        target = output or config.home.resolve() / "report"
        shutil.copytree(page, target, dirs_exist_ok=True)
    create_table_artifact(table=found.rows, key="policies", description="policies on the test fold")
    create_markdown_artifact(found.certificate.statement, key="certificate")
    logger.info("%s", found.certificate.statement)
    logger.info("%s", value.statement)
    logger.info("report: %s", target / "report.html")
    try:
        check_gate(metrics, config.gate.thresholds(len(found.refuted)))
    except GateError:
        tracking.untag(version, VALIDATED, VALIDATION_RUN, CHAMPION_THEN)
        raise
    # "validated" last: where it stands, all else that a bundle reads is there too.
    verdict = {CHAMPION_THEN: champion or "", VALIDATION_RUN: run_id, VALIDATED: pool.manifest.digest}
    tracking.tag(version, **verdict)
    return Validated(version, metrics, found.rows, found.certificate)
