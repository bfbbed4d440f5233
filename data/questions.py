"""Question sets: ``{"question": …, "answer": …, "group": …}`` or ``{"messages": […]}``, a record each."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from data.errors import QuestionError
from data.question import Question, require_distinct
from data.records import JsonObject, read_records, source_of
from data.validation import explain

TEXT_KEYS = ("question", "problem", "prompt")
GROUP_KEYS = ("group", "subject", "level")


def read_questions(path: str | Path) -> list[Question]:
    """Read a question set, in any form that `data.records` reads.

    Raises
    ------
    QuestionError
        If the file is missing, a record is not a question, or two of them are the same one; names the
        file and the place.
    """
    file = Path(path)
    found = [
        parse_question(record, where, default_source=source_of(file))
        for where, record in read_records(file, QuestionError)
    ]
    if not found:
        raise QuestionError(f"questions {file}: the file holds no question")
    return require_distinct(found, str(file))


def parse_question(record: JsonObject, where: str, default_source: str) -> Question:
    """One question from its record.

    Raises
    ------
    QuestionError
        If it has no text, an unknown form, or a value of the wrong type; says where.
    """
    texts = [key for key in TEXT_KEYS if key in record]
    messages = record.get("messages")
    if not messages and not texts:
        raise QuestionError(f"{where} has none of the keys messages, {', '.join(TEXT_KEYS)}")
    if not messages:
        text = record[texts[0]]
        if not isinstance(text, str):
            raise QuestionError(
                f"{where}: {texts[0]} is {text!r:.40}, not text; of a data frame give rows: "
                "to_json(orient='records', lines=True) or to_parquet"
            )
        messages = [{"role": "user", "content": text}]
    answer = _text(record, "answer", where)
    if answer is not None:
        # GSM8K's answer is a worked solution; what a completion is compared with is behind its mark.
        answer = answer.rpartition("####")[2].strip() or None
    source = _text(record, "source", where)
    groups = (_text(record, key, where) for key in GROUP_KEYS)
    try:
        return Question(
            messages=messages,
            answer=answer,
            source=default_source if source is None else source,
            group=next((group for group in groups if group is not None), None),
        )
    except ValidationError as error:
        raise QuestionError(f"{where}: {explain(error.errors(), Question) or 'no question'}") from error


def keys_read(record: JsonObject) -> set[str]:
    """Those keys of a record that `parse_question` takes something from."""
    texts = ["messages"] if record.get("messages") else [key for key in TEXT_KEYS if key in record][:1]
    groups = [key for key in GROUP_KEYS if record.get(key) is not None][:1]
    return {*texts, *groups, "answer", "source"}


def _text(record: JsonObject, key: str, where: str) -> str | None:
    """A value as text; None where it is null or NaN, a gap in a data frame. A list of one answer is that."""
    value: Any = record.get(key)
    while key == "answer" and isinstance(value, list) and len(value) <= 1:
        value = value[0] if value else None
    match value:
        case None | str():
            return value
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case float() if math.isnan(value):
            return None
        case float() if math.isfinite(value):
            return str(int(value)) if value.is_integer() and abs(value) < 2**53 else str(value)
    what = f"a list of {len(value)}" if isinstance(value, list) else f"{value!r:.40}"
    hint = "one reference is what completions are compared with" if key == "answer" else "it names one set"
    raise QuestionError(f"{where}: {key} is {what}; give one text or number, or null: {hint}")


def write_questions(questions: Iterable[Question], path: str | Path) -> None:
    """Write a question set that `read_questions` reads."""
    with Path(path).open("w", encoding="utf-8") as stream:
        for question in questions:
            turns = question.as_chat()
            plain = len(turns) == 1 and turns[0]["role"] == "user"
            record = {
                **({"question": question.text} if plain else {"messages": turns}),
                "answer": question.answer,
                "source": question.source,
                "group": question.group,
            }
            stream.write(json.dumps({k: v for k, v in record.items() if v is not None}) + "\n")
