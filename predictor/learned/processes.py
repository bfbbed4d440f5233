"""The LoRA fit in several processes: each runs the same fit, and accelerate shares out the batches.

``torchrun`` starts them, one a GPU where there are any; the model is then read from the adapter that the
first of them saves. A process whose parent is gone ends itself.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import ModelError
from data.question import Question
from models.lora import Log
from predictor.empirical import save_family
from predictor.learned.settings import PredictorSettings

WORKER = "predictor.learned.worker"
Fold = tuple[Sequence[Question], NDArray[Any]]


def fit_in_processes(
    train: Fold,
    tune: Fold,
    settings: PredictorSettings,
    *,
    contract: str,
    data_digest: str,
    directory: Path,
    target: Path,
    log: Log,
) -> None:
    """`LoraPredictor.fit` in ``settings.lora.processes`` processes; ``target`` gets what they save.

    Raises
    ------
    ModelError
        If one of them fails; says what it last said.
    """
    with tempfile.TemporaryDirectory() as name:
        job = Path(name)
        one = settings.lora.model_copy(update={"processes": 1})
        document = {
            "settings": settings.model_copy(update={"lora": one}).model_dump(),
            "questions": [[q.model_dump() for q in questions] for questions, _ in (train, tune)],
            "contract": contract,
            "data_digest": data_digest,
            "directory": str(directory),
            "target": str(target),
        }
        (job / "job.json").write_text(json.dumps(document))
        np.savez(job / "scores.npz", train=train[1], tune=tune[1])
        save_family(settings.family, job)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(settings.lora.processes), "-m", WORKER, name]
        pipe = subprocess.PIPE
        with (
            (job / "said").open("w+") as said,
            subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=said, text=True) as process,
        ):
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    step, values = json.loads(line)
                    log(step, values)
            except BaseException:
                process.kill()  # what it has started ends with it
                raise
            if process.wait():
                said.seek(0)
                why = job / "error"
                raise ModelError(
                    f"a training process failed: {why.read_text() if why.exists() else said.read()[-2000:]}"
                )
