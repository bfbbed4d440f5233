"""Answers for people: numbers, tables that stay apart, and the verdict first."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from flows import output
from flows.output import Answer, compared, print_answer, table
from flows.pages import number
from predictor.comparison import Gain, Row

LONG = "best predictive bound over many rounds, as many right"
ROW = {"draws": 10.41, "rounds": 1.812, "tokens": 123456.7, "below target": 0.8794, "right": float("nan")}
COLUMNS = {"policy": "policy", "draws": "candidates", "rounds": "rounds", "tokens": "tokens"}
COLUMNS |= {"below target": "below target", "right": "right"}


@pytest.mark.parametrize(
    ("value", "share", "text"),
    [
        (237.4, False, "237"),
        (12345, False, "12,345"),
        (0.8794, False, "0.879"),
        (6.0, False, "6"),
        (0.1234, True, "12.3 %"),
        (np.float64(0.5), True, "50.0 %"),
        (float("nan"), True, "–"),
        (None, False, "–"),
        (True, False, "True"),
        ("text", False, "text"),
        ({"mean": 60, "low": 57.2, "high": 64.0}, False, "60\n57.2 – 64"),
        ({"a": 1, "b": [0.25, 2]}, False, "a 1, b 0.25, 2"),
    ],
)
def test_a_number_is_written_as_people_read_it(value, share, text):
    assert number(value, share) == text


@pytest.mark.parametrize("width", [80, 100, 140])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_columns_of_a_table_never_touch(width, encoding):
    made = table([{"policy": name, **ROW} for name in ("short", LONG)], COLUMNS)
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="replace")
    Console(file=stream, width=width).print(made)
    stream.flush()
    lines = raw.getvalue().decode(encoding).splitlines()
    assert max(map(len, lines)) <= width
    (row,) = [line.replace("|", " ").split() for line in lines if "short" in line]
    assert row[1:6] == ["10.4", "1.81", "123,457", "87.9", "%"]
    assert " ".join(" ".join(line[: width - 50].split()) for line in lines).count("many rounds") == 1


@pytest.mark.parametrize("width", [80, 120])
def test_policies_are_a_table_a_selection(width):
    rows = [
        Row(
            policy=policy,
            kind="adaptive",
            selection=selection,
            setting=setting,
            draws=3.2,
            tokens=12345.6,
            rounds=2.5,
            accuracy=accuracy,
            changed=0.0123,
            gain=Gain(tokens=-1.23, low=-2.05, high=-0.2),
            chosen=chosen,
        )
        for selection in ("majority", "weighted_vote")
        for policy, setting, accuracy, chosen in (
            ("fixed N", "4", 0.5, False),
            ("learned on the own questions", "0.03", 0.5, False),
            ("learned on the own questions", "", None, True),
        )
    ]
    raw = io.StringIO()
    for made in compared(rows):
        Console(file=raw, width=width).print(made)
    text = raw.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert text.count("-123%") == 4
    assert text.count("(-205 to -20)") == 4  # settings that were not chosen are left out
    assert "weighted vote" in " ".join(text.split())


def test_an_answer_is_for_people_or_for_programs(capsys):
    answer = Answer({"x": np.int64(1)}, ["in words"])
    print_answer(answer, as_json=False)
    assert capsys.readouterr().out == "in words\n"
    print_answer(answer, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"x": 1}


def test_a_record_without_words_is_a_list_of_its_parts(capsys):
    print_answer({"questions_read": 1200, "cost (USD)": 0.5}, as_json=False)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == ["questions read 1,200", "cost (USD) 0.5"]


@pytest.mark.slow
def test_what_was_shipped_is_said_first():
    from flows.ship import Shipped

    answer = {"action": "sample", "reason": "it pays", "promise": None}
    first, second, third, _ = output.shipped(Shipped("3", "optscale:abc", answer))
    assert first == "SHIPPED: version 3 is the champion."
    assert "optscale:abc was started and decided: sample (it pays)" in second
    assert third.startswith("Nothing is promised")
    promised = output.shipped(Shipped("3", "optscale:abc", answer | {"promise": "With confidence"}))
    assert promised[2] == "With confidence"
