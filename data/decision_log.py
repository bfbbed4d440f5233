"""The decision log: what was believed, drawn and decided, one row a request, in rotated Parquet files.

The gateway writes it. To the pool goes what was drawn to the full cap, and nothing else: where the policy
stopped early the scores are censored, for the easy questions show few of them. Replay and certificates need
questions that were drawn to the cap whatever their scores were, so only the share that the gateway explored
at random is taken, with the probability of that choice.
"""

import asyncio
import contextlib
import json
import logging
import os
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from data.answer_function import AnswerFunction, load_answer_function
from data.answers import answer_digest, answer_key, key_of
from data.contract import ScoreContract
from data.errors import ContractError, PoolError, as_fault
from data.feedback import Feedback, read_feedback
from data.files import parquet_bytes, read_parquet, write_whole
from data.pool import Pool
from data.question import Question
from data.rows import MESSAGES, TIME, Row, make_row
from data.rows import SCHEMA as POOL_SCHEMA
from data.validation import parse

logger = logging.getLogger("optscale.log")
VERSION = b"2"
FAILED = "the generator failed on some candidates"
"""How the ``degraded`` of a row begins that has candidates without an answer."""
_OURS = re.compile(r"(\d+)-\d+-\d+\.parquet")  # what else lies in the folder is not ours to delete
_DIGEST = re.compile("#[0-9a-f]{16}")
_AS_IN_POOL = (
    *("round", "status", "score", "step_scores", "prompt_tokens", "reward_tokens", "seed", "completion"),
    *("raw_score", "answer_key"),  # since version 2
)
_CANDIDATE = pa.struct(
    [
        *((name, POOL_SCHEMA.field(name).type) for name in _AS_IN_POOL),
        ("tokens", pa.int32()),
        ("seconds", pa.float64()),
    ]
)
_TEXTS = ("request_id", "question_id", "contract", "policy", "prior", "action", "reason", "ended")
SCHEMA = pa.schema(
    [
        pa.field("time", TIME, nullable=False),
        *(pa.field(name, pa.string(), nullable=False) for name in _TEXTS),
        pa.field("messages", MESSAGES),
        pa.field("degraded", pa.list_(pa.string()), nullable=False),
        *(pa.field(name, pa.int32(), nullable=False) for name in ("seen", "rounds")),
        *(pa.field(name, pa.int32()) for name in ("chosen", "votes")),
        *(pa.field(name, pa.string()) for name in ("selection", "model_version", "promise")),
        pa.field("explored", pa.bool_(), nullable=False),
        pa.field("inclusion_probability", pa.float64(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("candidates", pa.list_(_CANDIDATE), nullable=False),
    ]
)


@dataclass(eq=False)
class DecisionLog:
    """Gathers rows and writes them, off the event loop; a disk that is full costs rows, not answers.

    A file has at most ``rows`` rows and is written after ``seconds`` however few it has; ``files`` are kept,
    the newest, and none for longer than ``days``. Each is written aside and renamed, so it is whole or not
    there. ``lost`` is told how many rows could not be written.
    """

    folder: Path
    rows: int = 1000
    seconds: float = 60.0
    files: int = 10_000
    days: float | None = None
    lost: Callable[[int], object] = lambda rows: None
    _queue: asyncio.Queue[dict[str, Any] | None] = field(init=False, default_factory=asyncio.Queue)
    _written: int = field(init=False, default=0)

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row for the next file."""
        self._queue.put_nowait(row)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write in the background until the block ends, and then what is left."""
        writer = asyncio.create_task(self._write_on())
        try:
            yield
        finally:
            # Told, not cancelled: a file whose writing waits for a thread would be lost.
            self._queue.put_nowait(None)
            await writer

    async def _write_on(self) -> None:
        going = True
        while going:
            rows = list[dict[str, Any]]()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.seconds):
                    while going and len(rows) < self.rows:
                        row = await self._queue.get()
                        going = row is not None
                        rows += [row] if row else []
            if rows:
                try:
                    await asyncio.to_thread(self._write, rows)
                except Exception:  # whatever it is, it costs these rows and not those to come
                    self.lost(len(rows))
                    logger.exception("%d decisions could not be logged to %s", len(rows), self.folder)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._written += 1
        name = f"{time.time_ns()}-{os.getpid()}-{self._written}.parquet"
        table = pa.Table.from_pylist(rows, schema=SCHEMA).replace_schema_metadata({"version": VERSION})
        try:
            write_whole(self.folder / name, parquet_bytes(table))
        finally:
            pa.default_memory_pool().release_unused()  # or each thread that ever wrote keeps its share
        ours = [(when, file) for file in self.folder.iterdir() if (when := written(file)) is not None]
        aged = 0 if self.days is None else time.time_ns() - self.days * 86_400e9
        for place, (when, file) in enumerate(sorted(ours, reverse=True)):
            if place >= self.files or when < aged:
                file.unlink(missing_ok=True)


def import_log(
    folder: Path, location: str, questions: Iterable[Question] = (), answers: str | None = None
) -> dict[str, int]:
    """Add a log's explored questions to the pool, with what people said of them; starts it if there is none.

    Parameters
    ----------
    folder : the log's folder, where all its writers write.
    location : the pool, a path or URI.
    questions : texts (and answers) of the questions, for a log without text; they are found by their ids.
    answers : the function that reads and judges answers, where that is a user's; see `load_answer_function`.

    Returns what was added and what was left out: ``censored`` (not explored), ``incomplete`` (explored, but
    a deadline or a fault came in between), ``other_contract``, ``without_text``, ``held`` (the pool has it
    already, or an earlier row).

    Raises
    ------
    PoolError, QuestionError
        If a file cannot be read, or there is nothing to start a pool with.
    """
    texts, told = {question.id: question for question in questions}, read_feedback(folder)
    read = None if answers is None else load_answer_function(answers)
    names = ("questions", "candidates", "censored", "incomplete", "other_contract", "without_text", "held")
    count = Counter[str](dict.fromkeys(names, 0))

    def new_rows(explored: Iterable[dict[str, Any]], pool: Pool) -> Iterator[list[Row]]:
        """Rows of each question that the pool does not hold; others are counted by why they stay outside."""
        held = pool.question_ids
        for row in explored:
            contract = contract_of(row, folder)
            question = texts.get(row["question_id"]) or question_of(row)
            if contract.fingerprint != pool.manifest.contract.fingerprint:
                count["other_contract"] += 1
            elif question is None:
                count["without_text"] += 1
            elif row["question_id"] in held:
                count["held"] += 1
            else:
                held.add(row["question_id"])
                candidates = pool_rows(row, question, contract, told.get(row["request_id"]), read)
                count["questions"] += 1
                count["candidates"] += len(candidates)
                yield candidates

    explored = _explored(folder, count)
    if first := next(explored, None):
        pool = _open_or_create(location, contract_of(first, folder))
        pool.extend(new_rows(chain([first], explored), pool))
    return dict(count)


def _explored(folder: Path, count: Counter[str]) -> Iterator[dict[str, Any]]:
    """Rows that were drawn to the full cap by a random choice; the others are counted."""
    for row in read_log(folder):
        if why := fate(row):
            count[why] += 1
        else:
            yield row


def _open_or_create(location: str, contract: ScoreContract) -> Pool:
    try:
        return Pool.create(location, contract)
    except ContractError:  # the first row is of another contract than the pool; others may not be
        return Pool.open(location)


def read_log(folder: Path) -> Iterator[dict[str, Any]]:
    """Every row of a log, file by file.

    Raises
    ------
    PoolError
        If there is none, or a file cannot be read.
    """
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise PoolError(f"{folder} holds no decision log (*.parquet); is it the gateway's log.folder?")
    for file in files:
        yield from read_rows(file)


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of one file of a log; raises PoolError where it cannot be read."""
    with as_fault(PoolError, f"{file} cannot be read", OSError, pa.ArrowException):
        table = read_parquet(file.read_bytes())
    version = (table.schema.metadata or {}).get(b"version")
    if version not in (b"1", VERSION):
        raise PoolError(f"{file} is no decision log of a version up to {VERSION.decode()}, but {version!r}")
    return table.to_pylist()


def written(file: Path) -> int | None:
    """When a file of a log was written, in nanoseconds since 1970; None where it is no file of a log."""
    found = _OURS.fullmatch(file.name)
    return found and int(found[1])


def fate(row: dict[str, Any]) -> str | None:
    """Why a row is left out; None where it is not."""
    if not row["explored"]:
        return "censored"
    whole = len(row["candidates"]) == json.loads(row["policy"])["cap"] and row["ended"] == "decided"
    # A candidate that failed is a miss, as in a collection: without its question the easy ones would remain.
    return None if whole and all(why.startswith(FAILED) for why in row["degraded"]) else "incomplete"


def contract_of(row: dict[str, Any], folder: Path) -> ScoreContract:
    """The contract of a row of the log; raises PoolError where it is none of this release."""
    what = f"{folder}, request {row['request_id']}"
    return parse(row["contract"], ScoreContract, PoolError, what, "contract")


def question_of(row: dict[str, Any]) -> Question | None:
    """The question of a row of the log, where its text was kept."""
    if not row["messages"]:
        return None
    return Question(messages=row["messages"], source="log")


def pool_rows(
    row: dict[str, Any],
    question: Question,
    contract: ScoreContract,
    told: Feedback | None = None,
    read: AnswerFunction | None = None,
) -> list[Row]:
    """The candidates of a row of the log as rows of a pool, judged by the answer that is known or told."""
    if told is not None and told.answer:
        question = question.model_copy(update={"answer": told.answer})
    return [
        make_row(
            question,
            contract,
            **{name: found.get(name) for name in _AS_IN_POOL}
            # A raw pool keeps no score that a policy mapped.
            | ({"score": None} if contract.scale == "raw" else {}),
            candidate=number,
            completion_tokens=found["tokens"],
            correct=_correct(found, row, question, told, read),
            inclusion_probability=row["inclusion_probability"],
            time=row["time"],
        )
        for number, found in enumerate(row["candidates"])
    ]


def _correct(
    found: dict[str, Any],
    row: dict[str, Any],
    question: Question,
    told: Feedback | None,
    read: AnswerFunction | None,
) -> bool | None:
    """Whether a candidate is right by the known answer, else as far as the delivered one's verdict tells."""
    text = found["completion"]
    key = key_of(found.get("answer_key"), text)
    if read is not None:
        if text is not None and (correct := read(text, question).correct) is not None:
            return correct
    elif question.answer is not None:
        expected = answer_key(question.answer) or ""
        if not row["messages"]:  # keys are digests; names, in logs of before, tell nothing
            kept = [key_of(c.get("answer_key"), c["completion"]) for c in row["candidates"]]
            if not any(map(_DIGEST.fullmatch, filter(None, kept))):
                return None
            expected = answer_digest(row["question_id"], expected)
        return key == expected
    if told is None or told.verdict == "unsure" or row["chosen"] is None:
        return None
    chosen = row["candidates"][row["chosen"]]
    same = key is not None and key == key_of(chosen.get("answer_key"), chosen["completion"])
    return same if told.verdict == "right" else False if same else None
