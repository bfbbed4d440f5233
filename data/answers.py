"""Is a completion's answer right? Numbers are compared as numbers, all else as normalised text."""

import re
from fractions import Fraction

from predictor.question import normalise

_BOXED = re.compile(r"\\boxed\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}")
_LINE = re.compile(r"(?:^|\n)\s*(?:####|(?:the )?(?:final )?answer(?: is)?:?)\s*(.+)", re.IGNORECASE)


def extract_answer(completion: str) -> str | None:
    """The last boxed expression, else the last ``Answer:`` or ``####`` line, else None."""
    found = _BOXED.findall(completion) or _LINE.findall(completion)
    return found[-1].strip().rstrip(".") if found else None


def is_correct(completion: str | None, reference: str | None) -> bool | None:
    """Whether the completion's answer is the reference; None where there is no reference."""
    if reference is None:
        return None
    answer = extract_answer(completion or "")
    return answer is not None and _value(answer) == _value(reference)


def _value(text: str) -> Fraction | str:
    cleaned = normalise(text).strip("$ ").replace(",", "")
    try:
        return Fraction(cleaned)
    except (ValueError, ZeroDivisionError):
        return cleaned.casefold()
