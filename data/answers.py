"""Is a completion's answer right? Numbers are compared as numbers, all else as normalised text."""

import re
from fractions import Fraction

from predictor.answers import extract_answer, reference_answer
from predictor.question import normalise

# No more digits than these: Fraction would take the power of "1e10000000" out, for minutes.
_NUMBER = re.compile(
    r"[-+]?(?:\d{1,300}(?:\.\d{0,300}|/\d{1,300})?|\.\d{1,300})(?:e[-+]?\d{1,3})?", re.IGNORECASE
)
_THOUSANDS = re.compile(r"(?<![\w,.(\[{])\d{1,3}(?:,\d{3})+(?![\w,)\]}])")


def is_correct(completion: str | None, reference: str | None) -> bool | None:
    """Whether the completion's answer is the reference; None where there is no reference."""
    if reference is None:
        return None
    answer = extract_answer(completion or "")
    return answer is not None and _value(answer) == _value(reference_answer(reference))


def _value(text: str) -> Fraction | str:
    cleaned = _THOUSANDS.sub(lambda found: found[0].replace(",", ""), normalise(text).strip("$ "))
    try:
        return Fraction(cleaned) if _NUMBER.fullmatch(cleaned) else cleaned.casefold()
    except (ValueError, ZeroDivisionError):
        return cleaned.casefold()
