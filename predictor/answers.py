"""The answer that a completion ends with, where it marks one."""

import re

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
