"""``optscale run``: the whole loop on the embedded models, and what came out of it, in one screen."""

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.pool import Pool
from flows.config import ROOT, Config
from flows.verdict import verdict
from predictor.baseline_comparison import Row
from predictor.certificate import Certificate
from predictor.learned.settings import PredictorSettings

if TYPE_CHECKING:  # Prefect is imported when it runs
    from flows.retrain import Retrained

POOL = ROOT / "data" / "pool"
FRESH_QUESTIONS = 12
LORA_STEPS = 16  # of some 60: enough to see it work, and a demonstration should end soon


def run_demo(config: Config) -> None:
    """Seed the state folder with the shipped pool, retrain on it and on some fresh questions, report."""
    from flows.retrain import retrain

    started = time.monotonic()
    home = config.home.resolve()
    fresh = config.collect.model_copy(update={"limit": config.collect.limit or FRESH_QUESTIONS})
    config = config.model_copy(update={"collect": fresh, "predictor": shortened(config.predictor)})
    if config.pool is None and not Pool.exists(config.pool_location):
        seed(home / "pool")
        _say(f"copied the shipped pool to {home / 'pool'}")
    _summary(config, retrain(config), time.monotonic() - started)


def shortened(predictor: PredictorSettings) -> PredictorSettings:
    """With LoRA's steps capped, unless the user has said how many they are."""
    if predictor.lora.max_steps is not None:
        return predictor
    capped = {"max_steps": LORA_STEPS, "evaluate_every": min(predictor.lora.evaluate_every, LORA_STEPS)}
    return predictor.model_copy(update={"lora": predictor.lora.model_copy(update=capped)})


def seed(target: Path) -> None:
    """Copy the shipped pool: its parts, and when all are there the manifest that names them."""
    shutil.copytree(POOL / "parts", target / "parts", dirs_exist_ok=True)
    shutil.copy(POOL / "manifest.json", target / "manifest.json.tmp")
    (target / "manifest.json.tmp").rename(target / "manifest.json")


def table(rows: Sequence[Row]) -> list[str]:
    """The policies as lines of text."""
    columns = {"draws": "draws", "rounds": "rounds", "tokens": "tokens"}
    columns |= {"hit": "hits", "lost_hit": "lost", "correct": "right"}
    lines = [f"{'policy on test questions':37s}" + "".join(f"{name:>8s}" for name in columns.values())]
    for row in rows:
        means = [getattr(row.means, field).mean for field in columns]
        cells = ["–" if np.isnan(mean) else f"{mean:.3g}" for mean in means]
        lines.append(f"{row.policy:37s}" + "".join(f"{cell:>8s}" for cell in cells))
    return lines


def verdict_lines(
    config: Config, certificate: Certificate, rows: Sequence[Row], refuted: Mapping[str, float]
) -> list[str]:
    """The verdict, and what was promised, as lines of text."""
    found = verdict(certificate, rows, refuted, config.gate.level(max(len(refuted), 1)))
    return [found.headline, found.text, certificate.statement]


def _summary(config: Config, found: "Retrained", seconds: float) -> None:
    collected, _, validated, shipped = found
    _say(
        f"\ncollected {collected.questions} fresh questions x {config.collect.candidates} candidates, "
        f"{collected.tokens} tokens, {collected.failed} without a score"
    )
    # The gate has let it pass: test questions do not refute what was promised.
    for line in verdict_lines(config, validated.certificate, validated.policies, {}):
        _say(f"\n{line}")
    _say("")
    for name, value in validated.metrics.items():
        _say(f"  {name:24s} {value:8.3f}")
    _say("")
    for line in table(validated.policies):
        _say(line)
    answer = shipped.answer
    _say(f"\nbundle {shipped.tag} was started and decided: {answer['action']} ({answer['reason']})")
    _say(f"report  {config.home.resolve() / 'report' / 'report.html'}")
    _say(f"MLflow  {config.tracking.uri or f'mlflow ui --backend-store-uri {config.tracking_uri}'}")
    _say(f"serve   make serve\nthe loop took {seconds / 60:.1f} minutes")


def _say(line: str) -> None:
    print(line, file=sys.stdout, flush=True)
