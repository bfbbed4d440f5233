"""From the gateway's decision log to the pool: what was drawn to the full cap, and nothing else.

Where the policy stopped early the scores are censored: the easy questions show few of them. Replay and
certificates need questions that were drawn to the cap whatever their scores were, so only the share that
the gateway explored at random is taken, with the probability of that choice.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from data.answers import is_correct
from data.pool import Pool, Row, make_row, read_parquet
from data.questions import read_questions
from predictor.contract import ScoreContract
from predictor.errors import ContractError, PoolError
from predictor.question import Message, Question
from predictor.validation import explain

VERSION = b"1"
PART_QUESTIONS = 256


def import_log(folder: Path, location: str, questions: Path | None = None) -> dict[str, Any]:
    """Add the explored questions of a log to the pool; starts the pool if there is none.

    Parameters
    ----------
    folder : the log's folder.
    location : the pool, a path or URI.
    questions : texts (and answers) of the questions, for a log without text; they are found by their ids.

    Returns what was added and what was left out: ``censored`` (not explored), ``incomplete`` (explored, but
    a deadline or a fault came in between), ``other_contract``, ``without_text``, ``held`` (the pool has it
    already, or an earlier row).

    Raises
    ------
    PoolError, QuestionError
        If a file cannot be read, or there is nothing to start a pool with.
    """
    texts = {question.id: question for question in read_questions(questions)} if questions else {}
    count: Counter[str] = Counter()
    pool: Pool | None = None
    held: set[str] = set()
    part: list[list[Row]] = []
    for row in _rows(folder):
        if (fate := _fate(row)) is not None:
            count[fate] += 1
            continue
        contract = _contract(row, folder)
        if pool is None:
            pool = _open_or_create(location, contract)
            held = pool.question_ids
        question = texts.get(row["question_id"]) or _question(row)
        if contract.fingerprint != pool.manifest.contract.fingerprint:
            count["other_contract"] += 1
        elif question is None:
            count["without_text"] += 1
        elif row["question_id"] in held:
            count["held"] += 1
        else:
            held.add(row["question_id"])
            part.append(_candidates(row, question, contract))
            count["questions"] += 1
            count["candidates"] += len(part[-1])
        if len(part) == PART_QUESTIONS:
            pool.append([candidate for rows in part for candidate in rows])
            part = []
    if pool is not None and part:
        pool.append([candidate for rows in part for candidate in rows])
    names = ("questions", "candidates", "censored", "incomplete", "other_contract", "without_text", "held")
    return {name: count[name] for name in names}


def _open_or_create(location: str, contract: ScoreContract) -> Pool:
    try:
        return Pool.create(location, contract)
    except ContractError:  # the first row is of another contract than the pool; others may not be
        return Pool.open(location)


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise PoolError(f"{folder} holds no decision log (*.parquet); is it the gateway's log.folder?")
    for file in files:
        try:
            table = read_parquet(file.read_bytes())
        except (OSError, pa.ArrowException) as error:
            raise PoolError(f"{file} cannot be read: {error}") from error
        version = (table.schema.metadata or {}).get(b"version")
        if version != VERSION:
            raise PoolError(f"{file} is no decision log of version {VERSION.decode()}, but {version!r}")
        yield from table.to_pylist()


def _fate(row: dict[str, Any]) -> str | None:
    """Why a row is left out; None where it is not."""
    if not row["explored"]:
        return "censored"
    whole = len(row["candidates"]) == json.loads(row["policy"])["cap"]
    return None if whole and row["ended"] == "decided" and not row["degraded"] else "incomplete"


def _contract(row: dict[str, Any], folder: Path) -> ScoreContract:
    try:
        return ScoreContract.model_validate_json(row["contract"])
    except ValidationError as error:
        raise PoolError(
            f"{folder}, request {row['request_id']}: {explain(error.errors(), ScoreContract, 'contract')}"
        ) from error


def _question(row: dict[str, Any]) -> Question | None:
    if not row["messages"]:
        return None
    return Question(messages=tuple(Message(**turn) for turn in row["messages"]), source="log")


def _candidates(row: dict[str, Any], question: Question, contract: ScoreContract) -> list[Row]:
    # Without text none can be judged; with it a candidate that has none is wrong, as in a collection.
    answer = question.answer if row["messages"] else None
    return [
        make_row(
            question,
            contract,
            candidate=number,
            round=found["round"],
            completion=found["completion"],
            completion_tokens=found["tokens"],
            prompt_tokens=found["prompt_tokens"],
            status=found["status"],
            step_scores=found["step_scores"],
            score=found["score"],
            correct=is_correct(found["completion"], answer),
            reward_tokens=found["reward_tokens"],
            seed=found["seed"],
            inclusion_probability=row["inclusion_probability"],
            time=row["time"],
        )
        for number, found in enumerate(row["candidates"])
    ]
