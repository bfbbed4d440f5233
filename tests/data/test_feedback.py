"""Verdicts beside the log: the last one counts, nothing is kept twice, a bad line is named."""

from datetime import UTC, datetime

import pytest

from data.errors import PoolError
from data.feedback import FILE, Feedback, keep_feedback, read_feedback


def said(request, verdict, who="ann"):
    return Feedback(request_id=request, verdict=verdict, who=who, when=datetime(2030, 1, 1, tzinfo=UTC))


def test_of_several_verdicts_the_last_counts_and_a_repeat_is_not_kept(tmp_path):
    assert read_feedback(tmp_path) == {}
    assert keep_feedback(tmp_path, [said("a", "right"), said("b", "unsure")]) == 2
    assert keep_feedback(tmp_path, [said("a", "right"), said("b", "wrong")]) == 1
    assert {name: told.verdict for name, told in read_feedback(tmp_path).items()} == {
        "a": "right",
        "b": "wrong",
    }
    assert len((tmp_path / FILE).read_text().splitlines()) == 3
    assert keep_feedback(tmp_path, [said("a", "right", who="bob")]) == 1
    assert read_feedback(tmp_path)["a"].who == "bob"


def test_a_line_that_is_no_verdict_is_named(tmp_path):
    keep_feedback(tmp_path, [said("a", "right")])
    with (tmp_path / FILE).open("a") as file:
        file.write('{"request_id": "b", "verdict": "maybe", "who": "x", "when": "2030-01-01"}\n')
    with pytest.raises(PoolError, match="line 2.*verdict is 'maybe'"):
        read_feedback(tmp_path)
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(PoolError):
        keep_feedback(tmp_path, [said("c", "right")])
    assert (tmp_path / FILE).read_bytes() == before


def test_a_folder_that_is_none_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PoolError, match="nothing was kept"):
        keep_feedback(tmp_path / "file", [said("a", "right")])
