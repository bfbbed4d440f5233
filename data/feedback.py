"""What people said of delivered answers: a file beside the decision log, by request."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock
from pydantic import ValidationError

from data.errors import PoolError, as_fault
from data.files import write_whole
from data.record import Record
from data.validation import parse

FILE = "feedback.jsonl"
Verdict = Literal["right", "wrong", "unsure"]


class Feedback(Record):
    """A person's verdict on what a request was answered with."""

    request_id: str
    verdict: Verdict = "unsure"
    answer: str | None = None
    """The right answer, where they gave it."""
    score: float | None = None
    """How good it was, on a scale of theirs."""
    who: str
    when: datetime


def read_feedback(folder: Path) -> dict[str, Feedback]:
    """The verdict on each request of the log in ``folder``; of several the last.

    Raises
    ------
    PoolError
        If the file holds anything else; says in which line.
    """
    file = folder / FILE
    with as_fault(PoolError, f"{file} cannot be read", OSError, UnicodeDecodeError):
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    found = {}
    for number, line in enumerate(lines, start=1):
        what = f"{file}, line {number} is no verdict, mend or remove it"
        told: Feedback = parse(line, Feedback, PoolError, what)
        found[told.request_id] = told
    return found


def keep_feedback(folder: Path, given: Iterable[Feedback]) -> int:
    """Append verdicts that say something new, all of them or none; how many those are.

    Raises
    ------
    PoolError
        If the file cannot be read or written.
    """
    with _writing(file := folder / FILE):
        known = {name: told.model_dump(exclude={"when"}) for name, told in read_feedback(folder).items()}
        new = [told for told in given if known.get(told.request_id) != told.model_dump(exclude={"when"})]
        if new:
            before = file.read_bytes() if file.exists() else b""
            write_whole(file, before + b"".join(map(_line, new)))
    return len(new)


def add_feedback(folder: Path, told: Feedback) -> None:
    """Append one verdict, however long the file is.

    Raises
    ------
    PoolError
        If it cannot be written.
    """
    with _writing(folder / FILE), (folder / FILE).open("ab") as stream:
        stream.write(_line(told))


def drop_feedback(folder: Path, requests: Collection[str], before: datetime | None = None) -> int:
    """Remove the verdicts on these requests, and those given before a time; how many those were.

    Raises
    ------
    PoolError
        If the file cannot be read or written.
    """
    file = folder / FILE
    if not file.exists():
        return 0
    with _writing(file), as_fault(PoolError, f"{file} cannot be written anew", ValidationError):
        lines = [Feedback.model_validate_json(line) for line in file.read_bytes().splitlines()]
        kept = [one for one in lines if one.request_id not in requests]
        kept = [one for one in kept if before is None or one.when >= before]
        if len(kept) < len(lines):
            write_whole(file, b"".join(map(_line, kept)))
    return len(lines) - len(kept)


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    """One writer at a time."""
    with as_fault(PoolError, f"{file} cannot be written, and nothing was kept or dropped", OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_name(f".{FILE}.lock"), fallback_to_soft=False):
            yield


def _line(told: Feedback) -> bytes:
    return told.model_dump_json(exclude_none=True).encode() + b"\n"
