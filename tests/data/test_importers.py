import gzip
import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from data import pool as pool_module
from data.errors import ConfigError, ContractError, PoolError, QuestionError, ScoreError
from data.folds import FoldSettings
from data.importers import import_pool, imported_contract
from data.pool import Pool
from data.scored import ScoredFile
from data.scores import load_scores
from flows import cli

CONTRACT = imported_contract("g", "r", "mean")
NAMES = ("g", "r")
numbers = st.one_of(st.none(), st.floats(0, 1), st.sampled_from([0, 1]))


def write(folder, *records, name="s.jsonl"):
    file = Path(folder) / name
    file.write_text("".join(json.dumps(r) + "\n" for r in records))
    return file


def lines(count, start=0):
    return [{"question": f"How much is {n} + 1?", "scores": [0.5, 0.25]} for n in range(start, start + count)]


def item(*problems, **lists):
    names = {"problem": list(problems)} if problems else {}
    return {"id": 1, "output": "x", "n": 2, "score": names | {k: [v] for k, v in lists.items()}}


def rows(folder):
    found = sorted(Pool.open(str(folder)).rows(), key=lambda r: (r["messages"][0]["content"], r["candidate"]))
    assert {r["contract"] for r in found} <= {CONTRACT.fingerprint}
    return found


@settings(max_examples=20)
@given(found=st.lists(st.lists(numbers, min_size=1, max_size=5), min_size=1, max_size=6))
def test_scores_come_back_as_they_went_in(found):
    with TemporaryDirectory() as folder:
        file = write(folder, *({"problem": f"question {n}", "scores": s} for n, s in enumerate(found)))
        done = import_pool(ScoredFile(file), f"{folder}/p", *NAMES)
        table = load_scores(Pool.open(f"{folder}/p"), FoldSettings())
    assert (done["questions"], done["candidates"]) == (len(found), sum(map(len, found)))
    for question, scores, drawn in zip(table.questions, table.scores, table.drawn, strict=True):
        given_ = found[int(question.text.split()[1])]
        assert drawn == len(given_)
        expected = [0.0 if s is None else round(s, CONTRACT.decimals) for s in given_]
        np.testing.assert_array_equal(scores[:drawn], expected)


def test_a_line_keeps_all_it_has(tmp_path):
    one = {
        "messages": [{"role": "system", "content": "Brief."}, {"role": "user", "content": "2 + 2?"}],
        "answer": 4,
        "subject": "Sums",
        "source": "mine",
        "scores": [0.9, None, 0.123456, 0.7],
        "completions": ["Answer: 4", "Answer: 5", None, " "],
        "completion_tokens": [3, 4, 5, 0],
        "reward_tokens": [7, 0, 8, 0],
        "prompt_tokens": 6,
    }
    two = {"question": "3?", "level": 3, "answer": "so\n#### 3", "completions": ["#### 3"], "scores": [1]}
    three = {"prompt": "4?", "group": "g", "subject": "no", "scores": [0], "correct": [True]}
    done = import_pool(ScoredFile(write(tmp_path, one, two, three)), str(tmp_path / "p"), *NAMES)
    assert (done["candidates"], done["with_tokens"], done["with_verdict"], done["with_reference"]) == (
        6,
        4,
        5,
        2,
    )
    table = load_scores(Pool.open(str(tmp_path / "p")), FoldSettings())
    asked = {q.text: (q.group, q.source, q.answer) for q in table.questions}
    assert asked == {
        "2 + 2?": ("Sums", "mine", "4"),
        "3?": ("3", "s", "3"),
        "4?": ("g", "s", None),
    }
    found = [r for r in rows(tmp_path / "p") if r["source"] == "mine"]
    assert [r["status"] for r in found] == ["complete", "failed", "complete", "complete"]
    assert [r["score"] for r in found] == [0.9, None, 0.1235, 0.7]
    assert (done["with_score"], done["misses"], done["empty_completions"]) == (5, 1, 1)
    assert [r["correct"] for r in found] == [True, False, None, False]
    assert [r["completion_tokens"] for r in found] == [3, 4, 5, 0]
    assert [(r["reward_tokens"], r["prompt_tokens"]) for r in found] == [(7, 6), (0, 6), (8, 6), (0, 6)]
    others = [r for r in rows(tmp_path / "p") if r["source"] == "s"]
    assert [(r["correct"], r["completion_tokens"]) for r in others] == [(True, 0), (True, 0)]


