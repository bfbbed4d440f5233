"""From the decision log to the pool.

What was drawn to the full cap goes there, and nothing else: where the policy stopped early the scores are
censored, for the easy questions show few of them. Replay and certificates need questions that were drawn to
the cap whatever their scores were, so only what the gateway explored is taken: a share at random, with
the probability of that choice, and all that a policy drew which always draws its cap.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from data.answer_function import AnswerFunction, load_answer_function
from data.answers import answer_digest, answer_key, key_of
from data.contract import ScoreContract
from data.decision_log import AS_IN_POOL, FAILED, read_log
from data.errors import ContractError, PoolError
from data.feedback import Feedback, read_feedback
from data.pool import Pool
from data.question import Question
from data.rows import Row, make_row
from data.validation import parse

_DIGEST = re.compile("#[0-9a-f]{16}")


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
    """Rows that were drawn to the full cap whatever was seen; the others are counted."""
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
            **{name: found.get(name) for name in AS_IN_POOL}
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
