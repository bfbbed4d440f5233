import gzip
import json
import math
import random
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from data import arithmetic
from data.answers import extract_answer, is_correct
from data.errors import QuestionError
from data.folds import FoldSettings
from data.question import Message, Question
from data.questions import read_questions, write_questions
from data.scored import ScoredFile
from tests.helpers import make_questions

kinds = st.tuples(st.integers(2, 7), st.integers(1, 4))


@given(seed=st.integers(), kind=kinds)
def test_worked_solutions_are_right_and_wrong_ones_are_caught(seed, kind):
    rng = random.Random(seed)
    problem = arithmetic.draw_problem(rng, *kind)
    assert arithmetic.parse_terms(problem.text) == problem.terms
    right = arithmetic.work_out(problem.terms)
    assert all(arithmetic.label_steps(problem.text, "\n".join(right)))
    assert is_correct("\n".join(right), problem.answer)
    wrong = arithmetic.work_out_wrongly(problem.terms, rng)
    labels = arithmetic.label_steps(problem.text, "\n".join(wrong))
    assert labels.count(False) == 1
    assert len(labels) == kind[0]


@pytest.mark.parametrize(
    ("completion", "labels"),
    [
        ("61 - 33 = 28\n28 + 28 = 56\nAnswer: 56", [True, True, True]),
        ("61 - 33 = 27\n27 + 28 = 55\nAnswer: 55", [False, True, True]),
        ("61 - 33 = 28\n28 + 29 = 57\nAnswer: 57", [True, False, True]),
        ("61 - 33 = 28\nAnswer: 28", [True, False]),
        ("61 + 33 = 94\nwhat now", [False, False]),
        ("", []),
    ],
)
def test_steps_are_labelled_by_recomputing_them(completion, labels):
    assert arithmetic.label_steps("Compute 61 - 33 + 28.", completion) == labels


def test_no_pool_question_was_trained_on():
    asked = arithmetic.pool_questions()
    assert not {q.text for q in asked} & arithmetic.training_questions()
    assert asked == read_questions("data/questions/arithmetic.jsonl")


@pytest.mark.parametrize(
    ("completion", "reference", "right"),
    [
        (r"so \boxed{42}", "42", True),
        (r"\boxed{41}, no: \boxed{42.0}", "42", True),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", True),
        ("Answer: 1,234", "1234", True),
        ("#### -7", "-7", True),
        ("The answer is 5.", "5", True),
        ("Answer: 56", "57", False),
        ("no idea", "57", False),
        (None, "57", False),
        ("Answer: 5", None, None),
        ("Answer: -1,234,567.5", "-1234567.50", True),
        ("Answer: $1,234 dollars", "1234 dollars", True),
        ("Answer: 1,23", "123", False),
        ("Answer: 1234,567", "1234567", False),
        ("Answer: (1,2)", "(12)", False),
        ("Answer: (1,200)", "(1200)", False),
        ("Answer: 1_2", "12", False),
        ("Answer: 6/8", "3/4", True),
        ("Answer: .5", "1/2", True),
        ("Answer: 1e3", "1000", True),
        ("Answer: 1/0", "1/0", True),
        ("Answer: 1e10000000", "5", False),
        ("Answer: 1e-10000000", "5", False),
        (r"\boxed{The answer is 42}", "42", True),
        (r"\boxed{\text{The answer is } 41}", "42", False),
        (r"\boxed{42}", r"so it is \boxed{42}.", True),
        (r"\boxed{42}", "The answer is 42.", True),
        (r"\boxed{\text{(C)}}", "(C)", True),
        ("Answer: Evelyn", r"\text{Evelyn}", True),
        ("Answer: 4", "['4']", False),
        ("Answer: " + "9" * 100_000, "5", False),
    ],
)
def test_answers_are_compared_as_numbers(completion, reference, right):
    assert is_correct(completion, reference) is right


def test_the_last_answer_counts():
    assert extract_answer("Answer: 1\nAnswer: 2") == "2"


turns = st.lists(
    st.builds(Message, role=st.sampled_from(["system", "user", "assistant"]), content=st.text(min_size=1)),
    min_size=1,
    max_size=4,
).filter(lambda turns: turns[-1].content.strip())
# An answer is what is behind its mark, without white space around.
answers = st.text().filter(lambda text: text == text.strip() != "" and "####" not in text)
questions = st.builds(
    Question,
    messages=turns.map(tuple),
    answer=st.none() | answers,
    source=st.text(),
    group=st.none() | st.text(),
)


@given(st.lists(questions, min_size=1, max_size=4, unique_by=lambda question: question.id))
def test_question_sets_round_trip(asked):
    with TemporaryDirectory() as folder:
        write_questions(asked, Path(folder) / "q.jsonl")
        assert read_questions(Path(folder) / "q.jsonl") == asked