def test_an_import_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(pool_module, "PART_QUESTIONS", 4)
    location, append = str(tmp_path / "p"), Pool.append

    def killed_at_the_third(pool, rows, **values):
        if len(pool.manifest.parts) == 2:
            raise RuntimeError
        append(pool, rows, **values)

    file = write(tmp_path, *lines(10))
    with monkeypatch.context() as patch:
        patch.setattr(Pool, "append", killed_at_the_third)
        with pytest.raises(RuntimeError):
            import_pool(ScoredFile(file), location, *NAMES)
    assert [part.rows for part in Pool.open(location).manifest.parts] == [8, 8]
    more = write(tmp_path, *lines(10), *lines(2), *lines(3, start=20))
    done = import_pool(ScoredFile(more), location, *NAMES)
    assert {k: done[k] for k in ("questions", "skipped", "repeated")} == {
        "questions": 5,
        "skipped": 8,
        "repeated": 2,
    }
    assert len(rows(location)) == 2 * 13


def test_parts_of_long_completions_are_smaller(tmp_path, monkeypatch):
    monkeypatch.setattr(pool_module, "PART_CHARACTERS", 100)
    long = [line | {"completions": ["x" * 40] * 2} for line in lines(5)]
    import_pool(ScoredFile(write(tmp_path, *long)), str(tmp_path / "p"), *NAMES)
    assert [p.rows for p in Pool.open(str(tmp_path / "p")).manifest.parts] == [4, 4, 2]


