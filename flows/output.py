"""What a command answers: JSON for programs, sentences and tables for people."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic_core import to_jsonable_python
from rich import box
from rich.console import Console
from rich.table import Table

from flows.config import Config
from flows.pages import number
from flows.verdict import verdict
from predictor.assessment import SHIPPED
from predictor.certificate import Certificate
from predictor.comparison import Row
from predictor.contenders import FIXED
from predictor.forecast import GoalForecast

if TYPE_CHECKING:  # their modules import Prefect and torch
    from flows.retrain import Retrained
    from flows.ship import Shipped
    from flows.validate import Validated

PLAN_COLUMNS = {
    "policy": "policy",
    "target": "target",
    "confidence": "confidence",
    "below target": "below target",
    "candidates": "candidates",
    "rounds": "rounds",
    "generated tokens": "tokens",
}
COMPARED_COLUMNS = ("setting", "tokens", "rounds", "right", "changed", "saved, 95 %")
GOAL_COLUMNS = {
    "goal": "goal",
    "value": "value",
    "expected_saving": "saves",
    "questions_needed": "questions needed",
    "saving_now": "with those on hand",
}
SHARES = {"below target", "expected_saving", "saving_now"}


class Answer(NamedTuple):
    """What a command found."""

    data: Any
    """For programs: records as objects, and what is no number (NaN) as null."""
    text: Sequence[str | Table]
    """For people, a paragraph or a table each."""


def print_answer(found: Any, as_json: bool) -> None:
    """Print an `Answer`, or a record or records that need no words, on standard output."""
    answer = found if isinstance(found, Answer) else Answer(found, [as_table(found)])
    if as_json:
        plain = to_jsonable_python(
            _by_name(answer.data), inf_nan_mode="null", fallback=lambda number: number.item()
        )
        print(json.dumps(plain, indent=2, allow_nan=False), flush=True)
        return
    console = Console(highlight=False, markup=False, emoji=False)
    for part in answer.text:
        console.print(part, soft_wrap=isinstance(part, str))


def _by_name(found: Any) -> Any:
    """With named tuples, however deep, as mappings; pydantic would take them for lists."""
    if hasattr(found, "_asdict"):
        found = found._asdict()
    if isinstance(found, Mapping):
        return {key: _by_name(value) for key, value in found.items()}
    return [_by_name(value) for value in found] if isinstance(found, list | tuple) else found


def table(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> Table:
    """Some keys of records as the columns of a table; the first one is text, and is wrapped where it must."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for place, title in enumerate(columns.values()):
        made.add_column(title, justify="right" if place else "left", no_wrap=place > 0)
    for row in rows:
        made.add_row(*(number(row[key], key in SHARES) for key in columns))
    return made


def as_table(found: Any) -> Table:
    """A record as its parts, or records as rows."""
    if isinstance(found, list):
        keys = found[0].keys() if found else ()
        return table(found, dict(zip(keys, keys, strict=True)))
    pairs = found._asdict() if hasattr(found, "_asdict") else found
    made = Table(box=None, show_header=False, pad_edge=False)
    for key, value in pairs.items():
        made.add_row(str(key).replace("_", " "), number(value))
    return made


def verdict_lines(
    config: Config, certificate: Certificate, rows: Sequence[Row], refuted: Mapping[str, float]
) -> list[str]:
    """The verdict, what it rests on, and what was promised."""
    found = verdict(certificate, rows, refuted, config.gate.level(max(len(refuted), 1)))
    return [found.headline, found.text, certificate.statement]


def policies(
    config: Config, certificate: Certificate, rows: Sequence[Row], refuted: Mapping[str, float]
) -> list[str | Table]:
    """The verdict, then what each policy spends and how often it is right."""
    return [*verdict_lines(config, certificate, rows, refuted), *compared(rows)]


def compared(rows: Iterable[Row]) -> list[Table]:
    """Each fixed N, every policy at the setting chosen for it, those asked for, by selection and group."""
    tables: dict[str, Table] = {}
    for row in rows:
        title = f"selected by {row.selection.replace('_', ' ')}"
        if row.group is not None:
            title = f"group {row.group or '(none)'}, {title}"
        if (made := tables.get(title)) is None:
            made = tables[title] = Table(title, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
            made.columns[0].min_width = 16
            for name in COMPARED_COLUMNS:
                made.add_column(name, justify="right", no_wrap=True)
        if not (row.chosen or row.policy == FIXED or not row.setting):
            continue
        saved = row.gain and [round(100 * value) for value in (row.gain.tokens, row.gain.low, row.gain.high)]
        made.add_row(
            row.policy,
            "chosen" if row.chosen else row.setting,
            f"{row.tokens:,.0f}",
            f"{row.rounds:.1f}",
            "–" if row.accuracy is None else f"{row.accuracy:.3f}",
            f"{row.changed:.3f}",
            "–" if saved is None else "{}% ({} to {})".format(*saved),
            style="bold" if row.policy == SHIPPED else None,
        )
    return list(tables.values())


def goals(rows: Iterable[GoalForecast]) -> Table:
    """What can be promised, by goal."""
    return table([row.model_dump() for row in rows], GOAL_COLUMNS)


def validated(config: Config, found: "Validated", report: object) -> list[str | Table]:
    """A version that has passed the gate: test questions do not refute what was promised."""
    shown = policies(config, found.certificate, found.policies, {})
    return [*shown, as_table(found.metrics), f"version {found.version} passed the gate; report {report}"]


def shipped(found: "Shipped") -> list[str | Table]:
    """What became champion, and what it answered when it was asked."""
    answer = found.answer
    promise = answer.get("promise") or "Nothing is promised of its policy: none was certified."
    asked = f"Its bundle {found.tag} was started and decided: {answer['action']} ({answer['reason']})."
    return [f"SHIPPED: version {found.version} is the champion.", asked, promise, as_table(answer)]


def loop(config: Config, found: "Retrained") -> list[str | Table]:
    """The whole loop."""
    home, (_, collected, trained, checked, bundle) = config.home.resolve(), found
    ui = config.tracking.uri or f"mlflow ui --backend-store-uri {config.tracking_uri}"
    if checked is None or bundle is None:
        return [f"NOTHING NEW: version {trained.version} is the champion, and trained on all there is."]
    return [
        *validated(config, checked, home / "report" / "report.html"),
        f"collected {collected.questions} questions: {collected.candidates} candidates, {collected.tokens:,} "
        f"tokens, {collected.failed} without a score",
        *shipped(bundle)[:2],
        f"MLflow: {ui}",
        "serve it: optscale serve --with-models",
    ]
