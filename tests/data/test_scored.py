"""Forms that people have scored candidates in: what is taken, what is refused, and what is said of it."""

import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import ConfigError, PoolError, QuestionError, ScoreError
from data.folds import FoldSettings
from data.importers import import_pool
from data.pool import Pool
from data.score_map import ScoreMap
from data.scored import ScoredFile
from data.scores import load_scores

KEPT = ("completion", "completion_tokens", "score", "raw_score", "correct", "step_scores", "status", "answer")
KEPT = ("candidate", "answer_key", *KEPT)


def write(folder, *records, name="s.jsonl"):
    file = Path(folder) / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(list(records)), file)
    else:
        file.write_text("".join(json.dumps(r) + "\n" for r in records))
    return file


def brought_in(file, key="scores", aggregation="mean", reward_model=None, **options):
    """The summary, and the rows of each question."""
    with TemporaryDirectory() as folder:
        done = import_pool(ScoredFile(file, key, **options), f"{folder}/p", None, reward_model, aggregation)
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
    assert (other.pop("records"), one.pop("records")) == (len(each), len(whole))
    assert other == one
    every = [c for own in found for c in own]
    assert one["candidates"] - one["with_score"] == one["misses"] == sum(c["score"] is None for c in every)
    assert one["empty_completions"] == sum(not c["completion"].strip() for c in every)


def test_lists_of_one_candidate_are_joined_too(tmp_path):
    one = {"question": "q", "scores": [0.5], "completions": ["x"]}
    done, found = brought_in(write(tmp_path, one, one | {"scores": [1]}, one))
    assert [row["score"] for row in found["q"]] == [0.5, 1, 0.5]
    assert (done["questions"], done["candidates"], done["records"], done["repeated"]) == (1, 3, 3, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "5"}, "line 3: answer is '5', but '4' in .*line 1, which asks the same question"),
        ({"group": "g"}, "line 3: group is 'g', but None in .*line 1, which asks the same question"),
        ({"score": None}, "line 3 has no scores, but .*line 1 has; give null for a candidate without"),
        ({"model": "b"}, "line 3: model is 'b', but 'a' in .*line 1: .*--where model=NAME, or give a file"),
    ],
)
def test_candidates_that_do_not_go_together_are_named(tmp_path, change, message):
    one = {"question": "q", "answer": "4", "completion": "x", "score": 0.5, "tokens": 3, "model": "a"}
    file = write(tmp_path, one, one, {k: v for k, v in (one | change).items() if v is not None})
    with pytest.raises(PoolError, match=message):
        brought_in(file)


def test_the_same_record_once_more_is_counted_and_other_candidates_are_joined(tmp_path):
    one = {"question": "q", "scores": [0.5, 1]}
    done, found = brought_in(write(tmp_path, one, one))
    assert (len(found["q"]), done["repeated"]) == (2, 1)
    done, found = brought_in(
        write(tmp_path, one, {"question": "r", "scores": [0]}, one | {"scores": [0.25, 1]})
    )
    assert [row["score"] for row in found["q"]] == [0.5, 1, 0.25, 1]
    assert (done["questions"], done["records"], done["fewest_candidates"], done["most_candidates"]) == (
        2,
        3,
        1,
        4,
    )


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
        done, found = brought_in(file, key, how)
        assert [row["score"] for row in found["q"]] == [score, None, None]
        assert [row["step_scores"] for row in found["q"]] == [[0.25, 0.75], None, None]
        assert (done["candidates"], done["with_score"]) == (3, 1)
    with pytest.raises(ScoreError, match="line 1: score 0 has step scores alone; .*--aggregation"):
        brought_in(file, key, "given")


def test_step_scores_of_one_candidate(tmp_path):
    lines = [
        {"question": "q", "step_scores": [0.25, 0.75]},
        {"question": "q", "step_scores": [0.5]},
        {"question": "q", "completion": "", "step_scores": None},
    ]
    _, found = brought_in(write(tmp_path, *lines))
    assert [row["score"] for row in found["q"]] == [0.5, 0.5, None]
    alone = {"question": "q", "completion": "x", "scores": [0.25, 0.75]}
    _, found = brought_in(write(tmp_path, alone), aggregation="last")
    assert [(row["score"], row["step_scores"]) for row in found["q"]] == [(0.75, [0.25, 0.75])]


def test_scores_that_their_step_scores_do_not_give_are_named(tmp_path):
    file = write(tmp_path, {"question": "q", "scores": [0.5, 0.3], "step_scores": [[0.25, 0.75], [0.5, 0.7]]})
    with pytest.raises(ScoreError, match="line 1: score 1 is 0.3, but the mean of its step scores 0.6; name"):
        brought_in(file)
    _, found = brought_in(file, aggregation="given")
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
    assert (done["with_tokens"], done["with_reference"], done["with_verdict"]) == (3, 0, 2)