def test_released_files_import_with_their_prompts(tmp_path):
    items = [
        item(
            "What is\n 1+1?",
            scores=[0.25, 0.5],
            last_scores=[0.75, 1],
            completions=[r"\boxed{2}", "3"],
            completion_tokens=[5, 6],
            pred="3",
        ),
        item(scores=[0.125]),
        {"score": {"problem": ["C?", "D?"], "scores": [[0], [1, 0.5]], "last_scores": [[0.5], [0.5, 1]]}},
    ]
    prompts = [
        {"problem": "What is 1+1?", "answer": "2", "level": 1, "unique_id": "a"},
        {"question": "B?", "answer": "2", "subject": "Sums", "scores": "not ours"},
        {"question": "C?", "answer": "3"},
        {"question": "D?"},
    ]
    file = tmp_path / "items"  # gzipped, though its name does not say so
    file.write_bytes(gzip.compress(json.dumps(items, indent=1).encode()))
    as_lines = write(tmp_path, *prompts, name="prompts.jsonl")
    done = import_pool(ScoredFile(file, prompts=as_lines), str(tmp_path / "p"), *NAMES)
    assert (done["questions"], done["candidates"]) == (4, 6)
    assert (done["with_tokens"], done["with_reference"], done["with_verdict"]) == (2, 3, 2)
    found = rows(tmp_path / "p")
    assert [r["score"] for r in found] == [0.125, 0, 1, 0.5, 0.25, 0.5]
    assert [r["correct"] for r in found] == [None, None, None, None, True, False]
    assert [r["group"] for r in found] == ["Sums", None, None, None, "1", "1"]
    assert [r["completion_tokens"] for r in found][-2:] == [5, 6]
    as_list = tmp_path / "prompts.json"
    as_list.write_text(json.dumps(prompts))
    again = import_pool(ScoredFile(file, prompts=as_list), str(tmp_path / "p"), *NAMES)
    assert (again["questions"], again["skipped"]) == (0, 4)
    alone = [items[0], items[2]]
    import_pool(ScoredFile(write(tmp_path, *alone), "last_scores"), str(tmp_path / "last"), *NAMES)
    assert [r["score"] for r in rows(tmp_path / "last")] == [0.5, 0.5, 1, 0.75, 1]
    assert {r["answer"] for r in rows(tmp_path / "last")} == {None}


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("{", PoolError, "line 1 is not JSON"),
        ('"text"', PoolError, "line 1 is not a JSON object"),
        ('{"question": ""}', QuestionError, "line 1: the question is empty"),
        ('{"text": "hm", "scores": [1]}', QuestionError, "line 1 has none of the keys"),
        ('{"question": "q", "sores": [1]}', ScoreError, "no candidates: .*among sores; --scores-key"),
        ('{"question": "q", "scores": null}', ScoreError, "line 1 has no candidates"),
        ('{"question": "q", "scores": "0.5"}', ScoreError, "line 1: scores is '0.5'"),
        ('{"question": "q", "scores": []}', PoolError, "line 1: scores has 0 entries"),
        ('{"question": "q", "answers": []}', PoolError, "line 1: answers has 0 entries"),
        ('{"question": "q", "answers": [["4"]]}', PoolError, "line 1: answers.0: .*valid string"),
        (
            '{"question": "q", "correct": [1]}',
            ConfigError,
            "--reward-model r names who scored, but .* has no",
        ),
        ('{"question": "q", "scores": [1], "correct": [2]}', PoolError, "line 1: correct.0 is 2: .*boolean"),
        (
            '{"question": "q", "scores": [1], "correct": true}',
            PoolError,
            "line 1: correct is True; give a list",
        ),
        (
            '{"question": "q", "scores": [1], "tokens": [0.5]}',
            PoolError,
            "line 1: tokens.0 is 0.5: .*integer",
        ),
        ('{"question": "q", "scores": [1], "status": ["stop"]}', PoolError, "status.0 is 'stop': .*'cut'"),
        ('{"question": "q", "scores": [[0.5, "2"]]}', ScoreError, "scores.0.1 is '2': "),
        ('{"question": "q", "scores": [[0.5]], "step_scores": [[0.5]]}', ScoreError, "both have steps"),
        ('{"question": "q", "scores": [1], "answer": ["4", "5"]}', QuestionError, "answer is a list of 2; "),
        (
            '{"question": {"0": "q"}, "scores": {"0": 1}}',
            QuestionError,
            "question is .*, not text; .*rows",
        ),
        ('{"question": "q", "scores": [0.5, NaN]}', ScoreError, r"line 1: scores.1 is nan"),
        ('{"question": "q", "scores": [1e999]}', ScoreError, r"scores.0 is inf"),
        ('{"question": "q", "scores": [1' + "0" * 400 + "]}", ScoreError, "scores.0 is"),
        ('{"question": "q", "scores": ["0.5"]}', ScoreError, "scores.0 is '0.5'"),
        ('{"question": "q", "scores": [true]}', ScoreError, "scores.0 is True"),
        (
            '{"question": "q", "scores": [1], "correct": []}',
            PoolError,
            "correct has 0 entries, scores 1",
        ),
        ('{"question": "q", "scores": [1], "completions": ["\\ud800"]}', PoolError, "line 1 is not.*ud800"),
        ('{"question": "q", "scores": [1], "completion_tokens": [-1]}', PoolError, "completion_tokens.0"),
        ('{"question": "q", "scores": [1], "prompt_tokens": 3000000000}', PoolError, "prompt_tokens"),
        ("[" * 100_000, PoolError, "cannot be read|is not JSON"),
        ("[{}", PoolError, "is not JSON"),
        ("", PoolError, "holds no question"),
        ("[]", PoolError, "holds no question"),
    ],
)
def test_a_bad_first_line_is_named_and_nothing_is_written(tmp_path, line, error, message):
    file = tmp_path / "s.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(error, match=message):
        import_pool(ScoredFile(file), str(tmp_path / "p"), *NAMES)
    assert os.listdir(tmp_path) == ["s.jsonl"]


