"""From rows that the gateway's own code logs to a pool."""

import asyncio

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from data.contract import Sampling
from data.decision_log import SCHEMA, DecisionLog, import_log, read_log
from data.errors import PoolError
from data.feedback import Feedback, add_feedback
from data.folds import FoldSettings
from data.pool import Pool
from data.question import Question
from data.questions import write_questions
from data.scores import load_scores
from models.generator.base import Candidate
from models.reward.base import StepScores
from predictor.policies import FixedN, Schedule
from predictor.prior import Prior
from serving.best_of_n import BestOfN
from serving.draws import Ask, log_row
from tests.helpers import make_contract

CONTRACT = make_contract()
POLICY = Schedule(cap=4, start=2, target=0.5)
ASKED = [Question.ask(f"Compute {n} + 1.", answer=str(n + 1), group="sum") for n in range(6)]


class Arithmetic:
    """Answers, scores and foretells without a network; the first ``fails`` candidates have no text."""

    def __init__(self, seconds=0.0, fails=0, steps=(0.25, 0.75)):
        self.seconds, self.fails, self.steps = seconds, fails, list(steps)

    async def sample(self, question, count, seed, sampling, more, observe):
        await asyncio.sleep(self.seconds)
        right = question.answer or "7"
        found = [Candidate(f"hm\nAnswer: {right}", 10 + k, 5, "complete", seed + k) for k in range(count)]
        without, self.fails = min(self.fails, count), max(self.fails - count, 0)
        return [c._replace(text=None, status="failed") if k < without else c for k, c in enumerate(found)]

    async def fits(self, question):
        return True

    async def score(self, items, observe):
        return [StepScores(self.steps, 30) for _ in items]

    async def priors(self, questions):
        return [Prior.centred(0.5, 0.2) for _ in questions]


def write_log(
    folder,
    asks,
    text=False,
    contract=CONTRACT,
    seconds=0.0,
    rows=3,
    fails=0,
    policy=POLICY,
    steps=(0.25, 0.75),
    name="r",
):
    async def main():
        world = Arithmetic(seconds, fails, steps)
        best_of_n = BestOfN(world, world, world, contract, Prior.centred(0.5, 0.2))
        log = DecisionLog(folder, rows=rows, seconds=0.05)
        async with log.running():
            for number, (question, explore) in enumerate(asks):
                due = asyncio.get_running_loop().time() + (0.2 if seconds else 60)
                ask = Ask(question, policy, Sampling(), 0, due, explore=explore, explore_share=0.25)
                answer = await best_of_n.answer(ask)
                log.add(log_row(answer, contract, f"{name}{number}", 0.1, text))
                await asyncio.sleep(0)

    asyncio.run(main())


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


def test_old_files_are_deleted(tmp_path):
    log = DecisionLog(tmp_path, rows=1, files=3)
    world = Arithmetic()

    async def main():
        best_of_n = BestOfN(world, world, world, CONTRACT, Prior.centred(0.5, 0.2))
        async with log.running():
            for number in range(6):
                ask = Ask(ASKED[0], FixedN(cap=1), Sampling(), 0, asyncio.get_running_loop().time() + 9)
                log.add(log_row(await best_of_n.answer(ask), CONTRACT, f"r{number}", 0.1, False))

    asyncio.run(main())
    files = sorted(tmp_path.glob("*"))
    assert len(files) == 3
    assert not any(file.name.endswith(".tmp") for file in files)


def test_what_is_no_log_is_named(tmp_path):
    with pytest.raises(PoolError, match="no decision log"):
        import_log(tmp_path, str(tmp_path / "pool"))
    (tmp_path / "1-1-1.parquet").write_bytes(b"PAR1")
    with pytest.raises(PoolError, match="1-1-1.parquet cannot be read"):
        import_log(tmp_path, str(tmp_path / "pool"))


def test_a_row_that_cannot_be_written_costs_no_other_and_what_is_not_ours_stays(tmp_path):
    (tmp_path / "merged.parquet").write_bytes(b"of somebody else")
    lost = []
    log = DecisionLog(tmp_path, rows=1, files=3, seconds=0.01, lost=lost.append)
    world = Arithmetic()

    async def main():
        best_of_n = BestOfN(world, world, world, CONTRACT, Prior.centred(0.5, 0.2))
        async with log.running():
            for number in range(7):
                ask = Ask(ASKED[0], FixedN(cap=1), Sampling(), 0, asyncio.get_running_loop().time() + 9)
                row = log_row(await best_of_n.answer(ask), CONTRACT, f"r{number}", 0.1, False)
                row["seen"] = 2**70 if number == 2 else row["seen"]
                log.add(row)
                await asyncio.sleep(0.1)

    asyncio.run(main())
    kept = sorted(file for file in tmp_path.iterdir() if file.name != "merged.parquet")
    assert lost == [1]  # and the metric says so
    assert [pq.read_table(file)["request_id"].to_pylist() for file in kept] == [["r4"], ["r5"], ["r6"]]
    assert (tmp_path / "merged.parquet").read_bytes() == b"of somebody else"


def test_a_log_of_version_1_is_read(tmp_path):
    """Its candidates have neither raw scores nor answers of their own."""
    write_log(tmp_path / "log", [(q, True) for q in ASKED], text=True)
    fields = list(SCHEMA.field("candidates").type.value_type)
    kept = pa.list_(pa.struct([field for field in fields if field.name not in ("raw_score", "answer_key")]))
    before = SCHEMA.set(SCHEMA.get_field_index("candidates"), pa.field("candidates", kept, nullable=False))
    for file in (tmp_path / "log").iterdir():
        old = pa.Table.from_pylist(pq.read_table(file).to_pylist(), before)
        pq.write_table(old.replace_schema_metadata({"version": "1"}), file)
    found = import_log(tmp_path / "log", str(tmp_path / "pool"))
    assert found["questions"] == len(ASKED)
    rows = list(Pool.open(str(tmp_path / "pool")).rows())
    assert {(row["raw_score"], row["answer_key"], row["score"]) for row in rows} == {(None, None, 0.25)}
