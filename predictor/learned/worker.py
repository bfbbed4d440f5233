"""One of the processes that `processes.fit_in_processes` starts: reads the job, fits, and the first saves."""

import json
import os
import sys
from pathlib import Path

import numpy as np

from data.question import Question
from models.end_with_parent import end_with_parent
from predictor.empirical import load_family
from predictor.learned.lora_predictor import LoraPredictor
from predictor.learned.settings import PredictorSettings


def _run(job: Path) -> None:
    end_with_parent()

    def log(step: int, values: dict[str, float]) -> None:
        os.write(told, f"{json.dumps([step, values])}\n".encode())

    told = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no record
    document = json.loads((job / "job.json").read_text())
    load_family(job)
    scores = np.load(job / "scores.npz")
    folds = [[Question.model_validate(q) for q in part] for part in document["questions"]]
    predictor = LoraPredictor.fit(
        (folds[0], scores["train"]),
        (folds[1], scores["tune"]),
        PredictorSettings.model_validate(document["settings"]),
        contract=document["contract"],
        data_digest=document["data_digest"],
        directory=Path(document["directory"]),
        log=log,
    )
    if os.environ["RANK"] == "0":
        predictor.save(Path(document["target"]))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    try:
        _run(folder)
    except Exception as error:
        (folder / "error").write_text(f"{type(error).__name__}: {error}")
        raise