@pytest.mark.parametrize("form", ["lines", "list", "gz lines", "gz list", "parquet"])
def test_a_question_set_has_any_form_that_its_prompts_have(tmp_path, form):
    asked = [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(600)]
    as_lines = "".join(json.dumps(record) + "\n" for record in asked)
    content = (json.dumps(asked, indent=1) if form.endswith("list") else as_lines).encode()
    file = tmp_path / "set.jsonl"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(asked), file)
    else:
        file.write_bytes(gzip.compress(content) if form.startswith("gz") else content)
    found = read_questions(file)
    assert [(q.text, q.answer, q.source) for q in found] == [
        (record["question"], record["answer"], "set") for record in asked
    ]
    assert read_questions(file.rename(tmp_path / "set.jsonl.gz")) == found


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not JSON"),
        ("[" * 100_000, "line 2 is not JSON"),
        ('{"question": "half \\ud83d"}', "line 2 is not JSON.*surrogates"),
        ('{"question": "x", "answer": "\\ud83d"}', "line 2 is not JSON.*surrogates"),
        ('{"messages": []}', "none of the keys"),
        ('{"messages": null}', "none of the keys"),
        ('{"question": "x", "group": [1]}', "line 2: group is a list of 1; give one text"),
        ('{"question": "x", "answer": ["4", "5"]}', "line 2: answer is a list of 2; .*null: one reference"),
        ('{"question": "x", "answer": {"value": 4}}', "line 2: answer is {'value': 4}; "),
        ('{"question": "x", "answer": Infinity}', "line 2: answer is inf; "),
        ('{"question": "x", "source": {}}', "line 2: source is {}; "),
        ('{"messages": [{"role": "boss", "content": "x"}]}', "line 2: messages.0.role is 'boss': .*'user'"),
        ('{"messages": [{"role": "user", "content": "x", "name": "y"}]}', "messages.0.name is unknown; allo"),
        ('{"question": {"0": "x"}}', "line 2: question is {'0': 'x'}, not text; .*orient='records'"),
        ("[1]", "line 2 is not a JSON object"),
        ('{"text": "hm"}', "none of the keys"),
        ('{"question": ""}', "the question is empty"),
        ('{"question": "  "}', "the question is empty"),
        ('{"question": 5}', "line 2"),
        ('{"question": null}', "line 2"),
        ('{"question": "first"}', "question 2 repeats question 1"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    file = tmp_path / "q.jsonl"
    file.write_text('{"question": "first"}\n' + line + "\n")
    with pytest.raises(QuestionError, match=message):
        read_questions(file)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"answer": "3 + 4 = 7\n#### 7"}, ("7", None)),
        ({"answer": 7, "group": 3}, ("7", "3")),
        ({"answer": " ", "group": None}, (None, None)),
        ({"answer": ["4"], "subject": "Sums", "level": 3}, ("4", "Sums")),
        ({"answer": [[4]], "group": math.nan, "level": 3.0}, ("4", "3")),
        ({"answer": [], "level": "hard"}, (None, "hard")),
        ({"answer": math.nan}, (None, None)),
        ({"answer": 4.0}, ("4", None)),
        ({"answer": 0.5}, ("0.5", None)),
        ({"answer": True}, ("true", None)),
        ({"answer": "['4']"}, ("['4']", None)),
    ],
)
def test_answers_and_groups_are_read_as_imports_read_them(tmp_path, given, kept):
    file = tmp_path / "q.jsonl"
    file.write_text(json.dumps({"question": "3 + 4?", "scores": [1], **given}))
    (asked,), ((entry,),) = read_questions(file), ScoredFile(file).entries.values()
    imported = entry.question
    assert (asked.answer, asked.group) == (imported.answer, imported.group) == kept


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\u0085"])
def test_a_line_ends_where_json_lines_end(tmp_path, end):
    file = tmp_path / "q.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + f'{{"question": "one{end}two"}}\r\n{{"question": "three"}}\n'.encode())
    assert [q.text for q in read_questions(file)] == [f"one{end}two", "three"]


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe"])
def test_an_unreadable_file_is_an_error_of_ours(tmp_path, content):
    file = tmp_path / "q.jsonl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(QuestionError):
        read_questions(file)


def test_folds_have_their_shares_and_never_change():
    folds = FoldSettings()
    found = [folds.fold_of(q.id) for q in make_questions(4000)]
    share = {name: count / 4000 for name, count in Counter(found).items()}
    assert share == pytest.approx({"train": 0.45, "tune": 0.1, "calibration": 0.225, "test": 0.225}, abs=0.03)
    assert found[:100] == [folds.fold_of(q.id) for q in make_questions(100)]


def test_groups_can_be_kept_on_one_side():
    folds = FoldSettings(by="group")
    assert len({folds.fold_of(q.id, "same") for q in make_questions(50)}) == 1


@pytest.mark.parametrize("shares", [{"train": 0.9}, {"train": 1.2}, {"tune": 0}])
def test_shares_that_do_not_add_up_are_refused(shares):
    with pytest.raises(ValidationError):
        FoldSettings(**shares)
