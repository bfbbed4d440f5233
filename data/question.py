"""Questions and their identity."""

import json
import unicodedata
from collections.abc import Iterable
from functools import cached_property
from typing import Literal, Self

from pydantic import Field, model_validator

from data.errors import QuestionError
from data.files import short_digest
from data.record import Record

MAX_CHARACTERS = 10_000_000


class Message(Record):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Question(Record):
    """What is asked: messages (one user turn in the simple case), where it is from, its answer."""

    messages: tuple[Message, ...] = Field(min_length=1)
    answer: str | None = None
    """Reference answer, where it is known."""
    source: str = "unknown"
    """Name of the set it belongs to."""
    group: str | None = None
    """Kind of question; questions of one group share a fold only where folds are split by group."""

    @model_validator(mode="after")
    def _has_text(self) -> Self:
        if not self.text.strip():
            raise ValueError("the question is empty")
        if self.characters > MAX_CHARACTERS:
            raise ValueError(f"the question is longer than {MAX_CHARACTERS} characters")
        return self

    @classmethod
    def ask(cls, text: str, **fields: str | None) -> Self:
        """A question of one user message."""
        return cls(messages=(Message(role="user", content=text),), **fields)

    @property
    def text(self) -> str:
        """Content of the last turn."""
        return self.messages[-1].content

    @property
    def characters(self) -> int:
        """Of all turns."""
        return sum(len(m.content) for m in self.messages)

    @cached_property
    def id(self) -> str:
        """Sixteen hex digits: a hash of the roles and the contents, white space and Unicode normalised."""
        turns = [[m.role, normalise(m.content)] for m in self.messages]
        return short_digest(json.dumps(turns))

    def as_chat(self) -> list[dict[str, str]]:
        """Messages as chat templates and OpenAI clients take them."""
        return [{"role": m.role, "content": m.content} for m in self.messages]


def normalise(text: str) -> str:
    """Unicode NFC, runs of white space as one blank, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def require_distinct(questions: Iterable[Question], where: str) -> list[Question]:
    """The questions as a list.

    Raises
    ------
    QuestionError
        If two of them are the same question.
    """
    seen: dict[str, int] = {}
    kept = []
    for number, question in enumerate(questions, start=1):
        if question.id in seen:
            raise QuestionError(
                f"{where}: question {number} repeats question {seen[question.id]} "
                f"({question.text[:60]!r}); remove one of them"
            )
        seen[question.id] = number
        kept.append(question)
    return kept
