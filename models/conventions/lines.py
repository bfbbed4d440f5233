"""The embedded PRM's convention: a step a line, closed by its newline; an adapter on a backbone."""

from collections.abc import Sequence
from typing import Any

from models.steps import Convention, Example, encode_steps, non_empty_lines
from predictor.question import Question


def _encode(tokenizer: Any, question: Question, steps: Sequence[str]) -> Example:
    return encode_steps(tokenizer, question.as_chat(), steps)


CONVENTION = Convention(split=non_empty_lines, encode=_encode)
