"""Decisions for a person to judge: a sample of early stops and of give-ups, and the verdicts on them."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from heapq import nsmallest
from pathlib import Path
from typing import Any, get_args

from data.answers import key_of
from data.decision_log import read_log
from data.errors import ConfigError
from data.feedback import Feedback, Verdict, keep_feedback, read_feedback
from data.files import short_digest
from flows.pages import render

VERDICTS = get_args(Verdict)
KINDS = ("early stop", "give up")
_BLANK = re.compile(r"^## Request (.*)$|^verdict:(.*)$")
Item = dict[str, Any]


def sample(folder: Path, n: int, seed: int = 0) -> dict[str, Any]:
    """Decisions of a log that ended early and that nobody has judged yet, half stops and half give-ups.

    Each question comes once, with its last request. Where there are too few of one kind the other fills up.

    Returns ``items`` to judge, how many there are of each kind, and what is ``not_stored``.

    Raises
    ------
    PoolError
        If the log or its feedback cannot be read.
    """
    judged, latest = read_feedback(folder), dict[str, tuple[str | None, str]]()
    for row in read_log(folder):
        if kind := _kind(row):
            latest[row["question_id"]] = kind, row["request_id"]

    def draw(kind: str) -> list[str]:
        names = [name for name, found in latest.items() if found[0] == kind and found[1] not in judged]
        return [latest[name][1] for name in nsmallest(n, names, key=lambda q: short_digest(f"{seed}:{q}"))]

    stops, gave_up = map(draw, KINDS)
    gave_up = gave_up[: max(n // 2, n - len(stops))]
    taken = {*gave_up, *stops[: n - len(gave_up)]}
    items = [_item(row) for row in read_log(folder) if row["request_id"] in taken]
    without_text = any(item["question"] is None for item in items)
    return {
        "items": items,
        **{kind: sum(found[0] == kind for found in latest.values()) for kind in KINDS},
        "not_stored": ["texts of questions and answers (log.text is off)"] if without_text else [],
    }


def _kind(row: Mapping[str, Any]) -> str | None:
    """What kind of decision a person should look at; None: drawn to the cap, explored, cut short."""
    if row["ended"] != "decided" or row["explored"] or row["chosen"] is None:
        return None
    early = row["action"] == "accept" and row["seen"] < json.loads(row["policy"])["cap"]
    return "give up" if row["action"] == "give up" else "early stop" if early else None


def _item(row: Mapping[str, Any]) -> Item:
    """A decision with the delivered answer and all of them, equal ones together."""
    groups = dict[str, Item]()
    for place, found in enumerate(row["candidates"]):
        key = key_of(found.get("answer_key"), found["completion"]) or ""
        new = {"answer": key, "count": 0, "best_score": None, "delivered": False}
        group = groups.setdefault(key, new)
        group["count"] += 1
        group["best_score"] = max(
            (s for s in (group["best_score"], found["score"]) if s is not None), default=None
        )
        group["delivered"] |= place == row["chosen"]
    delivered = row["candidates"][row["chosen"]]
    return {
        **{"request": row["request_id"], "kind": _kind(row), "reason": row["reason"], "drawn": row["seen"]},
        "question": (row["messages"] or [{}])[-1].get("content"),
        "delivered": {"completion": delivered["completion"], "score": delivered["score"]},
        "answers": sorted(groups.values(), key=lambda group: (-group["delivered"], -group["count"])),
        "verdict": None,
    }


def write(found: Mapping[str, Any], file: Path) -> None:
    """Write the sample: JSON where the file ends so, else Markdown.

    Raises
    ------
    ConfigError
        If the file cannot be written, or is there already: it may hold verdicts.
    """
    page = json.dumps(found["items"], indent=1) if file.suffix == ".json" else render("review.md.j2", **found)
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(page)
    except FileExistsError as error:
        raise ConfigError(f"--output: {file} is there already and may hold verdicts; name another") from error
    except OSError as error:
        raise ConfigError(f"--output: {file} cannot be written: {error}") from error


def read(file: Path, folder: Path, who: str | None = None) -> dict[str, int]:
    """Keep the verdicts of a file that `write` wrote and a person filled in, as feedback beside the log.

    Returns how many are kept, were said before, are empty, are of requests that the log does not hold.

    Raises
    ------
    ConfigError
        If the file cannot be read, a verdict is none, or no request in it is of this log.
    PoolError
        If the log or its feedback cannot be read or written.
    """
    told = dict(_verdicts(file))
    known = told.keys() & {row["request_id"] for row in read_log(folder)}
    if told and not known:
        raise ConfigError(f"no request of {file} is in the log in {folder}; is it another gateway's?")
    now, name = datetime.now(UTC), who or os.environ.get("USER", "unknown")
    said = {request: verdict for request, verdict in told.items() if verdict and request in known}
    given = [Feedback(request_id=r, verdict=verdict, who=name, when=now) for r, verdict in said.items()]
    kept, empty = keep_feedback(folder, given), sum(not told[request] for request in known)
    counts = {"kept": kept, "said_before": len(given) - kept, "empty": empty}
    return counts | {"not_in_the_log": len(told) - len(known)}


def _verdicts(file: Path) -> Iterator[tuple[str, Any]]:
    """Request and verdict, empty where none is given."""
    try:
        text = file.read_text(encoding="utf-8")
        found = list(_json(text) if file.suffix == ".json" else _markdown(text))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"--read: {file} is not what review wrote: {error!r}") from error
    for where, request, verdict in found:
        said = str(verdict or "").strip(" *`_").lower()
        if said not in ("", *VERDICTS):
            raise ConfigError(
                f"{file}, {where}: the verdict is {said!r}; allowed: {', '.join(VERDICTS)} or nothing"
            )
        yield request, said


def _json(text: str) -> Iterator[tuple[str, str, Any]]:
    for number, item in enumerate(json.loads(text), start=1):
        yield f"item {number}", item["request"], item["verdict"]


def _markdown(text: str) -> Iterator[tuple[str, str, Any]]:
    request = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if (found := _BLANK.match(line)) is None:
            continue
        if found[2] is None:
            request = found[1].strip()
        else:
            yield f"line {number}", request, found[2]
