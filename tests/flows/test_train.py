"""What a cached fit depends on, without fitting any."""

import shutil

import pytest

from flows.config import ROOT, Config
from flows.train import _cache_key, code_digest

pytestmark = pytest.mark.slow


def test_a_fit_of_other_code_is_fitted_anew(tmp_path, monkeypatch):
    ignored = shutil.ignore_patterns("__pycache__", "pool", "adapters")
    for room in ("data", "models", "predictor", "flows"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=ignored)
    assert code_digest(tmp_path) == code_digest()
    arguments = {"config": Config(), "digest": "d"}
    key = _cache_key(None, arguments)
    assert _cache_key(None, arguments) == key
    (tmp_path / "predictor" / "README.md").write_text("other words")
    assert code_digest(tmp_path) == code_digest()
    with (tmp_path / "predictor" / "learned" / "regression.py").open("a") as source:
        source.write("# other code\n")
    assert code_digest(tmp_path) != code_digest()
    monkeypatch.setattr("flows.train.code_digest", lambda: code_digest(tmp_path))
    assert _cache_key(None, arguments) != key
