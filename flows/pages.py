"""Pages and numbers as people read them."""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from predictor.policies import AnyPolicy
from predictor.replay import Interval

if TYPE_CHECKING:
    import jinja2


def number(value: Any, share: bool = False) -> str:
    """As people read it: 1,237; 0.883; as a share 88.3 %; of a range the mean, and below it its ends."""
    if isinstance(value, Mapping) and value.keys() == {"mean", "low", "high"}:
        mean, *ends = (number(value[end], share) for end in ("mean", "low", "high"))
        return f"{mean}\n{ends[0]} – {ends[1]}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {number(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(number, value))
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return "–" if value is None else str(value)
    if math.isnan(value):
        return "–"
    if share:
        return f"{100 * value:.1f} %"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def environment() -> "jinja2.Environment":
    """The templates of this folder; a name that is not there is an error, and in HTML text is escaped."""
    import jinja2  # by the commands that write pages

    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
    )
    pages.filters |= {
        "number": number,
        "points": _points,
        "quoted": _quoted,
        "setting": _setting,
        "share": partial(number, share=True),
    }
    return pages


def render(template: str, **values: Any) -> str:
    """A page from a template of this folder."""
    return environment().get_template(template).render(**values)


def _points(value: Interval) -> str:
    return f"{100 * value.mean:+.1f} points ({100 * value.low:+.1f} to {100 * value.high:+.1f})"


def _quoted(text: str | None) -> str:
    return "> (not stored)" if text is None else "\n".join(f"> {line}" for line in text.splitlines() or [""])


def _setting(policy: AnyPolicy) -> str:
    """Its knobs, without the coefficients of a learned rule."""
    return policy.model_dump_json(exclude_defaults=True, exclude={"value": True, "selection": {"weights"}})
