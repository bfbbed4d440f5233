"""Kinds of predictor side by side on three sets of questions, seed by seed; nothing here is a test.

    [BACKBONE=DIR] [LORA='{"epochs": 1}'] python -m tests.kinds FOLDER SET:SEED ...

fits what ``FOLDER`` has no result of, one after the other (a fit of LoRA takes minutes to an hour), and
prints a table of all that is there. SET is ``own-pool``, ``gsm8k``, or the file that `tests.figures` takes as
published-math. A seed divides the questions and begins LoRA; of published-math the held-out fifth is always
the same one. Everything is fitted on train, made as strong as tune says, and held against the rest. BACKBONE
is a second one, whose states are told beside; LORA is settings of LoRA's training, or null to leave it out.
"""

import gzip
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from data.folds import FoldSettings
from data.pool import Pool
from data.question import Question
from data.scores import load_scores
from flows.config import Config
from predictor.empirical import fit_empirical
from predictor.learned.base import Fold
from predictor.learned.comparison import score_priors
from predictor.learned.kernel_predictor import KernelPredictor
from predictor.learned.lora_predictor import LoraPredictor
from predictor.learned.settings import KINDS, PredictorSettings
from predictor.learned.states import FrozenStates
from predictor.prior import Prior, PriorBatch
from predictor.replay import bootstrap
from tests.figures import TARGET, is_held_out

HEAD = ("R2 mean", "R2 deviation", "rank mean", "rank deviation", "R2 passed", "CPU s")
SHARES = {"train": 0.56, "tune": 0.14, "calibration": 0.15, "test": 0.15}
"""Of gsm8k, whose own ones leave too few questions to train on."""
BACKBONE = "BACKBONE"
CACHE = Path(os.environ.get("OPTSCALE_HOME", ".optscale")) / "states"


def divide(name: str, seed: int) -> tuple[list[Fold], str, float, np.ndarray]:
    """Train, tune and held-out questions, score family, target, and pass rates of the held-out ones."""
    if name in ("own-pool", "gsm8k"):
        shares = SHARES if name == "gsm8k" else {}
        settings = FoldSettings(seed=str(seed), **shares)
        table = load_scores(Pool.open("data/pool" if name == "own-pool" else "data/gsm8k"), settings)
        parts = [table.fold("train"), table.fold("tune"), table.fold("calibration", "test")]
        target = Config().policy.target
        if name == "gsm8k":
            target = float(np.round(np.nanmedian(parts[0].scores), 1))
        passed = np.nanmean(parts[2].correct, axis=1)
        folds = [Fold(part.questions, part.scores) for part in parts]
        return folds, fit_empirical(folds[0].scores).name, target, passed
    records = [json.loads(line) for line in gzip.decompress(Path(name).read_bytes()).splitlines()]
    asked = {Question.ask(r["problem"]): r["scores"] for r in records}
    settings = FoldSettings(seed=str(seed), train=0.9, tune=0.09, calibration=0.005, test=0.005)
    parts = [[], [], []]
    for question in asked:
        trains = settings.fold_of(question.id) == "train"
        parts[2 if is_held_out(question) else 0 if trains else 1].append(question)
    folds = [Fold(part, np.array([asked[question] for question in part])) for part in parts]
    return folds, "beta", TARGET, np.full(len(folds[2].questions), np.nan)


def average(left: list[Prior], right: list[Prior]) -> list[Prior]:
    """Halfway between two predictors' priors: locations, log spreads, log strengths."""
    return [
        a.model_copy(
            update={
                "location": tuple(np.mean([a.location, b.location], axis=0)),
                "spread": tuple(np.sqrt(np.multiply(a.spread, b.spread))),
                "correlation": (a.correlation + b.correlation) / 2,
                "strength": (a.strength * b.strength) ** 0.5,
            }
        )
        for a, b in zip(left, right, strict=True)
    ]


READ: dict[str, tuple[FrozenStates, dict[str, Any]]] = {}
"""Of each set, what has read all its questions, and their tokens: once for all seeds of a run."""


def read(
    name: str, settings: PredictorSettings, folds: tuple[Fold, ...], keep: bool
) -> tuple[FrozenStates, dict[str, Any]]:
    if name not in READ:
        READ[name] = FrozenStates.load(settings, cache=CACHE), {}
        asked = [question for fold in folds for question in fold.questions]
        READ[name][0].read(asked, READ[name][1] if keep else None)
    return READ[name]


