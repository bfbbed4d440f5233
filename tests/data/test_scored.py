"""Forms that people have scored candidates in: what is taken, what is refused, and what is said of it."""

import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import PoolError, QuestionError, ScoreError
from data.importers import import_pool, imported_contract
from data.pool import Pool
from data.scored import read_optscale, read_scores

MEAN = imported_contract("g", "r", "mean")
KEPT = ("candidate", "completion", "completion_tokens", "score", "correct", "step_scores", "status", "answer")


def write(folder, *records, name="s.jsonl"):
    file = Path(folder) / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(list(records)), file)
    else:
        file.write_text("".join(json.dumps(r) + "\n" for r in records))
    return file


def brought_in(file, key="scores", contract=MEAN):
    """The summary, and the rows of each question."""
    with TemporaryDirectory() as folder:
        done = import_pool(read_scores(file, key), f"{folder}/p", contract)
        found = {}
        for row in Pool.open(f"{folder}/p").rows():
            kept = {name: row[name] for name in KEPT}
            found.setdefault(row["messages"][-1]["content"], []).append(kept)
    assert done["candidates"] == sum(map(len, found.values()))
    return done, found


candidate = st.fixed_dictionaries(
    {
        "score": st.none() | st.floats(0, 1).map(lambda score: round(score, 4)),
        "completion": st.sampled_from(["", " ", "Answer: 3", "Answer: 4"]),
        "tokens": st.integers(0, 9),
        "correct": st.sampled_from([0, 1, None]),
    }
)


@settings(max_examples=25)
@given(
    found=st.lists(st.lists(candidate, min_size=2, max_size=4), min_size=1, max_size=4),
    name=st.sampled_from(["s.jsonl", "s.parquet"]),
)
def test_a_record_a_candidate_says_what_a_record_a_question_says(found, name):
    asked = [{"question": f"{n} + 1?", "answer": "4", "group": "sum"} for n in range(len(found))]
    whole = [
        question
        | {
            "scores": [c["score"] for c in own],
            "completions": [c["completion"] for c in own],
            "completion_tokens": [c["tokens"] for c in own],
            "correct": [None if c["correct"] is None else bool(c["correct"]) for c in own],
        }
        for question, own in zip(asked, found, strict=True)
    ]
    # All first candidates, then all second ones: the lines of a question are far apart.
    each = [
        question | own[place]
        for place in range(4)
        for question, own in zip(asked, found, strict=True)
        if place < len(own)
    ]
    with TemporaryDirectory() as folder:
        one, rows = brought_in(write(folder, *whole, name=name))
        other, same = brought_in(write(folder, *each, name=f"each-{name}"))
    assert same == rows
    assert (other.pop("one_candidate"), one.pop("one_candidate")) == (len(each), 0)
    assert other == one
    every = [c for own in found for c in own]
    assert one["without_score"] == one["misses"] == sum(c["score"] is None for c in every)
    assert one["empty_completions"] == sum(not c["completion"].strip() for c in every)


def test_lists_of_one_candidate_are_joined_too(tmp_path):
    one = {"question": "q", "scores": [0.5], "completions": ["x"]}
    done, found = brought_in(write(tmp_path, one, one | {"scores": [1]}, one))
    assert [row["score"] for row in found["q"]] == [0.5, 1, 0.5]
    assert (done["questions"], done["candidates"], done["one_candidate"], done["repeated"]) == (1, 3, 3, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "5"}, "line 3: answer is '5', but '4' in .*line 1, which asks the same question"),
        ({"tokens": None}, "line 3 has no completion_tokens, but .*line 1, of the same question, has"),
        ({"score": None, "step_scores": [0.5]}, "line 3 has no scores, but .*line 1, of the same quest"),
        ({"model": "b"}, "line 3: model is 'b', but 'a' in .*line 1: a pool is of one model; give a file"),
        (
            {"scores": [0.5, 0.5], "completion": None, "tokens": None},
            "asks the question of .*line 3 again, with other candi",
        ),
    ],
)
def test_candidates_that_do_not_go_together_are_named(tmp_path, change, message):
    one = {"question": "q", "answer": "4", "completion": "x", "score": 0.5, "tokens": 3, "model": "a"}
    file = write(tmp_path, one, one, {k: v for k, v in (one | change).items() if v is not None})
    with pytest.raises(PoolError, match=message):
        brought_in(file)


def test_the_same_record_once_more_is_counted_and_another_one_refused(tmp_path):
    one = {"question": "q", "scores": [0.5, 1]}
    done, found = brought_in(write(tmp_path, one, one))
    assert (len(found["q"]), done["repeated"]) == (2, 1)
    with pytest.raises(PoolError, match="line 2 asks the question of .*line 1 again, with other candidates"):
        brought_in(write(tmp_path, one, one | {"scores": [0.5, 1, 0.25]}))
    with pytest.raises(PoolError, match="line 2 asks .*another answer"):
        brought_in(write(tmp_path, one, one | {"answer": "4"}))


