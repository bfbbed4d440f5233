"""Validate: hold the challenger's priors and decisions against questions it has not seen."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.logging import get_run_logger
from scipy.stats import binomtest, spearmanr

from data.pool import Pool
from data.scores import ScoreTable, load_scores
from flows import report
from flows.config import Config
from flows.tracking import CHALLENGER, Tracking, check_gate, scratch
from predictor.contract import require_same_contract
from predictor.decision import Policy
from predictor.errors import ContractError, PoolError
from predictor.families import get_family
from predictor.network.predictor import Predictor
from predictor.policies import FixedN, OptScale
from predictor.prior import Prior, log_evidence
from predictor.replay import pick, replay, spent
from predictor.reward_quality import selection_accuracy, within_question_auc

Row = dict[str, Any]


class Validated(NamedTuple):
    """The verdict on a challenger."""

    version: str
    metrics: dict[str, float]
    policies: list[Row]


def prior_metrics(table: ScoreTable, priors: list[Prior], population: Prior) -> dict[str, float]:
    """How well the priors foretell the scores of ``table``, against the population's prior."""
    mean, std = np.nanmean(table.scores, axis=1), np.nanstd(table.scores, axis=1, ddof=1)
    told = np.array([p.moments() for p in priors])
    flat = np.array(population.moments())
    likelihood = get_family(population.family).log_likelihood(table.scores)
    gain = log_evidence(priors, likelihood) - log_evidence([population] * len(table), likelihood)
    counted = np.isfinite(mean) & np.isfinite(std)
    return {
        "mean_skill": _skill(mean[counted], told[counted, 0], flat[0]),
        "std_skill": _skill(std[counted], told[counted, 1], flat[1]),
        "mean_rank_correlation": float(spearmanr(mean[counted], told[counted, 0]).statistic),
        "std_rank_correlation": float(spearmanr(std[counted], told[counted, 1]).statistic),
        "evidence_gain": float(gain.sum() / (~np.isnan(table.scores)).sum()),
    }


def _skill(observed: np.ndarray, told: np.ndarray, constant: float) -> float:
    """1 - MSE / MSE of a constant."""
    return float(1 - np.mean((observed - told) ** 2) / np.mean((observed - constant) ** 2))


def policies_to_compare(policy: Policy) -> dict[str, Policy]:
    """The policy, the paper's variants at its target, and fixed N up to its cap."""
    compared: dict[str, Policy] = {"shipped policy": policy}
    if isinstance(policy, OptScale):
        for name, prior, one_shot in (
            ("OptScale-0", False, False),
            ("OptScale-t", True, False),
            ("OptScale-0 one-shot", False, True),
            ("OptScale-t one-shot", True, True),
        ):
            changes = {"prior": prior, "one_shot": one_shot, "batch": 1}
            compared[name] = policy.model_copy(update=changes)
    sizes = [n for n in (1, 2, 4, 8, 16, 32, 64, 128) if n < policy.cap] + [policy.cap]
    return compared | {f"fixed N = {n}": FixedN(n=n, target=policy.target) for n in sizes}


def policy_row(name: str, policy: Policy, table: ScoreTable, priors: list[Prior]) -> Row:
    """What the policy spends, hits and answers on ``table``, and what it had promised."""
    course = replay(policy, table.scores, priors)
    capped = np.nanmax(np.nan_to_num(table.scores), axis=1) >= policy.target
    promised = course.feasible & isinstance(policy, OptScale)
    kept = int((course.hit & promised).sum())
    generated = spent(table.tokens, course.drawn)
    judged = spent(table.reward_tokens, course.drawn)
    return {
        "policy": name,
        "candidates": float(course.drawn.mean()),
        "rounds": float(course.rounds.mean()),
        "generator tokens": float(generated.mean()),
        "reward-model tokens": float(judged.mean()),
        "predictor tokens": float(table.prompt_tokens.mean()) if _reads_prior(policy) else 0.0,
        "hits": float(course.hit.mean()),
        "lost hits": float((capped & ~course.hit).mean()),
        "accuracy": float(np.mean(pick(np.nan_to_num(table.correct), course.chosen))),
        "promised": getattr(policy, "confidence", None) if promised.any() else None,
        "realised": kept / int(promised.sum()) if promised.any() else None,
        "promised on": int(promised.sum()),
        "promise p-value": binomtest(kept, int(promised.sum()), policy.confidence, alternative="less").pvalue
        if promised.any() and isinstance(policy, OptScale)
        else None,
    }


def _reads_prior(policy: Policy) -> bool:
    return isinstance(policy, OptScale) and policy.prior


@flow(name="validate")
def validate(config: Config, output: Path | None = None) -> Validated:
    """Report on the test fold; raises GateError where the challenger misses a threshold.

    The report is written and logged before the gate is asked, so a refused challenger can be read.
    """
    logger = get_run_logger()
    tracking = Tracking(config)
    version = tracking.version_of(CHALLENGER)
    pool = Pool.open(config.pool_location)
    table = load_scores(pool, config.folds)
    test = table.fold("test")
    if len(test) < 4:
        raise PoolError(f"pool {pool.location} has {len(test)} test questions; collect more")
    with scratch() as folder, tracking.run("validate", table, pool.manifest.digest):
        predictor = Predictor.load(tracking.download(version, Path(folder)))
        try:
            require_same_contract(predictor.card.contract, pool.manifest.contract.fingerprint, "validation")
        except ContractError:
            logger.exception("the challenger speaks of other scores")
            raise
        priors = predictor.predict(test.questions)
        metrics = prior_metrics(test, priors, predictor.card.population)
        rows = [
            policy_row(name, policy, test, priors)
            for name, policy in policies_to_compare(config.policy).items()
        ]
        metrics["lost_hits"] = rows[0]["lost hits"]
        metrics["reward_auc_within"], _ = within_question_auc(test.scores, test.correct)
        metrics |= selection_accuracy(test.scores, test.correct)
        page = Path(folder) / "report"
        page.mkdir()
        report.write(page, config, pool, test, priors, metrics, rows, version)
        tracking.metrics(metrics)
        tracking.table(rows, "policies.json")
        for file in sorted(page.iterdir()):
            tracking.file(file)
        target = output or config.home.resolve() / "report"
        shutil.copytree(page, target, dirs_exist_ok=True)
    create_table_artifact(table=rows, key="policies", description="policies on the test fold")
    create_markdown_artifact(
        "\n".join(f"- {name}: {value:.4f}" for name, value in metrics.items()), key="validation"
    )
    logger.info("report: %s", target / "report.md")
    gate = config.gate
    floors = {n: getattr(gate, n) for n in ("mean_skill", "std_skill", "evidence_gain")}
    check_gate(metrics, floors, {"lost_hits": gate.lost_hits})
    tracking.tag(version, validated=pool.manifest.digest)
    return Validated(version, metrics, rows)
