"""Pools from scores that are on disk already: lines of scores, or files as the paper's authors release them.

A question is checked whole before it is kept and a part is written whole, so an import that was killed,
or stopped at a bad line, goes on where it was when it is run again.
"""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from data.answers import is_correct
from data.pool import Pool, Row, make_row
from data.questions import parse_question
from predictor.contract import Sampling, ScoreContract
from predictor.errors import PoolError, ScoreError
from predictor.question import Question, normalise
from predictor.settings import Settings

PART_QUESTIONS = 256
PART_CHARACTERS = 50_000_000
Tokens = Annotated[int, Field(ge=0, lt=2**31)]


class Scored(Settings):
    """Candidates of one question; a list that is not known is None."""

    model_config = ConfigDict(strict=True)

    scores: list[Annotated[float, Field(ge=0, le=1)] | None] = Field(min_length=1)
    completions: list[str | None] | None = None
    completion_tokens: list[Tokens] | None = None
    reward_tokens: list[Tokens] | None = None
    correct: list[bool | None] | None = None
    prompt_tokens: Tokens = 0

    @model_validator(mode="after")
    def _equally_long(self) -> Self:
        for name in ("completions", "completion_tokens", "reward_tokens", "correct"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.scores):
                raise ValueError(f"{len(self.scores)} scores, but {name} has {len(values)} entries")
        return self


Entry = tuple[Question, Scored]


def imported_contract(generator: str, reward_model: str, aggregation: str) -> ScoreContract:
    """The contract of scores of which no more than these names is known."""
    names = {"generator": generator, "reward_model": reward_model, "aggregation": aggregation}
    unknown = ("generator_revision", "reward_revision", "prompt_template", "markup")
    fields = names | dict.fromkeys(unknown, "imported")
    return ScoreContract.model_validate({**fields, "sampling": Sampling()})


