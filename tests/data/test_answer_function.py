"""A user's own notion of an answer: code by its behaviour on the question's tests."""

import pytest

from data.answer_function import Read, load_answer_function, read_answer
from data.errors import ConfigError
from data.folds import FoldSettings
from data.log_import import import_log
from data.pool import Pool
from data.question import Question
from data.scores import load_scores
from flows.collect import sample_and_score
from models.generator.base import Candidate
from tests.decision_log import write_log
from tests.helpers import make_contract

CODE = ["def f(x): return x + x", "def f(x): return 2 * x", "def f(x): return x", "def f(x)", None]
HERE = "tests.data.test_answer_function:behaviour"
TWICE = Question.ask("Write f(x) that doubles x.", answer="[2, 4, 6]")


def behaviour(completion, question):
    """What the function gives for 1, 2, 3; the reference is what it should."""
    names = {}
    try:
        exec(completion, names)
        found = str([names["f"](x) for x in (1, 2, 3)])
    except (SyntaxError, KeyError, NameError):
        return None, False
    return found, found == question.answer


class Coder:
    def sample(self, questions, n, seed):
        return [[Candidate(code, 5, 5, "complete", seed) for code in CODE] for _ in questions]


def test_code_is_equal_where_it_does_the_same(tmp_path):
    rows = sample_and_score([TWICE], len(CODE), 0, Coder(), None, make_contract().unscored(), answers=HERE)
    assert [row["correct"] for row in rows] == [True, True, False, False, False]
    pool = Pool.create(str(tmp_path / "pool"), make_contract().unscored())
    pool.append(rows)
    (answers,) = load_scores(pool, FoldSettings()).answers
    assert answers[0] == answers[1] != answers[2]
    assert list(answers[3:]) == [-1, -1]


def test_a_log_with_texts_is_judged_by_it_too(tmp_path):
    write_log(tmp_path / "log", [(TWICE, True)], text=True)  # its completions are no code
    import_log(tmp_path / "log", str(tmp_path / "pool"), [TWICE], HERE)
    assert {row["correct"] for row in Pool.open(str(tmp_path / "pool")).rows()} == {False}


def fails(completion, question):
    raise RuntimeError("not this one")


def test_one_that_fails_leaves_no_answer_and_is_told(caplog):
    read = load_answer_function("tests.data.test_answer_function:fails")
    assert read("x", TWICE) == Read(None, None)
    assert "fails failed on a completion" in caplog.text


def test_without_one_it_is_the_products_own():
    asked = Question.ask("1 + 1?", answer="2")
    assert load_answer_function(None) is read_answer
    assert read_answer("So the answer is 2.0.", asked) == Read("2", True)
    assert read_answer("", asked) == Read(None, False)
    assert read_answer("Answer: 3", Question.ask("1 + 1?")) == Read("3", None)


@pytest.mark.parametrize(
    "name", ["nowhere.at:all", "tests.data.test_answer_function:none", f"{__name__}:CODE"]
)
def test_what_is_no_function_is_an_error_of_ours(name):
    with pytest.raises(ConfigError, match="answers: .* (cannot be imported here|is no function)"):
        load_answer_function(name)
