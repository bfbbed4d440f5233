"""Answers: the one that a completion ends with, its key, and whether it is right."""

import re
from fractions import Fraction
from typing import NamedTuple

from data.answer_key import LONGEST, canonical
from data.files import short_digest
from data.question import normalise

_BRACE = re.compile(r"\\boxed\{|\\\\(?!boxed\{)|\\[{}]|[{}]")
_MARK = re.compile(
    r"(?:^|\n|[.!?]\s)[ \t]{0,20}(?:####|(?:(?:\#{1,6}[ \t]*)?(?:\*\*)?(?:(?:so|thus|hence|therefore),? )?"
    r"(?:the )?(?:(?:final|correct) )?answer\b(?:\*\*)?+(?: is\b:?|:|(?=\s*\n))(?:\*\*)?+\s*)+)",
    re.IGNORECASE,
)
_NEXT_SENTENCE = re.compile(r"(?<=[\d$)}%*])\.\s+[A-Z].*")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mbox)\s*\{([^{}]*)\}")
_PLAIN = re.compile(r"[-+]?(?:0|[1-9]\d{0,99})(?:\.\d{1,99})?")
_BOLD = re.compile(r"^\*\*\s*|\s*\*\*$")


class Grade(NamedTuple):
    """How a completion was judged."""

    extracted: str | None
    """Its answer; None where it marks none."""
    key: str | None
    reference_key: str | None
    correct: bool | None
    """Whether the keys are equal; None where there is no reference."""


def extract_answer(completion: str) -> str | None:
    """The last boxed expression, else what the last line or sentence says that the answer is, else None.

    Such a line begins with ``Answer:``, ``the answer is``, ``####`` and the like, be it bold or a heading.
    """
    boxed = _last_box(completion)
    answer = _stated(completion) if boxed is None else boxed
    return None if answer is None else _bare(answer)


def answer_key(answer: str) -> str | None:
    r"""The canonical form of an answer, see `data.answer_key`; None where nothing is left of it.

    Answers are equal where their keys are, in grading as in votes. A key is its own key. The answer may be in
    a box or a sentence: ``\boxed{\frac12}``, ``The answer is .5`` and ``x = 2/4`` have the key ``1/2``.
    """
    key, before = answer, None
    for _ in range(5):  # once a part is left out, what was around it may be left out too
        if key == before:
            break
        key, before = _shorten(key), key
    return key or None


def answer_digest(question_id: str, key: str) -> str:
    """What stands for a key where no answer may be kept: equal for equal answers to one question."""
    return f"#{short_digest(f'{question_id} {key}')}"


def key_of(given: str | None, completion: str | None) -> str | None:
    """The key of a candidate's answer: the one that is given, else that of its text; None for no answer."""
    return answer_key(extract_answer(completion or "") or "") if given is None else given or None


def is_right(answer: str | None, reference: str | None) -> bool | None:
    """Whether an answer has the reference's key; None where there is no reference."""
    key = answer_key(answer or "")
    return None if reference is None else key is not None and key == answer_key(reference)


def grade(completion: str | None, reference: str | None, whole: bool = False) -> Grade:
    """Judge a completion; with ``whole`` a text that marks no answer is one from end to end."""
    text = completion or ""
    extracted = extract_answer(text)
    if extracted is None and whole:
        extracted = text
    keys = answer_key(extracted or ""), answer_key(reference or "")
    return Grade(extracted, *keys, is_right(extracted, reference))


def is_correct(completion: str | None, reference: str | None) -> bool | None:
    """Whether the completion's answer is the reference; None where there is no reference."""
    return grade(completion, reference).correct


def _shorten(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return str(Fraction(text))
    boxed = _last_box(text)
    answer = normalise(_bare(text if boxed is None else boxed))
    return canonical(answer) if len(answer) <= LONGEST else answer.casefold()


def _stated(text: str) -> str | None:
    """What is said behind the last mark that has something behind it."""
    for mark in reversed(list(_MARK.finditer(text))):
        if rest := text[mark.end() :].strip():
            line = _NEXT_SENTENCE.sub("", rest.partition("\n")[0]).rstrip(" .")
            return _BOLD.sub("", line)
    return None


def _bare(answer: str) -> str:
    r"""An answer without the sentence or LaTeX's text around it: ``\text{The answer is } 42.`` is 42."""
    for _ in range(3):  # one may be in another
        answer = _TEXT.sub(r"\1", answer)
        answer = _stated(answer) or answer
    return answer.strip().rstrip(".")


def _last_box(text: str) -> str | None:
    """What is in the last box that is closed, whatever braces are in it."""
    found, last, opened = None, -1, list[int]()
    if r"\boxed{" not in text:
        return None
    for brace in _BRACE.finditer(text):
        if brace[0] == "}" and opened:
            start = opened.pop()
            if start > last:
                found, last = text[start : brace.start()], start
        elif brace[0] in ("{", "\\boxed{"):
            opened.append(-1 if brace[0] == "{" else brace.end())
    return found