def test_a_candidate_that_is_not_complete_is_a_miss_with_its_status(tmp_path):
    record = {"question": "q", "scores": [0.5, 0.5, None], "status": ["complete", "cut", "complete"]}
    done, found = brought_in(write(tmp_path, record))
    assert [row["status"] for row in found["q"]] == ["complete", "cut", "failed"]
    assert (done["misses"], done["with_score"]) == (2, 2)


def test_a_verdict_is_a_score_only_where_that_is_said(tmp_path):
    file = write(tmp_path, {"question": "q", "correct": [True, False, 1]})
    done, found = brought_in(file)
    assert [(row["score"], row["correct"]) for row in found["q"]] == [
        (None, True),
        (None, False),
        (None, True),
    ]
    assert (done["scale"], done["misses"], {row["status"] for row in found["q"]}) == ("none", 0, {"complete"})
    _, found = brought_in(file, "correct")
    assert [(row["score"], row["correct"]) for row in found["q"]] == [(1, True), (0, False), (1, True)]


def test_what_nothing_was_taken_from_is_said(tmp_path):
    lines = [
        {"question": "q", "prompt": "long", "scores": [1, 0], "id": 7, "group": "g", "level": 3},
        {"question": "r", "scores": [1, 0], "id": 8, "order": [1, 2], "tokens": [1, 1], "seed": None},
    ]
    done, _ = brought_in(write(tmp_path, *lines))
    assert done["not_read"] == {"id": 2, "level": 1, "order": 1, "prompt": 1}
    item = {"id": 1, "score": {"problem": ["q"], "scores": [[1]], "pred": ["x"]}}
    asked = write(tmp_path, {"problem": "q", "unique_id": 4, "answer": "5"}, name="prompts.jsonl")
    done, _ = brought_in(write(tmp_path, item), prompts=asked)
    assert done["not_read"] == {"id": 1, "prompts.unique_id": 1, "score.pred": 1}


def test_a_row_of_parquet_is_named(tmp_path):
    rows = [{"question": f"{n}?", "scores": [0.5, math.inf if n == 300 else 1]} for n in range(302)]
    with pytest.raises(ScoreError, match="s.parquet, row 301: scores.1 is inf"):
        brought_in(write(tmp_path, *rows, name="s.parquet"))
    with pytest.raises(QuestionError, match="row 1 has none of the keys"):
        brought_in(write(tmp_path, {"ask": "q"}, name="s.parquet"))
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(PoolError, match="cut.parquet cannot be read"):
        brought_in(tmp_path / "cut.parquet")


def test_answers_are_taken_as_they_are_given(tmp_path):
    """Whatever the completion says: where none is given, the candidate has none."""
    record = {
        "question": "q",
        "answer": "4",
        "answers": ["4", None, " x  y", 4.0, "", "5"],
        "completions": ["Answer: 9", "Answer: 4", None, "", "Answer: 4", "x"],
    }
    done, found = brought_in(write(tmp_path, record))
    assert [row["answer_key"] for row in found["q"]] == ["4", "", "x y", "4", "", "5"]
    assert [row["correct"] for row in found["q"]] == [True, False, False, True, False, False]
    assert (done["with_answer"], done["with_verdict"], done["with_score"]) == (4, 6, 0)
    _, found = brought_in(write(tmp_path, record | {"answers": None}))
    assert [row["answer_key"] for row in found["q"]] == [None] * 6
    assert [row["correct"] for row in found["q"]] == [False, True, None, False, True, False]
    alone = [{"question": "q", "extracted_answer": a, "correct": a == "B"} for a in ("B", None)]
    _, found = brought_in(write(tmp_path, *alone))
    assert [(row["answer_key"], row["correct"]) for row in found["q"]] == [("B", True), ("", False)]


def test_an_id_or_a_number_stands_for_a_question(tmp_path):
    lines = [{"question": 7, "correct": [1]}, {"question": None, "id": "a/1", "correct": [1, 0]}]
    done, found = brought_in(write(tmp_path, *lines))
    assert {text: len(rows) for text, rows in found.items()} == {"7": 1, "a/1": 2}
    assert (
        done["in_place_of_text"],
        done["fewest_candidates"],
        done["most_candidates"],
        done["not_read"],
    ) == (2, 1, 2, {})


