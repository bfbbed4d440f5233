"""What the Makefile and its long tasks stand on."""

import random
import re
import sys
from pathlib import Path

import pytest

from tests.flows.soak import kill_at_random, link_backbones


def test_every_target_that_is_no_file_has_a_rule():
    text = Path("Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert [name for name in phony.split() if not re.search(rf"^{name}:", text, re.MULTILINE)] == []


def test_a_run_that_fails_by_itself_ends_the_soak():
    assert kill_at_random([sys.executable, "-c", "pass"], 60, random.Random(0)) is False
    with pytest.raises(AssertionError, match="SystemExit"):
        kill_at_random([sys.executable, "-c", "raise SystemExit(3)"], 60, random.Random(0))


def test_a_fresh_clone_has_a_place_for_converted_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    link_backbones(tmp_path)
    assert (tmp_path / "backbones").is_dir()
