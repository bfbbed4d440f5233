"""Pools from scores that are on disk already.

A question is checked whole before it is kept and a part is written whole, so an import that was killed,
or stopped at a bad line, goes on where it was when it is run again.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from data.answers import is_correct
from data.contract import Sampling, ScoreContract
from data.errors import PoolError, ScoreError
from data.pool import Pool, Row, make_row
from data.scored import Entry

PART_QUESTIONS = 256
PART_CHARACTERS = 50_000_000
NEAR = 0.01
"""By how much a score may differ from what its step scores give: it may have been rounded."""


def imported_contract(generator: str, reward_model: str, aggregation: str) -> ScoreContract:
    """The contract of scores of which no more than these names is known."""
    names = {"generator": generator, "reward_model": reward_model, "aggregation": aggregation}
    unknown = ("generator_revision", "reward_revision", "prompt_template", "markup")
    fields = names | dict.fromkeys(unknown, "imported")
    return ScoreContract.model_validate({**fields, "sampling": Sampling()})


def import_pool(entries: Iterable[Entry], location: str, contract: ScoreContract) -> dict[str, Any]:
    """Add the questions that the pool does not hold yet, part by part; starts the pool if there is none.

    Returns what was added: ``questions`` and their ``candidates``; of these how many are ``without_score``,
    how many are ``misses`` (those, and the ones that are not complete), and how many have
    ``empty_completions``; how many records were ``one_candidate`` each; the questions ``skipped`` (the pool
    held them) and ``repeated`` (the same once more); whether tokens, answers and correctness are known for
    every question read; and ``not_read``, the keys that nothing was taken from, with their records' number.

    Raises
    ------
    PoolError, QuestionError, ScoreError
        If an entry is bad; if the first one is, nothing is written.
    ContractError
        If the pool there has another contract.
    """
    entries = iter(entries)
    if (first := next(entries, None)) is None:
        raise PoolError("the file to import holds no question")
    _scores(first, contract)
    pool = Pool.create(location, contract)
    held, count, unread = pool.question_ids, Counter[str](), Counter[str]()
    seen: dict[str, tuple[bytes, str]] = {}
    part: list[Row] = []
    size = 0
    for entry in chain([first], entries):
        question, found = entry.question, entry.found
        unread.update(entry.unread)
        count["no tokens"] += found.completion_tokens is None
        count["no answer"] += question.answer is None
        count["no correct"] += not _judged(entry)
        if _is_new(entry, seen, count, held):
            rows = list(_rows(entry, contract))
            part += rows
            count["questions"] += 1
            count["candidates"] += len(rows)
            count["without_score"] += sum(row["score"] is None for row in rows)
            count["misses"] += sum(row["status"] != "complete" for row in rows)
            texts = [row["completion"] for row in rows if row["completion"] is not None]
            count["empty_completions"] += sum(not text.strip() for text in texts)
            count["one_candidate"] += entry.records if entry.single else 0
            count["in part"] += 1
            size += sum(map(len, texts))
        if count["in part"] == PART_QUESTIONS or size > PART_CHARACTERS:
            pool.append(part)
            part, size, count["in part"] = [], 0, 0
    if part:
        pool.append(part)
    added = ("questions", "candidates", "without_score", "misses", "empty_completions", "one_candidate")
    return {
        **{name: count[name] for name in (*added, "skipped", "repeated")},
        **{f"{what}_known": not count[f"no {what}"] for what in ("tokens", "answer", "correct")},
        "not_read": dict(sorted(unread.items())),
        "contract": contract.fingerprint,
    }


def _is_new(entry: Entry, seen: dict[str, tuple[bytes, str]], count: Counter[str], held: set[str]) -> bool:
    """Whether an entry goes in; where not, it is counted with the fate it has."""
    name = entry.question.id
    document = entry.question.model_dump_json() + entry.found.model_dump_json()
    digest = hashlib.sha256(document.encode()).digest()
    if name in seen:
        known, first = seen[name]
        if known != digest:
            raise PoolError(
                f"{entry.where} asks the question of {first} again, with other candidates or another answer: "
                "give all candidates of a question in one record, or a record each"
            )
        count["repeated"] += 1
        return False
    seen[name] = (digest, entry.where)
    count["skipped"] += name in held
    return name not in held


def _judged(entry: Entry) -> bool:
    """Whether of each candidate it is known, or can be told, whether it is right."""
    found, unknown = entry.found, [None] * len(entry.found)
    pairs = zip(found.correct or unknown, found.completions or unknown, strict=True)
    answered = entry.question.answer is not None
    return all(right is not None or (answered and text is not None) for right, text in pairs)


def _scores(entry: Entry, contract: ScoreContract) -> list[float | None]:
    """One score a candidate, rounded.

    Raises
    ------
    ScoreError
        If they are to come of step scores by a rule that is not known, or differ from what those give.
    """
    given, steps, key = entry.found.scores, entry.found.step_scores, contract.aggregation
    if steps is not None and key != "given":
        told = [None if found is None else contract.score(found) for found in steps]
        if given is None:
            return told
        for number, (one, other) in enumerate(zip(given, told, strict=True)):
            if one is not None and other is not None and abs(one - other) > NEAR:
                raise ScoreError(
                    f"{entry.where}: score {number} is {one:g}, but the {key} of its step scores {other:g}; "
                    "name what made the scores with --aggregation, or given for another rule"
                )
    if given is None:
        raise ScoreError(
            f"{entry.where}: there are step scores alone; name what makes a score of them with --aggregation"
        )
    return [None if score is None else round(score, contract.decimals) for score in given]


def _rows(entry: Entry, contract: ScoreContract) -> Iterator[Row]:
    found, question = entry.found, entry.question
    unknown, zeros = [None] * len(found), [0] * len(found)
    columns = zip(
        _scores(entry, contract),
        found.step_scores or unknown,
        found.completions or unknown,
        found.correct or unknown,
        found.status or unknown,
        found.completion_tokens or zeros,
        found.reward_tokens or zeros,
        strict=True,
    )
    for number, (score, steps, text, right, status, tokens, read) in enumerate(columns):
        if right is None and text is not None:
            right = is_correct(text, question.answer)
        if score is None and status in (None, "complete"):
            status = "failed"
        yield make_row(
            question,
            contract,
            candidate=number,
            round=0,
            completion=text,
            completion_tokens=tokens,
            prompt_tokens=found.prompt_tokens,
            status=status or "complete",
            step_scores=steps,
            score=score,
            correct=right,
            reward_tokens=read,
            seed=-1,
        )