def test_raw_scores_are_kept_as_they_are(tmp_path):
    file = write(tmp_path, {"question": "q", "scores": [0.123456]}, {"question": "r", "scores": [-3.5, None]})
    done, found = brought_in(file)
    assert [(row["score"], row["raw_score"], row["status"]) for rows in found.values() for row in rows] == [
        (None, 0.123456, "complete"),
        (None, -3.5, "complete"),
        (None, None, "failed"),
    ]
    assert (done["scale"], done["with_score"], done["misses"]) == ("raw", 2, 1)
    assert done["scores_outside_0_1"] == 1
    steps = write(tmp_path, {"question": "q", "step_scores": [[-1, 4], [0.5]]})
    done, found = brought_in(steps)
    assert ([row["raw_score"] for row in found["q"]], done["scale"]) == ([1.5, 0.5], "raw")


def test_one_model_of_several_can_be_chosen(tmp_path):
    lines = [
        {"question": f"{n}?", "model": model, "run": run, "correct": [1, 0]}
        for n in range(2)
        for model in ("a", "b")
        for run in (1, 2.0)
    ]
    file = write(tmp_path, *lines)
    with pytest.raises(PoolError, match="line 3: model is 'b', but 'a' in .*--where model=NAME"):
        ScoredFile(file)
    found = ScoredFile(file, where=["model=b"])
    assert (found.count["records"], found.count["left_out"], found.models) == (4, 4, {"generator": "b"})
    assert found.not_read == {"run": 4}
    assert ScoredFile(file, where=["model=b", "run=2"]).count["records"] == 2
    with pytest.raises(PoolError, match="no record that --where asks for; it has model=a, model=b"):
        ScoredFile(file, where=["model=c"])
    with pytest.raises(ConfigError, match="--where b: give a field and its value"):
        ScoredFile(file, where=["b"])


def test_the_files_names_are_the_contracts(tmp_path):
    file = write(tmp_path, {"question": "q", "model_name": "m", "reward_model": "r", "scores": [1]})
    import_pool(ScoredFile(file), str(tmp_path / "p"))
    contract = Pool.open(str(tmp_path / "p")).manifest.contract
    assert (contract.generator, contract.reward_model, contract.scale) == ("m", "r", "unit")
    with pytest.raises(ConfigError, match="--reward-model r names who scored, but .* has no scores"):
        brought_in(write(tmp_path, {"question": "q", "correct": [1]}), reward_model="r")


def test_a_pool_that_nothing_scored_says_so(tmp_path):
    lines = [{"question": f"{n}?", "correct": [1, 0], "answers": ["A", "B"]} for n in range(9)]
    import_pool(ScoredFile(write(tmp_path, *lines)), str(tmp_path / "p"))
    pool = Pool.open(str(tmp_path / "p"))
    assert pool.manifest.contract.reward_model is None
    table = load_scores(pool, FoldSettings())
    assert not table.has_scores
    assert not table.has_tokens
    shown = table.candidates(2)
    assert np.isnan(shown.scores).all()
    assert shown.tokens.all()
    assert (shown.answers[:, 0] != shown.answers[:, 1]).all()
    assert (shown.answers >= 0).all()
    with pytest.raises(ScoreError, match="this pool has no scores: "):
        _ = table.fold("train").scores


def test_raw_scores_are_mapped_by_rank(tmp_path):
    lines = [{"question": f"{n}?", "scores": [n - 5, None, n], "correct": [0, 0, 1]} for n in range(9)]
    lines.append({"question": "more?", "scores": [100]})
    import_pool(ScoredFile(write(tmp_path, *lines)), str(tmp_path / "p"))
    pool = Pool.open(str(tmp_path / "p"))
    table = load_scores(pool, FoldSettings())
    assert table.score_map == ScoreMap.fit(table.fold("train").raw_scores)
    nobody = FoldSettings(train=1e-9, tune=0.2, calibration=0.6, test=0.2)
    with pytest.raises(ScoreError, match="this pool has no scores: they are raw"):
        _ = load_scores(pool, nobody).scores
    fitted = ScoreMap.fit(table.raw_scores[table.drawn == 3])
    scores = load_scores(pool, FoldSettings(), fitted).scores
    assert (scores == table.mapped(fitted).scores)[table.drawn == 3].all()
    assert (scores[table.drawn == 3, 1] == 0).all()
    known = ~np.isnan(table.raw_scores)
    order = table.raw_scores[known].argsort(kind="stable")
    assert (np.diff(scores[known][order]) >= 0).all()
    (single,) = np.flatnonzero(table.drawn == 1)
    assert scores[single, 0] == 1
    assert np.isnan(scores[single, 1:]).all()
