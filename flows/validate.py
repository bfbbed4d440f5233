"""Validate: hold the challenger's priors and decisions against questions it has not seen."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.logging import get_run_logger
from scipy.special import logsumexp
from scipy.stats import spearmanr

from data.folds import Fold
from data.pool import Pool
from data.scores import ScoreTable, load_scores
from flows import report
from flows.comparison import Row
from flows.config import Config, GateSettings
from flows.evaluate import assess, choose_family
from flows.model_card import model_card
from flows.prior_value import KNOWN, POPULATION, PREDICTOR, PriorValue, prior_value
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
from flows.unread import leave_out_read
from flows.unread import told as told_left_out
from models import backbone
from predictor.certificate import Certificate
from predictor.contract import require_same_contract
from predictor.errors import ContractError, GateError
from predictor.network.predictor import Predictor
from predictor.prior import Beliefs, Prior, log_evidence
from predictor.question import Question
from predictor.reward_quality import selection_accuracy, within_question_auc


class Validated(NamedTuple):
    """The verdict on a challenger."""

    version: str
    metrics: dict[str, float]
    policies: list[Row]
    certificate: Certificate


def prior_metrics(table: ScoreTable, beliefs: Beliefs, population: Prior) -> dict[str, float]:
    """How well the priors foretell the scores of ``table``, against the population's prior."""
    mean, std = np.nanmean(table.scores, axis=1), np.nanstd(table.scores, axis=1, ddof=1)
    told_mean, told_std = beliefs.moments
    flat = population.moments()
    likelihood = beliefs.family.log_likelihood(table.scores)
    told = logsumexp(beliefs.table[beliefs.index] + likelihood, axis=1)
    gain = told - log_evidence([population] * len(table), likelihood)
    counted = np.isfinite(mean) & np.isfinite(std)
    return {
        "mean_skill": _skill(mean[counted], told_mean[counted], flat[0]),
        "std_skill": _skill(std[counted], told_std[counted], flat[1]),
        "mean_rank_correlation": float(spearmanr(mean[counted], told_mean[counted]).statistic),
        "std_rank_correlation": float(spearmanr(std[counted], told_std[counted]).statistic),
        "evidence_gain": float(gain.sum() / (~np.isnan(table.scores)).sum()),
    }


def prior_intervals(
    table: ScoreTable, beliefs: Beliefs, population: Prior, resamples: int = 500
) -> dict[str, tuple[float, float, float]]:
    """`prior_metrics` with 95 % intervals, questions resampled."""
    whole = prior_metrics(table, beliefs, population)
    rng, found = np.random.default_rng(0), []
    mean, std = np.nanmean(table.scores, axis=1), np.nanstd(table.scores, axis=1, ddof=1)
    told, flat = beliefs.moments, population.moments()
    for _ in range(resamples):
        rows = rng.integers(0, len(table), len(table))
        values = []
        for seen, said, constant in ((mean, told[0], flat[0]), (std, told[1], flat[1])):
            kept = rows[np.isfinite(seen[rows])]
            values.append(_skill(seen[kept], said[kept], constant))
            values.append(float(spearmanr(seen[kept], said[kept]).statistic))
        found.append(values)
    low, high = np.nanquantile(found, [0.025, 0.975], axis=0)
    names = ("mean_skill", "mean_rank_correlation", "std_skill", "std_rank_correlation")
    return {n: (whole[n], float(low[k]), float(high[k])) for k, n in enumerate(names)}


def worth(
    config: Config,
    table: ScoreTable,
    unseen: tuple[Fold, ...],
    believe: Callable[[ScoreTable], Beliefs],
    population: Prior,
    tokens_read: Callable[[Question], int],
) -> PriorValue:
    """The predictor's value in decisions on the test fold; policies are found on the folds ``unseen``."""
    beliefs = {
        POPULATION: Beliefs.of([population] * len(table)),
        PREDICTOR: believe(table),
        KNOWN: Beliefs.hindsight(population, table.scores),
    }
    laws = beliefs[POPULATION].family.own_laws(table.scores)
    beliefs = {name: belief.without(laws) for name, belief in beliefs.items()}
    split = (np.flatnonzero(np.isin(table.folds, unseen)), np.flatnonzero(table.folds == "test"))
    reading = float(np.mean([tokens_read(question) for question in table.fold("test").questions]))
    return prior_value(config, table, beliefs, [split], reading)


def _skill(observed: np.ndarray, told: np.ndarray, constant: float) -> float:
    """1 - MSE / MSE of a constant."""
    return float(1 - np.mean((observed - told) ** 2) / np.mean((observed - constant) ** 2))


def thresholds(gate: GateSettings, losses: int) -> dict[str, float]:
    """What each metric must reach; the least p-value of several losses is held against its share."""
    floors = {n: getattr(gate, n) for n in ("mean_skill", "std_skill", "evidence_gain")}
    return floors | {"refutation_p_value": gate.level(losses)}


@flow(name="validate")
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
        predictor = Predictor.load(
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
        _, families = choose_family(config, train, tune)
        told = dict(zip([q.id for q in table.questions], predictor.predict(table.questions), strict=True))
        believe = lambda fold: Beliefs.of([told[q.id] for q in fold.questions])  # noqa: E731
        found = assess(
            config,
            contract,
            table,
            believe,
            predictor.card.population,
            families,
            tokens_read=predictor.tokens_read,
        )._replace(left_out=left_out, told_by=f"predictor version {version}")
        test = found.test
        metrics = prior_metrics(test, found.beliefs, found.population)
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
        whole = table.full(config.policy.cap)
        value = worth(config, whole, unseen, believe, found.population, predictor.tokens_read)
        if value.gap_closed is not None:
            metrics["prior_gap_closed"] = value.gap_closed[0]
        (page / "prior-value.json").write_text(value.model_dump_json(indent=1))
        intervals = prior_intervals(test, found.beliefs, found.population)
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
        check_gate(metrics, thresholds(config.gate, len(found.refuted)))
    except GateError:
        tracking.untag(version, VALIDATED, VALIDATION_RUN, CHAMPION_THEN)
        raise
    # "validated" last: where it stands, all else that a bundle reads is there too.
    verdict = {CHAMPION_THEN: champion or "", VALIDATION_RUN: run_id, VALIDATED: pool.manifest.digest}
    tracking.tag(version, **verdict)
    return Validated(version, metrics, found.rows, found.certificate)
