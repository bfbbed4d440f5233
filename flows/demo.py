"""``optscale run``: the whole loop on the embedded models, from the shipped pool on."""

import shutil
from pathlib import Path

import flows.ship
import flows.train
import flows.validate  # noqa: F401 - all three here, while the server starts
from data.pool import Pool
from flows.config import ROOT, Config
from flows.retrain import Retrained, retrain
from predictor.learned.settings import PredictorSettings

POOL = ROOT / "data" / "pool"
FRESH_QUESTIONS = 4
LORA_STEPS = 20  # a third of an epoch: enough to see it work, and a demonstration should end soon


def run_demo(config: Config) -> Retrained:
    """Seed the state folder with the shipped pool, and retrain on it and on some fresh questions."""
    fresh = config.collect.model_copy(update={"limit": config.collect.limit or FRESH_QUESTIONS})
    config = config.model_copy(update={"collect": fresh, "predictor": shortened(config.predictor)})
    if config.pool is None and not Pool.exists(config.pool_location):
        seed(Path(config.pool_location))
    return retrain(config)


def shortened(predictor: PredictorSettings) -> PredictorSettings:
    """With LoRA's steps capped, unless the user has said how many they are."""
    if predictor.lora.max_steps is not None:
        return predictor
    capped = {"max_steps": LORA_STEPS, "evaluate_every": LORA_STEPS}
    return predictor.model_copy(update={"lora": predictor.lora.model_copy(update=capped)})


def seed(target: Path) -> None:
    """Copy the shipped pool: its parts, and when all are there the manifest that names them."""
    shutil.copytree(POOL / "parts", target / "parts", dirs_exist_ok=True)
    shutil.copy(POOL / "manifest.json", target / "manifest.json.tmp")
    (target / "manifest.json.tmp").rename(target / "manifest.json")
