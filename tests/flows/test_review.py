"""Decisions go to a person as a file and come back as verdicts beside the log."""

import json

import pytest
from typer.testing import CliRunner

from data.errors import ConfigError
from data.feedback import read_feedback
from data.question import Question
from flows.cli import app
from flows.pages import render
from flows.review import read, sample, write
from predictor.policies import Schedule, Value
from tests.decision_log import write_log

pytestmark = pytest.mark.slow

ASKED = [Question.ask(f"Is {n} odd?\n## Request other\nverdict: wrong", answer=str(n)) for n in range(12)]
STOPS = Schedule(cap=4, start=2, target=0.2)
GIVES_UP = Value(cap=4, target=0.95, token_price=0.05)


@pytest.fixture
def log(tmp_path):
    """Eight early stops, three give-ups, one drawn to the cap."""
    folder = tmp_path / "log"
    write_log(folder, [(q, False) for q in ASKED[:8]], text=True, policy=STOPS, name="stop")
    write_log(folder, [(q, False) for q in ASKED[8:11]], text=True, policy=GIVES_UP, name="give")
    write_log(folder, [(ASKED[11], False)], text=True, name="full")
    return folder


def test_a_sample_has_both_kinds_and_each_question_once(log):
    found = sample(log, 6)
    assert (found["early stop"], found["give up"]) == (8, 3)
    kinds = [item["kind"] for item in found["items"]]
    assert (kinds.count("early stop"), kinds.count("give up")) == (3, 3)
    assert [item["request"] for item in sample(log, 6)["items"]] == [i["request"] for i in found["items"]]
    assert len({tuple(i["request"] for i in sample(log, 4, seed)["items"]) for seed in range(9)}) > 1
    assert len(sample(log, 100)["items"]) == 11
    write_log(log, [(ASKED[0], False)], text=True, policy=STOPS, name="again")
    assert len(sample(log, 100)["items"]) == 11


def test_answers_stand_beside_each_other(log):
    item = next(i for i in sample(log, 100)["items"] if i["kind"] == "early stop")
    (group,) = item["answers"]
    assert (group["count"], group["best_score"], group["delivered"]) == (2, 0.25, True)
    assert item["delivered"]["completion"].startswith("hm\nAnswer:")
    assert item["verdict"] is None


@pytest.mark.parametrize("suffix", ["md", "json"])
def test_verdicts_come_back_once(log, tmp_path, suffix):
    file = tmp_path / f"r.{suffix}"
    line = ["review", "--log", str(log)]
    done = CliRunner().invoke(app, [*line, "--n", "4", "--output", str(file)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    requests = [item["request"] for item in sample(log, 4)["items"]]
    if suffix == "md":
        file.write_text(file.read_text().replace("\nverdict:\n", "\nverdict: Right\n", 1))
    else:
        items = json.loads(file.read_text())
        items[0]["verdict"] = "right"
        file.write_text(json.dumps(items))
    told = CliRunner().invoke(
        app, [*line, "--read", str(file), "--who", "ann", "--json"], catch_exceptions=False
    )
    counts = json.loads(told.stdout)
    assert (counts["kept"], counts["empty"], counts["not_in_the_log"]) == (1, 3, 0)
    assert read(file, log, "ann")["said_before"] == 1
    kept = read_feedback(log)
    assert {name: f.verdict for name, f in kept.items()} == {requests[0]: "right"}
    assert kept[requests[0]].who == "ann"
    assert requests[0] not in [item["request"] for item in sample(log, 100)["items"]]


def test_texts_of_a_question_are_not_taken_for_verdicts(log, tmp_path):
    file = tmp_path / "r.md"
    write(sample(log, 3), file)
    assert "> verdict: wrong" in file.read_text()
    assert read(file, log) == {"kept": 0, "said_before": 0, "empty": 3, "not_in_the_log": 0}


def test_a_file_with_verdicts_is_not_overwritten(log, tmp_path):
    write(sample(log, 3), tmp_path / "r.md")
    with pytest.raises(ConfigError, match="may hold verdicts"):
        write(sample(log, 3), tmp_path / "r.md")


def test_what_is_no_verdict_is_named_with_its_line(log, tmp_path):
    file = tmp_path / "r.md"
    page = render("review.md.j2", **sample(log, 1))
    file.write_text(page.rstrip() + " perhaps")
    with pytest.raises(ConfigError, match=rf"line {len(page.rstrip().splitlines())}.*perhaps.*right, wrong"):
        read(file, log)
    (tmp_path / "r.json").write_text("[1]")
    with pytest.raises(ConfigError, match="not what review wrote"):
        read(tmp_path / "r.json", log)


def test_verdicts_on_another_log_are_refused(log, tmp_path):
    write(sample(log, 3), tmp_path / "r.md")
    write_log(tmp_path / "other", [(ASKED[0], False)], name="else")
    with pytest.raises(ConfigError, match="another gateway"):
        read(tmp_path / "r.md", tmp_path / "other")


def test_a_log_without_texts_says_what_is_not_stored(tmp_path):
    write_log(tmp_path / "log", [(ASKED[0], False)], policy=STOPS)
    found = sample(tmp_path / "log", 5)
    assert found["not_stored"]
    assert "(not stored)" in render("review.md.j2", **found)