def fit_kinds(name: str, seed: int, lora: dict[str, Any] | None, checkpoints: Path) -> dict[str, Any]:
    """What each kind predicts of each held-out question; LoRA goes on from checkpoints that are there."""
    (train, tune, held), family, target, passed = divide(name, seed)
    settings = PredictorSettings(family=family)
    changed = settings.lora.model_copy(update={"seed": seed, **(lora or {})})
    settings = settings.model_copy(update={"lora": changed})
    states, tokens = read(name, settings, (train, tune, held), lora is not None)
    frozen = states.read([*train.questions, *tune.questions])
    priors: dict[str, list[Prior]] = {}
    seconds, results, strength = {}, {}, 1.0
    for kind in [kind for kind in KINDS if kind != "lora" or lora is not None]:
        started = time.process_time()
        if kind == "lora":
            model: Any = LoraPredictor.fit(train, tune, frozen, tokens, settings, directory=checkpoints)
            results, lower = model.card.results, states.read(held.questions)
            model.base.card = model.base.card.change(strength=strength)
            priors["what lora corrects"] = model.base.predict(held.questions, lower)
        else:
            model = KernelPredictor.fit(kind, train, settings, frozen[: len(train.questions)], states)
        model.calibrate(tune)
        strength = model.card.strength
        seconds[kind] = time.process_time() - started
        priors[kind] = model.predict(held.questions)
    if BACKBONE in os.environ:
        other = settings.model_copy(update={"backbone": os.environ[BACKBONE]})
        reader = FrozenStates.load(other, cache=CACHE)
        seen = reader.read([*train.questions, *tune.questions])
        beside = KernelPredictor.fit("states", train, other, seen[: len(train.questions)], reader)
        beside.calibrate(tune)
        priors["states of another backbone"] = beside.predict(held.questions)
    priors["text + states"] = average(priors["text"], priors["states"])
    if "lora" in priors:
        priors["lora + states"] = average(priors["lora"], priors["states"])
    seen = {"mean": held.scores.mean(axis=1), "std": held.scores.std(axis=1), "passed": passed}
    found = {}
    for kind, given in priors.items():
        scored, (mean, std) = score_priors(given, held.scores, target), PriorBatch.of(given).moments
        columns = {"evidence": scored.evidence, "hit": scored.hit, "mean": mean, "std": std}
        found[kind] = {column: np.asarray(values).round(5).tolist() for column, values in columns.items()}
    return {
        "ids": [question.id for question in held.questions],
        "seen": {n: v.tolist() for n, v in seen.items()},
        "train": len(train.questions),
        "seconds": seconds,
        "lora": results,
        "kinds": found,
    }


def show(name: str, runs: list[dict[str, Any]]) -> None:
    """A table of one set: over all seeds, intervals paired by question."""
    print(f"\n{name}: {len(runs)} seeds, {runs[0]['train']} questions of training in the first\n")
    head = ["kind", "nats", "over states", "hits over states", *HEAD]
    print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    ids = [question for run in runs for question in run["ids"]]
    number = {question: place for place, question in enumerate(dict.fromkeys(ids))}
    places = np.array([number[question] for question in ids])

    def column(kind: str, key: str) -> np.ndarray:
        return np.concatenate([run["kinds"][kind][key] for run in runs])

    def over(kind: str, key: str) -> str:
        """A question that several seeds held out counts once, by its mean."""
        gain = np.bincount(places, column(kind, key) - column("states", key)) / np.bincount(places)
        found = bootstrap(gain)
        return f"{found.mean:.4f} ({found.low:.4f} to {found.high:.4f})"

    seen = {key: np.concatenate([run["seen"][key] for run in runs]) for key in ("mean", "std", "passed")}
    for kind in runs[0]["kinds"]:
        told = {key: column(kind, key) for key in ("mean", "std")}
        r2 = [1 - np.mean((seen[k] - told[k]) ** 2) / seen[k].var() for k in told]
        flat = np.ptp(told["mean"]) < 1e-3
        ranks = [0.0 if flat else spearmanr(seen[k], told[k]).statistic for k in told]
        passed = 0.0 if flat else np.corrcoef(seen["passed"], told["mean"])[0, 1] ** 2
        seconds = np.mean([run["seconds"].get(kind, 0.0) for run in runs])
        numbers = [f"{value:.3f}" for value in (*r2, *ranks, passed, seconds)]
        nats = f"{column(kind, 'evidence').mean():.3f}"
        cells = [kind, nats, over(kind, "evidence"), over(kind, "hit"), *numbers]
        print(f"| {' | '.join(cells)} |")


def main(folder: Path, wanted: list[str], lora: dict[str, Any] | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for one in wanted:
        name, _, seed = one.rpartition(":")
        file = folder / f"{'published-math' if '/' in name else name}-{seed}.json"
        if not file.exists():
            file.write_text(json.dumps(fit_kinds(name, int(seed), lora, checkpoints := file.with_suffix(""))))
            shutil.rmtree(checkpoints, ignore_errors=True)
            print(file, flush=True)
    runs: dict[str, list[Any]] = {}
    for file in sorted(folder.glob("*-*.json")):
        runs.setdefault(file.stem.rpartition("-")[0], []).append(json.loads(file.read_text()))
    for name, found in runs.items():
        show(name, found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:], json.loads(os.environ.get("LORA", "{}")))
