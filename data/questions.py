"""Question sets: ``{"question": …, "answer": …, "group": …}`` or ``{"messages": […]}``, a record each."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data.errors import QuestionError
from data.question import Question, require_distinct
from data.read_file import JsonObject, read_records, source_of
from data.validation import parse

TEXT_KEYS = ("question", "problem", "prompt")
GROUP_KEYS = ("group", "subject", "level")
ID_KEYS = ("id", "question_id", "unique_id", "task_id", "index")


def read_questions(path: str | Path) -> list[Question]:
    """Read a question set, in any form that `data.read_file` reads.

    Raises
    ------
    QuestionError
        If the file is missing, a record is not a question, or two of them are the same one; names the
        file and the place.
    """
    file = Path(path)
    records = read_records(file, QuestionError)
    found = [take_question(record, where, source_of(file)) for where, record in records]
    if not found:
        raise QuestionError(f"questions {file}: the file holds no question")
    return require_distinct(found, str(file))


def take_question(record: JsonObject, where: str, default_source: str, or_id: bool = False) -> Question:
    """One question from its record; what it is made of is taken out of the record.

    With ``or_id`` a number, or an id where the record has no text, stands for the question's text.

    Raises
    ------
    QuestionError
        If it has no text, an unknown form, or a value of the wrong type; says where.
    """
    keys = ("messages", *TEXT_KEYS, *(ID_KEYS if or_id else ()))
    # A data frame has a column for each key: those that are null or empty say nothing.
    key = next((key for key in keys if record.get(key) not in (None, [])), None)
    if key is None:
        raise QuestionError(f"{where} has none of the keys {', '.join(keys)}")
    messages = text = record.pop(key)
    if key != "messages":
        if or_id and isinstance(text, int | float):
            text = as_text(text)
        if not isinstance(text, str):
            raise QuestionError(
                f"{where}: {key} is {text!r:.40}, not text; of a data frame give rows: "
                "to_json(orient='records', lines=True) or to_parquet"
            )
        messages = [{"role": "user", "content": text}]
    answer = _pop_text(record, "answer", where)
    if answer is not None:
        # GSM8K's answer is a worked solution; what a completion is compared with is behind its mark.
        answer = answer.rpartition("####")[2].strip() or None
    source = _pop_text(record, "source", where)
    named = [key for key in GROUP_KEYS if as_text(record.get(key)) is not None]
    found = {"messages": messages, "answer": answer, "source": default_source if source is None else source}
    found["group"] = _pop_text(record, named[0], where) if named else None
    return parse(found, Question, QuestionError, where)


def _pop_text(record: JsonObject, key: str, where: str) -> str | None:
    """A value as text; a list of one answer is that."""
    value: Any = record.pop(key, None)
    while key == "answer" and isinstance(value, list) and len(value) <= 1:
        value = value[0] if value else None
    text = as_text(value)
    if text is None or isinstance(text, str):
        return text
    what = f"a list of {len(value)}" if isinstance(value, list) else f"{value!r:.40}"
    hint = "one reference is what completions are compared with" if key == "answer" else "it names one set"
    raise QuestionError(f"{where}: {key} is {what}; give one text or number, or null: {hint}")


def as_text(value: Any) -> Any:
    """A number or a boolean as text; None for NaN, a gap in a data frame; anything else as it is."""
    match value:
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case float() if math.isnan(value):
            return None
        case float() if math.isfinite(value):
            return str(int(value)) if value.is_integer() and abs(value) < 2**53 else str(value)
    return value


def write_questions(questions: Iterable[Question], path: str | Path) -> None:
    """Write a question set that `read_questions` reads."""
    with Path(path).open("w", encoding="utf-8") as stream:
        for question in questions:
            turns = question.as_chat()
            plain = len(turns) == 1 and turns[0]["role"] == "user"
            asked = {"question": question.text} if plain else {"messages": turns}
            known = question.model_dump(include={"answer", "source", "group"}, exclude_none=True)
            stream.write(json.dumps(asked | known) + "\n")
