"""From rows that the gateway's own code logs to a pool."""

import pytest
from typer.testing import CliRunner

from data.decision_log import read_log
from data.feedback import Feedback, add_feedback
from data.folds import FoldSettings
from data.log_import import import_log
from data.pool import Pool
from data.question import Question
from data.questions import write_questions
from data.scores import load_scores
from tests.decision_log import ASKED, POLICY, write_log
from tests.helpers import make_contract


def test_only_what_was_explored_is_brought_in(tmp_path):
    write_log(tmp_path / "log", [(q, n % 2 == 0) for n, q in enumerate(ASKED)], text=True)
    assert len(list((tmp_path / "log").glob("*.parquet"))) >= 2
    found = import_log(tmp_path / "log", str(tmp_path / "pool"))
    assert found["questions"] == found["censored"] == 3
    rows = list(Pool.open(str(tmp_path / "pool")).rows())
    assert {row["question_id"] for row in rows} == {q.id for q in ASKED[::2]}
    assert len(rows) == found["candidates"] == 3 * POLICY.cap
    assert {row["inclusion_probability"] for row in rows} == {0.25}
    assert {row["score"] for row in rows} == {0.25}  # min over steps
    assert rows[0]["step_scores"] == [0.25, 0.75]
    assert rows[0]["completion"] == "hm\nAnswer: 1"
    table = load_scores(Pool.open(str(tmp_path / "pool")), FoldSettings()).full(POLICY.cap)
    assert len(table) == 3


def test_an_import_goes_on_where_it_was(tmp_path):
    write_log(tmp_path / "log", [(q, True) for q in ASKED] * 2, text=True)
    found = import_log(tmp_path / "log", str(tmp_path / "pool"))
    assert (found["questions"], found["held"]) == (6, 6)
    again = import_log(tmp_path / "log", str(tmp_path / "pool"))
    assert (again["questions"], again["held"]) == (0, 12)


def test_a_log_without_text_takes_the_questions_from_a_file(tmp_path):
    from flows.cli import app

    write_log(tmp_path / "log", [(q, True) for q in ASKED])
    assert import_log(tmp_path / "log", str(tmp_path / "pool"))["without_text"] == 6
    write_questions(ASKED[:4], tmp_path / "q.jsonl")
    line = ["import-log", "--log", str(tmp_path / "log"), "--pool", str(tmp_path / "pool")]
    result = CliRunner().invoke(app, [*line, "--questions", str(tmp_path / "q.jsonl")])
    assert result.exit_code == 0, result.output
    rows = list(Pool.open(str(tmp_path / "pool")).rows())
    assert {(row["answer"], row["completion"], row["correct"]) for row in rows} == {
        (q.answer, None, True) for q in ASKED[:4]
    }
    assert {row["group"] for row in rows} == {"sum"}


def test_a_failed_candidate_of_a_question_with_an_answer_is_wrong(tmp_path):
    for text in (True, False):
        write_log(tmp_path / f"log{text}", [(ASKED[0], True)], text=text, fails=1)
        location = str(tmp_path / f"pool{text}")
        assert import_log(tmp_path / f"log{text}", location, ASKED[:1])["questions"] == 1
        rows = list(Pool.open(location).rows())
        assert {row["status"] for row in rows} == {"complete", "failed"}
        assert {(row["status"], row["correct"]) for row in rows} == {("complete", True), ("failed", False)}


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"verdict": "right"}, {True, False}),  # the failed one has no answer
        ({"verdict": "wrong"}, {False, None}),
        ({"verdict": "unsure"}, {None}),
        ({"answer": "7.0"}, {True, False}),
        ({"verdict": "wrong", "answer": "8"}, {False}),
    ],
)
def test_what_people_said_judges_the_candidates(tmp_path, text, said, expected):
    """By the delivered answer, or by the right one where they gave it."""
    unknown = Question.ask("Compute 0 + 1.")
    write_log(tmp_path / "log", [(unknown, True)], text=text, fails=1)
    (row,) = read_log(tmp_path / "log")
    add_feedback(tmp_path / "log", Feedback(request_id=row["request_id"], who="w", when=row["time"], **said))
    assert import_log(tmp_path / "log", str(tmp_path / "pool"), [unknown])["questions"] == 1
    rows = list(Pool.open(str(tmp_path / "pool")).rows())
    assert {row["correct"] for row in rows} == expected
    assert {row["answer"] for row in rows} == {said.get("answer")}


def test_scores_of_another_contract_stay_outside(tmp_path):
    write_log(tmp_path / "log", [(q, True) for q in ASKED[:2]], text=True)
    write_log(
        tmp_path / "log", [(q, True) for q in ASKED[2:]], text=True, contract=make_contract(generator="h")
    )
    Pool.create(str(tmp_path / "pool"), make_contract(generator="h"))
    found = import_log(tmp_path / "log", str(tmp_path / "pool"))
    assert (found["questions"], found["other_contract"]) == (4, 2)


def test_what_a_deadline_cut_short_is_not_full(tmp_path):
    write_log(tmp_path / "log", [(ASKED[0], True)], text=True, seconds=1.0)
    found = import_log(tmp_path / "log", str(tmp_path / "pool"))
    assert (found["questions"], found["incomplete"]) == (0, 1)
