"""Decisions for a person to judge: a sample of early stops and of give-ups, and the verdicts on them."""

import getpass
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from heapq import nsmallest
from pathlib import Path
from typing import Any, get_args

from data.answers import answer_key, extract_answer
from data.contract import ScoreContract
from data.decision_log import read_log
from data.errors import ConfigError
from data.feedback import Feedback, Verdict, keep_feedback, read_feedback
from data.files import short_digest

VERDICTS = get_args(Verdict)
_HEAD = "## Request "
_FIELD = re.compile(r"^verdict:(.*)$")
Item = dict[str, Any]


def sample(folder: Path, n: int, seed: int = 0) -> dict[str, Any]:
    """Decisions of a log that ended early and that nobody has judged yet, half stops and half give-ups.

    Each question comes once, with its last request. Where there are too few of one kind the other fills up.

    Returns ``items`` to judge, how many there were of each kind, and what is not stored.

    Raises
    ------
    PoolError
        If the log or its feedback cannot be read.
    """
    judged, latest = read_feedback(folder), dict[str, tuple[str, str]]()
    for row in read_log(folder):
        if kind := _kind(row):
            latest[row["question_id"]] = kind, row["request_id"]
    open_ = {name: found for name, found in latest.items() if found[1] not in judged}
    kinds = {
        kind: nsmallest(
            n,
            (name for name, found in open_.items() if found[0] == kind),
            key=lambda name: short_digest(f"{seed}:{name}"),
        )
        for kind in ("early stop", "give up")
    }
    stops, gave_up = kinds.values()
    half = max(n // 2, n - len(stops))
    taken = {open_[name][1] for name in (*gave_up[:half], *stops[: n - min(half, len(gave_up))])}
    items = [_item(row) for row in read_log(folder) if row["request_id"] in taken]
    missing = (
        ["texts of questions and answers: log.text is off"] if any(not i["question"] for i in items) else []
    )
    return {
        "items": items,
        **{f"{kind}s": sum(found[0] == kind for found in latest.values()) for kind in kinds},
        "judged": len(judged),
        "not_stored": missing,
    }


def _kind(row: Mapping[str, Any]) -> str | None:
    """What kind of decision a person should look at; None: drawn to the cap, explored, cut short."""
    if row["ended"] != "decided" or row["explored"] or row["chosen"] is None:
        return None
    if row["action"] == "give up":
        return "give up"
    early = row["seen"] < json.loads(row["policy"])["cap"]
    return "early stop" if row["action"] == "accept" and early else None


def _item(row: Mapping[str, Any]) -> Item:
    """A decision with the delivered answer and the others, equal ones together."""
    scored = ScoreContract.model_validate_json(row["contract"]).reward_model is not None
    groups = dict[str, Item]()
    for place, candidate in enumerate(row["candidates"]):
        key = candidate.get("answer_key")
        if key is None:
            key = answer_key(extract_answer(candidate["completion"] or "") or "")
        same = groups.setdefault(
            key or "(none)", {"answer": key, "count": 0, "best_score": None, "delivered": False}
        )
        same["count"] += 1
        if scored and candidate["score"] is not None:
            same["best_score"] = max(candidate["score"], same["best_score"] or 0.0)
        same["delivered"] |= place == row["chosen"]
    delivered = row["candidates"][row["chosen"]]
    return {
        "request": row["request_id"],
        "kind": _kind(row),
        "reason": row["reason"],
        "drawn": row["seen"],
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
    text = json.dumps(found["items"], indent=1) if file.suffix == ".json" else as_markdown(found)
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text + "\n")
    except FileExistsError as error:
        raise ConfigError(f"--output: {file} is there already and may hold verdicts; name another") from error
    except OSError as error:
        raise ConfigError(f"--output: {file} cannot be written: {error}") from error


def as_markdown(found: Mapping[str, Any]) -> str:
    """The sample as a page to fill in."""
    lines = [
        "# Decisions to judge",
        "",
        f"Write {', '.join(VERDICTS[:-1])} or {VERDICTS[-1]} behind each verdict.",
    ]
    lines += [f"Not stored: {what}." for what in found["not_stored"]]
    for item in found["items"]:
        score = item["delivered"]["score"]
        lines += [
            "",
            f"{_HEAD}{item['request']}",
            "",
            f"{item['kind']} after {item['drawn']}: {item['reason']}",
        ]
        lines += ["", "Question:", "", *_quoted(item["question"])]
        lines += ["", f"Delivered{'' if score is None else f' (score {score:.3f})'}:", ""]
        lines += [
            *_quoted(item["delivered"]["completion"]),
            "",
            "| answer | candidates | best score |",
            "| --- | --- | --- |",
        ]
        for group in item["answers"]:
            best = "" if group["best_score"] is None else f"{group['best_score']:.3f}"
            answer = (group["answer"] or "(none)").replace("|", "\\|")
            lines.append(f"| {'**delivered** ' * group['delivered']}{answer} | {group['count']} | {best} |")
        lines += ["", "verdict:"]
    return "\n".join(lines)


def _quoted(text: str | None) -> list[str]:
    """As a quotation: no line of it can be taken for one of the page's own."""
    return [f"> {line}" for line in text.splitlines() or [""]] if text is not None else ["> (not stored)"]


def read(file: Path, folder: Path, who: str | None = None) -> dict[str, int]:
    """Keep the verdicts of a file that `write` wrote and a person filled in, as feedback beside the log.

    Returns how many are new, said so before, empty, and of requests that the log does not hold (not kept).

    Raises
    ------
    ConfigError
        If the file cannot be read, a verdict is none, or no request in it is of this log.
    PoolError
        If the log or its feedback cannot be read or written.
    """
    told = dict(_verdicts(file))
    known = {row["request_id"] for row in read_log(folder)}
    if told and not known & told.keys():
        raise ConfigError(f"no request of {file} is in the log in {folder}; is it another gateway's?")
    when, name = datetime.now(UTC), who or _user()
    given = [
        Feedback(request_id=request, verdict=verdict, who=name, when=when)
        for request, verdict in told.items()
        if verdict and request in known
    ]
    kept = keep_feedback(folder, given)
    counts = Counter(verdict for request, verdict in told.items() if request in known)
    return {
        "kept": kept,
        "said_before": len(given) - kept,
        "empty": counts[""],
        "not_in_the_log": len(told.keys() - known),
        **{verdict: counts[verdict] for verdict in VERDICTS},
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user without a name, as containers have them
        return "unknown"


def _verdicts(file: Path) -> Iterator[tuple[str, str]]:
    """Request and verdict, empty where none is given."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--read: {file} cannot be read: {error}") from error
    for where, request, verdict in _json(text, file) if file.suffix == ".json" else _markdown(text):
        said = (verdict or "").strip().strip("*`_").lower() if isinstance(verdict, str | None) else "?"
        if said not in ("", *VERDICTS):
            raise ConfigError(
                f"{file}, {where}: the verdict is {verdict!r}; allowed: {', '.join(VERDICTS)} or nothing"
            )
        yield request, said


def _markdown(text: str) -> Iterator[tuple[str, str, Any]]:
    request = None
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith(_HEAD):
            request = line.removeprefix(_HEAD).strip()
        elif request is not None and (found := _FIELD.match(line)):
            yield f"line {number}", request, found[1]
            request = None


def _json(text: str, file: Path) -> Iterator[tuple[str, str, Any]]:
    try:
        for number, item in enumerate(json.loads(text), start=1):
            yield f"item {number}", str(item["request"]), item["verdict"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"--read: {file} is not what review wrote: {type(error).__name__}: {error}"
        ) from error
