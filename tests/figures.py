"""Figures that documents quote, made anew by one command each; nothing here is a test.

    python -m tests.figures published-math ../shared/published-math/train.jsonl.gz [option ...]

fits on four fifths of the questions with the project's own commands, and holds the result against the
last fifth (by hash of the question's id). Options are handed to ``optscale train``, for example
``--set 'predictor.rivals=[population,words,stack]'``.
"""

import gzip
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from predictor.network.card import REFIT
from predictor.network.kernel_predictor import STATES_OF, KernelPredictor
from predictor.network.predictor import Predictor
from predictor.network.rivals import tell
from predictor.prior import Beliefs, Prior
from predictor.question import Question
from predictor.replay import bootstrap

TARGET = 0.95


def optscale(*arguments: str) -> str:
    """Run the command line in a process of its own; returns what it printed."""
    command = [sys.executable, "-W", "ignore", "-c", "from flows.cli import main; main()", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def is_held_out(question: Question) -> bool:
    """A fifth of all questions, by hash of the id."""
    return int(hashlib.sha256(f"held-out:{question.id}".encode()).hexdigest()[:8], 16) / 16**8 < 0.2


def published_math(file: str, *options: str) -> None:
    records = [json.loads(line) for line in gzip.decompress(Path(file).read_bytes()).splitlines()]
    asked = {Question.ask(r["problem"]).id: r for r in records}
    held = [r for r in asked.values() if is_held_out(Question.ask(r["problem"]))]
    kept = [r for r in asked.values() if not is_held_out(Question.ask(r["problem"]))]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part, lines in (("train", kept), ("held", held)):
            (folder / f"{part}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
        started = time.perf_counter()
        pool, output = str(folder / "pool"), str(folder / "predictor")
        optscale("import-pool", "--format", "scores", "--input", str(folder / "train.jsonl"), "--pool", pool)
        target = f"policy.target={TARGET}"
        optscale("train", "--pool", pool, "--output", output, "--set", target, *options)
        print(f"trained in {(time.perf_counter() - started) / 60:.0f} minutes")
        questions = str(folder / "held.jsonl")
        told = optscale("predict", "--predictor", output, "--questions", questions).splitlines()
        priors = [Prior.model_validate(json.loads(line)["prior"]) for line in told]
        card = Predictor.load(output).card
        for r in card.rivals:
            print(f"tune: {r.kind:12s} behind {r.behind:.3f} ± {r.behind_error:.3f}, hits {r.hit_score:.4f}")
        print(
            f"recommended: {card.kind}, {card.settings.family}; {len(kept)} questions, {len(held)} held out"
        )
        ours = show(card.kind, priors, held)
        alone = Predictor.load(output)
        show(
            f"{card.kind}, train and tune only",
            alone.predict([Question.ask(r["problem"]) for r in held]),
            held,
        )
        whole = Predictor.load(Path(output) / REFIT) if (Path(output) / REFIT).exists() else alone
        baselines(whole, kept, held, ours)


def baselines(model: Any, kept: list[Any], held: list[Any], ours: np.ndarray) -> None:
    """The other kinds, fitted on all that ours was fitted on."""
    asked, wanted = ([Question.ask(r["problem"]) for r in part] for part in (kept, held))
    states = model.states if isinstance(model, KernelPredictor) else None
    cache = Path(os.environ.get("OPTSCALE_HOME", ".optscale")) / "states"
    if states is not None:
        states.cache = cache
    for kind in ("population", "description", "words", "ridge", "stack"):
        read = kind in STATES_OF
        if kind == model.card.kind or (read and states is None):
            continue
        fitted = KernelPredictor.fit(
            kind,
            asked,
            np.array([r["scores"] for r in kept]),
            model.card.settings,
            contract="",
            data_digest="",
            features=states.read(asked) if read else None,
            states=states if read else None,
        )
        theirs = show(kind, fitted.predict(wanted), held)
        gain = bootstrap(ours - theirs)
        print(f"{'':34s} ours is better by {gain.mean:.4f} ({gain.low:.4f} to {gain.high:.4f}) in that score")


def show(name: str, priors: list[Prior], held: list[Any]) -> np.ndarray:
    """Print how priors did; returns the log scores of 1{score >= target}, which rest on simulated scores."""
    told = Beliefs.of(priors).moments
    figures = []
    for values, key in zip(told, ("score_mean", "score_std"), strict=True):
        seen = np.array([r[key] for r in held])
        figures.append(1 - np.mean((seen - values) ** 2) / seen.var())
        figures.append(spearmanr(seen, values).statistic if np.ptp(values) > 1e-9 else 0.0)
    hit = tell(priors, np.array([r["scores"] for r in held]), TARGET).hit
    print(
        f"{name:34s} R2 of mean {figures[0]:.3f}, of std {figures[2]:.3f}; "
        f"rank correlation {figures[1]:.3f}, {figures[3]:.3f}; "
        f"log score of 1{{score >= {TARGET}}} {hit.mean():.4f}",
        flush=True,
    )
    return hit


FIGURES = {"published-math": published_math}

if __name__ == "__main__":
    FIGURES[sys.argv[1]](*sys.argv[2:])
