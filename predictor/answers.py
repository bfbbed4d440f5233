"""The answer that a completion ends with, where it marks one."""

import re

_BOXED = re.compile(r"\\boxed\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}")
_LINE = re.compile(r"(?:^|\n)\s*(?:####|(?:the )?(?:final )?answer(?: is)?:?)\s*(.+)", re.IGNORECASE)


def extract_answer(completion: str) -> str | None:
    """The last boxed expression, else the last ``Answer:`` or ``####`` line, else None."""
    found = _BOXED.findall(completion) or _LINE.findall(completion)
    return found[-1].strip().rstrip(".") if found else None
