"""How answers are judged, as the command `optscale grade` shows it."""

import json

import pytest
from typer.testing import CliRunner

from data.errors import ConfigError, QuestionError
from flows.cli import app


def run(*arguments):
    result = CliRunner().invoke(app, ["grade", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.parametrize(
    ("answer", "reference", "extracted", "keys", "correct"),
    [
        (r"so \boxed{\frac{2}{4}}", ".5", r"\frac{2}{4}", ("1/2", "1/2"), True),
        ("We add. The answer is 5 cm.", r"x = -5", "5 cm", ("5", "-5"), False),
        ("-5", "$-5$", "-5", ("-5", "-5"), True),
        (r"\boxed{}", "5", "", (None, "5"), False),
    ],
)
def test_one_answer_is_shown_with_what_was_compared(answer, reference, extracted, keys, correct):
    expected = {"extracted": extracted, "key": keys[0], "reference_key": keys[1], "correct": correct}
    lines = run("--answer", answer, "--reference", reference).splitlines()
    assert [line.split()[-1] for line in lines if "correct" in line] == [str(correct)]
    assert [line.split()[0] for line in lines] == ["extracted", "key", "reference", "correct"]
    assert json.loads(run("--answer", answer, "--reference", reference, "--json")) == expected


def test_a_file_is_judged_completion_by_completion(tmp_path):
    file = tmp_path / "pool.jsonl"
    records = [
        {"question": "1 + 1?", "answer": "2", "completions": ["Answer: 2.0", r"\boxed{3}", "no idea", None]},
        {"question": "Why?", "completions": ["Answer: so"]},
    ]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    judged = json.loads(run("--input", file, "--json"))
    assert [(one["where"], one["candidate"]) for one in judged] == [
        *((f"{file}, line 1", number) for number in range(4)),
        (f"{file}, line 2", 0),
    ]
    assert [one["correct"] for one in judged] == [True, False, False, False, None]
    assert [one["extracted"] for one in judged] == ["2.0", "3", None, None, "so"]


@pytest.mark.parametrize("arguments", [[], ["--answer", "5"], ["--answer", "5", "--input", "file"]])
def test_half_of_what_is_needed_is_an_error(arguments):
    with pytest.raises(ConfigError, match="--answer and --reference, or --input"):
        run(*arguments)


@pytest.mark.parametrize("completions", [{}, {"completions": "5"}, {"completions": [5]}])
def test_a_record_without_completions_is_named(tmp_path, completions):
    file = tmp_path / "pool.jsonl"
    file.write_text(json.dumps({"question": "1 + 1?", "answer": "2"} | completions))
    with pytest.raises(QuestionError, match="line 1: completions is .*; give a list of texts"):
        run("--input", file)
