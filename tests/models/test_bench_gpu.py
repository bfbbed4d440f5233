"""``make bench-gpu`` runs in miniature wherever it is asked to."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.suite]


def test_all_of_it_runs_in_miniature(tmp_path):
    command = [sys.executable, "-W", "ignore", "-m", "tests.bench_gpu", "--small", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page, figures = (
        (tmp_path / "bench-gpu.md").read_text(),
        json.loads((tmp_path / "bench-gpu.json").read_text()),
    )
    assert "failed" not in page, done.stderr
    assert "in float32 agree" in page
    whats = [figure["name"].partition(",")[0] for figure in figures]
    assert whats == ["score", "train LoRA", "read states", "predict", "generate"]
    assert all(figure["rate"] > 0 and figure["ratio"] > 0 and figure["share"] > 0 for figure in figures)
