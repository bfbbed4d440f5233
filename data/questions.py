"""Question sets: JSON lines, ``{"question": …, "answer": …, "group": …}`` or ``{"messages": […]}``."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from predictor.errors import QuestionError
from predictor.question import Question, require_distinct

TEXT_KEYS = ("question", "problem", "prompt")


def read_questions(path: str | Path) -> list[Question]:
    """Read a question set.

    Raises
    ------
    QuestionError
        If the file is missing, a line is not a question, or two lines are the same one; names the
        file and the line.
    """
    file = Path(path)
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")  # JSON may hold other ends of a line
    except (OSError, UnicodeDecodeError) as error:
        raise QuestionError(f"questions {file} cannot be read: {error}") from error
    questions = [
        parse_question(line, f"{file}, line {number}", default_source=file.stem)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not questions:
        raise QuestionError(f"questions {file}: the file holds no question")
    return require_distinct(questions, str(file))


def parse_question(line: str | dict[str, Any], where: str, default_source: str) -> Question:
    """One question from a JSON line or its object.

    Raises
    ------
    QuestionError
        If it has no text, an unknown form, or a value of the wrong type; says where.
    """
    if isinstance(line, str):
        try:
            line = json.loads(line)
            json.dumps(line, ensure_ascii=False).encode()  # an escape of half a character is no text
        except (ValueError, RecursionError) as error:
            raise QuestionError(f"{where} is not JSON: {error}") from error
    if not isinstance(line, dict):
        raise QuestionError(f"{where} is not a JSON object")
    texts = [line[key] for key in TEXT_KEYS if key in line]
    if not line.get("messages") and not texts:
        raise QuestionError(f"{where} has none of the keys messages, {', '.join(TEXT_KEYS)}")
    messages = line.get("messages") or [{"role": "user", "content": texts[0]}]
    answer, group = line.get("answer"), line.get("group")
    if answer is not None:
        # GSM8K's answer is a worked solution; what a completion is compared with is behind its mark.
        answer = str(answer).rpartition("####")[2].strip() or None
    try:
        return Question(
            messages=messages,
            answer=answer,
            source=line.get("source", default_source),
            group=str(group) if isinstance(group, int) else group,
        )
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "question"
        raise QuestionError(f"{where}: {place}: {first['msg']}") from error


def write_questions(questions: Iterable[Question], path: str | Path) -> None:
    """Write a question set that `read_questions` reads."""
    with Path(path).open("w", encoding="utf-8") as stream:
        for question in questions:
            record = {
                "question": question.text,
                "answer": question.answer,
                "source": question.source,
                "group": question.group,
            }
            stream.write(json.dumps({k: v for k, v in record.items() if v is not None}) + "\n")
