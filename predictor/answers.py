"""The answer that a completion ends with, where it marks one."""

import re

_BRACE = re.compile(r"\\boxed\{|\\\\(?!boxed\{)|\\[{}]|[{}]")
_LINE = re.compile(
    r"(?:^|\n)\s*(?:####|(?:\*\*)?(?:the )?(?:final )?answer\b(?:\*\*)?+(?: is\b)?+:?+(?:\*\*)?+)\s*(.+)",
    re.IGNORECASE,
)
_BOLD = re.compile(r"^\*\*\s*|\s*\*\*$")


def extract_answer(completion: str) -> str | None:
    """The last boxed expression, else the last ``Answer:`` or ``####`` line, else None.

    Line and answer may be bold.
    """
    if (boxed := _last_box(completion)) is not None:
        return boxed.strip().rstrip(".")
    found = _LINE.findall(completion)
    return _BOLD.sub("", found[-1].strip().rstrip(".")).rstrip(".") if found else None


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
