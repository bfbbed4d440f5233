"""Grading of files: how each completion of a question was judged."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.answers import grade
from data.errors import QuestionError
from data.questions import take_question
from data.read_file import read_records, source_of


def grade_file(file: Path) -> Iterator[dict[str, Any]]:
    """The place, the number and the `Grade` of each completion; records have question, answer, completions.

    Raises
    ------
    QuestionError
        If the file cannot be read, or a record has no question or no list of completions; says where.
    """
    for where, record in read_records(file, QuestionError):
        question = take_question(record, where, source_of(file))
        completions = record.get("completions")
        if not isinstance(completions, list) or not all(isinstance(c, str | None) for c in completions):
            raise QuestionError(f"{where}: completions is {completions!r:.40}; give a list of texts")
        for number, text in enumerate(completions):
            yield {"where": where, "candidate": number} | grade(text, question.answer)._asdict()
