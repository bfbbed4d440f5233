"""Is a completion's answer right? Numbers are compared as numbers, all else as normalised text."""

from fractions import Fraction

from predictor.answers import extract_answer
from predictor.question import normalise


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
