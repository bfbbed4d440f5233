"""What comes first on a report and in a summary: may the policy be shipped, and what it saves or loses."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from predictor.baseline_comparison import SCHEDULE, SHIPPED, Row
from predictor.certificate import Certificate


class Verdict(NamedTuple):
    """In words."""

    certified: bool
    headline: str
    told: str


def verdict(
    certificate: Certificate, rows: Sequence[Row], refuted: Mapping[str, float], level: float
) -> Verdict:
    """Nothing is called saved without a certificate that test questions do not refute.

    ``rows`` are the report's; ``refuted`` the p-values of the certified losses on test questions, and
    ``level`` what they may not be below.
    """
    named = {row["policy"]: row for row in rows}
    us, cap = named[SHIPPED], named[f"fixed N = {certificate.cap}"]
    share, lost = _percent(us["of full cap"]), _lost(us, cap)
    if certificate.policy is None:
        told = (
            f"No policy is certified; of the config's own, on test questions: {lost}, for {share} of the "
            f"tokens of always sampling {certificate.cap} candidates."
        )
        return Verdict(False, "NOT CERTIFIED, DO NOT SHIP", told)
    if min(refuted.values(), default=1.0) < level:
        told = f"Test questions refute the promise: {lost}, for {share} of the tokens of the full cap."
        return Verdict(False, "REFUTED, DO NOT SHIP", told)
    saved = _percent(1 - us["of full cap"])
    told = f"Against always sampling {certificate.cap} candidates, on test questions: {lost}. "
    if us["predictor tokens"]:
        in_all = 1 - us["of full cap"] - us["predictor tokens"] / cap["generator tokens"]
        told += (
            f"The predictor reads {us['predictor tokens']:.0f} tokens a question; after them "
            f"{_percent(in_all)} are saved. "
        )
    return Verdict(True, f"CERTIFIED: {saved} of the generated tokens saved", told + _beside(us, named))


def _lost(us: Row, cap: Row) -> str:
    hits = f"hits lost on {_percent(us['lost hits'])} of questions"
    if us["accuracy"] != us["accuracy"]:
        return f"{hits}; no answers are known"
    points = 100 * (us["accuracy"] - cap["accuracy"])
    interval = f"{100 * us['gained low']:+.1f} to {100 * us['gained high']:+.1f}"
    return f"{hits}, right answers {points:+.1f} points ({interval})"


def _beside(us: Row, named: Mapping[str, Row]) -> str:
    """Against the fixed schedule, whose costs are all generated tokens."""
    ours, low, high = (us[f"saved after reading{end}"] for end in ("", " low", " high"))
    if us["right over schedule"] != us["right over schedule"]:
        right = ""
    else:
        points = [100 * us[f"right over schedule{end}"] for end in ("", " low", " high")]
        right = f", with {points[0]:+.1f} points of right answers ({points[1]:+.1f} to {points[2]:+.1f})"
    more = f"{abs(ours):.1%} {'fewer' if ours >= 0 else 'more'} tokens"
    return (
        f"The best fixed schedule, chosen on tune questions to hit as often in as few rounds, spends "
        f"{named[SCHEDULE]['generator tokens']:.0f} tokens a question: against it this is {more}, reading "
        f"included (saved {low:+.1%} to {high:+.1%}){right}."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
