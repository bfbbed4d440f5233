"""Answers: the one that a completion ends with, and whether it is right.

Numbers are compared as numbers, all else as normalised text.
"""

import re
from fractions import Fraction

from data.question import normalise

_BRACE = re.compile(r"\\boxed\{|\\\\(?!boxed\{)|\\[{}]|[{}]")
_LINE = re.compile(
    r"(?:^|\n)\s*(?:####|(?:\*\*)?(?:the )?(?:final )?answer\b(?:\*\*)?+(?: is\b)?+:?+(?:\*\*)?+)\s*(.+)",
    re.IGNORECASE,
)
_SENTENCE = re.compile(
    r"\A\s*(?:(?:so|thus|hence|therefore),?\s+)?(?:the\s+)?(?:(?:final|correct)\s+)?answer(?:\s+is\b:?|:)\s*(?=\S)",
    re.IGNORECASE,
)
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mbox)\s*\{([^{}]*)\}")
_BOLD = re.compile(r"^\*\*\s*|\s*\*\*$")
# No more digits than these: Fraction would take the power of "1e10000000" out, for minutes.
_NUMBER = re.compile(
    r"[-+]?(?:\d{1,300}(?:\.\d{0,300}|/\d{1,300})?|\.\d{1,300})(?:e[-+]?\d{1,3})?", re.IGNORECASE
)
_THOUSANDS = re.compile(r"(?<![\w,.(\[{])\d{1,3}(?:,\d{3})+(?![\w,)\]}])")


def extract_answer(completion: str) -> str | None:
    """The last boxed expression, else the last ``Answer:`` or ``####`` line, else None.

    Line and answer may be bold; of a sentence what it says the answer is.
    """
    if (boxed := _last_box(completion)) is not None:
        return _bare(boxed)
    found = _LINE.findall(completion)
    return _bare(_BOLD.sub("", found[-1].strip().rstrip("."))) if found else None


def reference_answer(reference: str) -> str:
    """What of a reference completions are compared with: the last boxed expression, else all of it."""
    boxed = _last_box(reference)
    return _bare(reference if boxed is None else boxed)


def is_correct(completion: str | None, reference: str | None) -> bool | None:
    """Whether the completion's answer is the reference; None where there is no reference."""
    if reference is None:
        return None
    answer = extract_answer(completion or "")
    return answer is not None and _value(answer) == _value(reference_answer(reference))


def _bare(answer: str) -> str:
    r"""An answer without the sentence or LaTeX's text around it: ``\text{The answer is } 42.`` is 42."""
    for _ in range(3):  # one may be in another
        answer = _SENTENCE.sub("", _TEXT.sub(r"\1", answer))
    return answer.strip().rstrip(".")


def _last_box(text: str) -> str | None:
    """What is in the last box that is closed, whatever braces are in it."""
    found, last, opened = None, -1, list[int]()
    for brace in _BRACE.finditer(text):
        if brace[0] == "}" and opened:
            start = opened.pop()
            if start > last:
                found, last = text[start : brace.start()], start
        elif brace[0] in ("{", "\\boxed{"):
            opened.append(-1 if brace[0] == "{" else brace.end())
    return found


def _value(text: str) -> Fraction | str:
    cleaned = _THOUSANDS.sub(lambda found: found[0].replace(",", ""), normalise(text).strip("$ "))
    try:
        return Fraction(cleaned) if _NUMBER.fullmatch(cleaned) else cleaned.casefold()
    except (ValueError, ZeroDivisionError):
        return cleaned.casefold()
