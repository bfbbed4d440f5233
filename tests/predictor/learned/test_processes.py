"""Processes that train: none outlives the training that started it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data.question import Question
from predictor.learned import processes
from predictor.learned.settings import PredictorSettings

WORKER = "import time; print('[0, {}]', flush=True); time.sleep(60)"


def test_they_end_where_what_they_tell_cannot_be_recorded(monkeypatch):
    started = []

    class Started(subprocess.Popen):
        def __init__(self, command, **options):
            super().__init__([sys.executable, "-c", WORKER], **options)
            started.append(self)

    def log(step, values):
        raise RuntimeError("the record is away")

    monkeypatch.setattr(processes.subprocess, "Popen", Started)
    fold = ([Question.ask("a")], np.ones((1, 2)))
    with pytest.raises(RuntimeError, match="the record is away"):
        processes.fit_in_processes(
            fold,
            fold,
            PredictorSettings(family="beta"),
            contract="c",
            data_digest="d",
            directory=Path("x"),
            target=Path("y"),
            log=log,
        )
    (process,) = started
    assert process.poll() is not None