def import_pool(entries: Iterable[Entry], location: str, contract: ScoreContract) -> dict[str, Any]:
    """Add the questions that the pool does not hold yet, part by part; starts the pool if there is none.

    Returns what was added, the questions ``skipped`` (the pool held them) and ``repeated`` (the first of
    them counts), and whether tokens, answers and correctness are known for every question read.

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
    pool = Pool.create(location, contract)
    held, count, seen = pool.question_ids, Counter[str](), set[str]()
    part: list[Entry] = []
    size = 0
    for question, found in chain([first], entries):
        judged = question.answer is not None and found.completions is not None
        count["no tokens"] += found.completion_tokens is None
        count["no answer"] += question.answer is None
        count["no correct"] += found.correct is None and not judged
        fate = "repeated" if question.id in seen else "skipped" if question.id in held else "questions"
        count[fate] += 1
        seen.add(question.id)
        if fate == "questions":
            count["candidates"] += len(found.scores)
            part.append((question, found))
            size += sum(len(text or "") for text in found.completions or ())
        if len(part) == PART_QUESTIONS or size > PART_CHARACTERS:
            pool.append([row for entry in part for row in _rows(*entry, contract)])
            part, size = [], 0
    if part:
        pool.append([row for entry in part for row in _rows(*entry, contract)])
    return {
        **{name: count[name] for name in ("questions", "candidates", "skipped", "repeated")},
        **{f"{what}_known": not count[f"no {what}"] for what in ("tokens", "answer", "correct")},
        "contract": contract.fingerprint,
    }


def read_scores(file: Path, key: str = "scores") -> Iterator[Entry]:
    """Lines that are a question and have the scores of its candidates under ``key``.

    Raises
    ------
    PoolError, QuestionError, ScoreError
        If the file cannot be read or a line is bad; names the file and the line.
    """
    for where, record in _records(file):
        yield _question(record, where, file), _scored(record, key, where)


def read_optscale(file: Path, prompts: Path | None = None, key: str = "scores") -> Iterator[Entry]:
    """Items as the paper's authors release them; their prompts are another file in the same order.

    Their files are one list, which is read as a whole.

    Raises
    ------
    PoolError, QuestionError, ScoreError
        If a file cannot be read, an item is bad, or prompts and items do not match; says where.
    """
    items = [found for where, item in _records(file) for found in _split_item(item, key, where)]
    asked = [_question(record, where, prompts) for where, record in _records(prompts)] if prompts else None
    if asked is not None and len(asked) != len(items):
        raise PoolError(f"{file} has {len(items)} questions, {prompts} {len(asked)}; give its own prompts")
    for place, (where, found) in enumerate(items):
        text = found.get("problem")
        if asked is None and text is None:
            raise PoolError(f"{where} has no problem text; give the questions with --prompts")
        question = asked[place] if asked else _question({"problem": text}, where, file)
        if text is not None and normalise(str(text)) != normalise(question.text):
            raise PoolError(
                f"{where} asks {str(text)[:60]!r}, but position {place + 1} of {prompts} asks "
                f"{question.text[:60]!r}; give prompts in the order of the items"
            )
        yield question, _scored(found, key, where)


def _split_item(item: dict[str, Any], key: str, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """One record a question: each list of an item has an entry for each of its questions, mostly one."""
    score = item.get("score")
    if not isinstance(score, dict):
        raise PoolError(f"{where} has no object 'score'; is it of --format scores?")
    width = len(_require_list(score, key, where))
    names = [n for n in ("problem", key, "completions", "completion_tokens") if score.get(n) is not None]
    for name in names:
        if not isinstance(score[name], list) or len(score[name]) != width:
            raise PoolError(f"{where}: {key} is for {width} questions; {name} must be a list of as many")
    for place in range(width):
        yield where, {name: score[name][place] for name in names}


def _rows(question: Question, found: Scored, contract: ScoreContract) -> Iterator[Row]:
    zeros = [0] * len(found.scores)
    texts = found.completions or [None] * len(found.scores)
    right = found.correct or [None if t is None else is_correct(t, question.answer) for t in texts]
    columns = (found.scores, texts, right, found.completion_tokens or zeros, found.reward_tokens or zeros)
    for number, (score, text, correct, tokens, read) in enumerate(zip(*columns, strict=True)):
        if text is not None and not text.strip():
            score = None  # as in a collection, where an empty completion is a miss
        yield make_row(
            question,
            contract,
            candidate=number,
            round=0,
            completion=text,
            completion_tokens=tokens,
            prompt_tokens=found.prompt_tokens,
            status="failed" if score is None else "complete",
            score=None if score is None else round(score, contract.decimals),
            correct=correct,
            reward_tokens=read,
            seed=-1,
        )


def _question(record: dict[str, Any], where: str, file: Path) -> Question:
    kinds = [str(record[k]) for k in ("group", "subject", "level") if record.get(k) is not None]
    known = {**record, "group": kinds[0] if kinds else None}
    return parse_question(known, where, default_source=file.name.split(".")[0])


def _scored(record: dict[str, Any], key: str, where: str) -> Scored:
    values = {name: record[name] for name in Scored.model_fields if record.get(name) is not None}
    try:
        return Scored.model_validate({**values, "scores": _require_list(record, key, where)})
    except ValidationError as error:
        first = error.errors()[0]
        name, *inner = first["loc"] or [""]
        if name == "scores":
            place = ".".join(str(part) for part in (key, *inner))
            raise ScoreError(
                f"{where}: {place} is {first['input']!r:.40}: {first['msg']}; scores lie in [0, 1], and a "
                "candidate without one has null"
            ) from error
        place = ".".join(str(part) for part in first["loc"]) or "candidates"
        raise PoolError(f"{where}: {place}: {first['msg']}; each list has one entry a candidate") from error


def _require_list(record: dict[str, Any], key: str, where: str) -> list[Any]:
    if not isinstance(record.get(key), list):
        raise ScoreError(f"{where}: no list {key!r} among {', '.join(record)}; --scores-key names the scores")
    return list(record[key])


def _records(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects of JSON lines (line by line) or of one JSON list, plain or gzipped, each with its place."""
    where = str(file)
    try:
        with file.open("rb") as raw:
            opener = gzip.open if raw.read(2) == b"\x1f\x8b" else open
        with opener(file, "rt", encoding="utf-8-sig") as stream:
            while (mark := stream.read(1)).isspace():
                pass
            stream.seek(0)
            values, unit = (json.load(stream), "item") if mark == "[" else (stream, "line")
            for number, value in enumerate(values, start=1):
                where = f"{file}, {unit} {number}"
                if unit == "line" and not value.strip():
                    continue
                record = value if unit == "item" else json.loads(value)
                if not isinstance(record, dict):
                    raise PoolError(f"{where} is not a JSON object")
                json.dumps(record, ensure_ascii=False).encode()  # an escape of half a character is no text
                yield where, record
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, RecursionError) as error:
        raise PoolError(f"{file} cannot be read: {error}") from error
    except ValueError as error:
        raise PoolError(f"{where} is not JSON: {error}; give a JSON object a line, or one list") from error