@pytest.mark.parametrize(
    "content", [None, gzip.compress(b"x" * 999, mtime=0)[:-9], b"\x1f\x8bno", b'{"a": "\xff"}']
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    file = tmp_path / "s.jsonl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(PoolError, match="s.jsonl cannot be read"):
        list(ScoredFile(file))


@pytest.mark.parametrize(
    ("items", "prompts", "error", "message"),
    [
        ([item("a", scores=[1])], [], PoolError, "has 1 questions, .* 0"),
        ([item("a", scores=[1])], [{"problem": "a"}, {"problem": "b"}], PoolError, "has 1 questions, .* 2"),
        (
            [item(scores=[1]), item("b", scores=[1])],
            [{"problem": "a"}, {"problem": "c"}],
            PoolError,
            "line 2 asks 'b', but position 2 of .* asks 'c'",
        ),
        ([item(scores=[1])], None, PoolError, "no problem text; .*--prompts"),
        ([item("a", last_scores=[1])], None, ScoreError, "no list 'scores' among problem, last_scores; --sc"),
        ([item("a", "b", scores=[1])], None, PoolError, "scores is for 1 questions; problem must be"),
        (
            [{"score": {"problem": ["a", "b"], "scores": [[1], ["2"]]}}],
            None,
            ScoreError,
            "line 1, question 2: scores.0 is '2'",
        ),
        (
            [item("a", scores=[1], completions=["x", "y"])],
            None,
            PoolError,
            "completions has 2 entries, scores 1",
        ),
        ([{"question": "q", "scores": [1]}], None, PoolError, "line 1 has no object 'score'"),
    ],
)
def test_prompts_and_items_that_do_not_match_are_named(tmp_path, items, prompts, error, message):
    file = write(tmp_path, *items)
    asked = None if prompts is None else write(tmp_path, *prompts, name="prompts.jsonl")
    with pytest.raises(error, match=message):
        import_pool(ScoredFile(file, format_="optscale", prompts=asked), str(tmp_path / "p"), *NAMES)


def test_scores_of_another_contract_do_not_get_in(tmp_path):
    file = write(tmp_path, *lines(2))
    import_pool(ScoredFile(file), str(tmp_path / "p"), *NAMES)
    with pytest.raises(ContractError):
        import_pool(ScoredFile(file), str(tmp_path / "p"), *NAMES, "last")


def test_the_command_makes_a_pool(tmp_path):
    file = write(tmp_path, *({"question": line["question"], "last": line["scores"]} for line in lines(3)))
    call = ["import-pool", "--format", "scores", "--input", str(file), "--pool", str(tmp_path / "p")]
    done = CliRunner().invoke(cli.app, [*call, "--scores-key", "last", "--aggregation", "last", "--json"])
    assert done.exit_code == 0, done.output
    contract = imported_contract("unknown", "unknown", "last")
    assert json.loads(done.output) == {
        "questions": 3,
        "with_reference": 0,
        "fewest_candidates": 2,
        "most_candidates": 2,
        "candidates": 6,
        "with_score": 6,
        "with_verdict": 0,
        "with_answer": 0,
        "with_tokens": 0,
        "misses": 0,
        "empty_completions": 0,
        "scale": "unit",
        "scores_outside_0_1": 0,
        "skipped": 0,
        "records": 3,
        "left_out": 0,
        "repeated": 0,
        "in_place_of_text": 0,
        "not_read": {},
        "contract": contract.fingerprint,
    }
    assert Pool.open(str(tmp_path / "p")).manifest.contract == contract
    again = CliRunner().invoke(cli.app, [*call, "--scores-key", "last", "--aggregation", "last"])
    assert ["skipped", "3"] in [line.split() for line in again.output.splitlines()]
    assert ["not", "read"] in [line.split() for line in again.output.splitlines()]
    wrong = CliRunner().invoke(cli.app, [*call, "--prompts", str(file)])
    assert isinstance(wrong.exception, ConfigError)