@pytest.mark.parametrize(
    ("record", "key"),
    [
        ({"scores": [[0.25, 0.75], [], None]}, "scores"),
        ({"step_scores": [[0.25, 0.75], [], None]}, "scores"),
        ({"steps": [[0.25, 0.75], [], None]}, "steps"),
    ],
)
def test_step_scores_become_scores_by_the_named_rule(tmp_path, record, key):
    file = write(tmp_path, {"question": "q"} | record)
    for how, score in (("mean", 0.5), ("min", 0.25), ("last", 0.75), ("product", 0.1875)):
        done, found = brought_in(file, key, imported_contract("g", "r", how))
        assert [row["score"] for row in found["q"]] == [score, None, None]
        assert [row["step_scores"] for row in found["q"]] == [[0.25, 0.75], None, None]
        assert done["without_score"] == 2
    with pytest.raises(ScoreError, match="line 1: there are step scores alone; .*--aggregation"):
        brought_in(file, key, imported_contract("g", "r", "given"))


def test_step_scores_of_one_candidate(tmp_path):
    lines = [
        {"question": "q", "step_scores": [0.25, 0.75]},
        {"question": "q", "step_scores": [0.5]},
        {"question": "q", "completion": "", "step_scores": None},
    ]
    _, found = brought_in(write(tmp_path, *lines))
    assert [row["score"] for row in found["q"]] == [0.5, 0.5, None]
    alone = {"question": "q", "completion": "x", "scores": [0.25, 0.75]}
    _, found = brought_in(write(tmp_path, alone), contract=imported_contract("g", "r", "last"))
    assert [(row["score"], row["step_scores"]) for row in found["q"]] == [(0.75, [0.25, 0.75])]


def test_scores_that_their_step_scores_do_not_give_are_named(tmp_path):
    file = write(tmp_path, {"question": "q", "scores": [0.5, 0.3], "step_scores": [[0.25, 0.75], [0.5, 0.7]]})
    with pytest.raises(ScoreError, match="line 1: score 1 is 0.3, but the mean of its step scores 0.6; name"):
        brought_in(file)
    _, found = brought_in(file, contract=imported_contract("g", "r", "given"))
    assert [row["score"] for row in found["q"]] == [0.5, 0.3]


def test_verdicts_and_tokens_as_data_frames_write_them(tmp_path):
    record = {
        "question": "q",
        "answer": math.nan,
        "scores": [0.5, 1, 0],
        "correct": [1.0, 0, None],
        "tokens": [3.0, 4, 5],
        "completions": math.nan,
    }
    done, found = brought_in(write(tmp_path, record))
    assert [row["correct"] for row in found["q"]] == [True, False, None]
    assert [row["completion_tokens"] for row in found["q"]] == [3, 4, 5]
    assert (done["tokens_known"], done["answer_known"], done["correct_known"]) == (True, False, False)


def test_a_candidate_that_is_not_complete_is_a_miss_with_its_status(tmp_path):
    record = {"question": "q", "scores": [0.5, 0.5, None], "status": ["complete", "cut", "complete"]}
    done, found = brought_in(write(tmp_path, record))
    assert [row["status"] for row in found["q"]] == ["complete", "cut", "failed"]
    assert (done["misses"], done["without_score"]) == (2, 1)


def test_a_verdict_is_a_score_only_where_that_is_said(tmp_path):
    file = write(tmp_path, {"question": "q", "correct": [True, False, 1]})
    with pytest.raises(ScoreError, match="line 1: no 'scores' among question, correct; .*--scores-key corr"):
        brought_in(file)
    _, found = brought_in(file, "correct")
    assert [(row["score"], row["correct"]) for row in found["q"]] == [(1, True), (0, False), (1, True)]


def test_what_nothing_was_taken_from_is_said(tmp_path):
    lines = [
        {"question": "q", "prompt": "long", "scores": [1, 0], "id": 7, "group": "g", "level": 3},
        {"question": "r", "scores": [1, 0], "id": 8, "answers": ["1", "2"], "tokens": [1, 1]},
    ]
    done, _ = brought_in(write(tmp_path, *lines))
    assert done["not_read"] == {"answers": 1, "id": 2, "level": 1, "prompt": 1}
    item = {"id": 1, "score": {"problem": ["q"], "scores": [[1]], "pred": ["x"]}}
    asked = write(tmp_path, {"problem": "q", "unique_id": 4, "answer": "5"}, name="prompts.jsonl")
    done = import_pool(read_optscale(write(tmp_path, item), asked), str(tmp_path / "p"), MEAN)
    assert done["not_read"] == {"id": 1, "prompts.unique_id": 1, "score.pred": 1}


def test_a_row_of_parquet_is_named(tmp_path):
    rows = [{"question": f"{n}?", "scores": [0.5, 1.5 if n == 300 else 1]} for n in range(302)]
    with pytest.raises(ScoreError, match="s.parquet, row 301: scores.1 is 1.5"):
        brought_in(write(tmp_path, *rows, name="s.parquet"))
    with pytest.raises(QuestionError, match="row 1 has none of the keys"):
        brought_in(write(tmp_path, {"ask": "q"}, name="s.parquet"))
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(PoolError, match="cut.parquet cannot be read"):
        brought_in(tmp_path / "cut.parquet")
