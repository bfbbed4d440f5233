"""A notion of answers of the user's own, where no canonical form fits: code by behaviour, prose by claim."""

import logging
from collections.abc import Callable
from importlib.metadata import EntryPoint
from typing import NamedTuple

from data.answers import answer_key, extract_answer, is_right
from data.errors import ConfigError, as_fault
from data.question import Question

logger = logging.getLogger("optscale.answers")


class Read(NamedTuple):
    """What is read from a completion."""

    key: str | None
    """Equal for equal answers to the question; None where there is none."""
    correct: bool | None
    """None where that is not known."""


AnswerFunction = Callable[[str, Question], Read]
"""From a completion and its question. It may be called by several threads at once."""


def read_answer(completion: str, question: Question) -> Read:
    """By `answer_key`, held against the question's reference."""
    answer = extract_answer(completion)
    return Read(answer_key(answer or ""), is_right(answer, question.answer))


def load_answer_function(name: str | None) -> AnswerFunction:
    """The function ``package.module:function``, which returns a key and a verdict; `read_answer` for None.

    Raises
    ------
    ConfigError
        If there is no such function.
    """
    if name is None:
        return read_answer
    causes = (ImportError, AttributeError, ValueError)
    with as_fault(ConfigError, f"answers: {name} cannot be imported here", *causes):
        function = EntryPoint("answers", name, "optscale").load()
    if not callable(function):
        raise ConfigError(f"answers: {name} is no function")

    def read(completion: str, question: Question) -> Read:
        try:
            key, correct = function(completion, question)
        except Exception:  # it is the user's, and meets what a model writes
            logger.exception("%s failed on a completion, which counts as one without an answer", name)
            return Read(None, None)
        return Read(None if key is None else str(key), None if correct is None else bool(correct))

    return read
