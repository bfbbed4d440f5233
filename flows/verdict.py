"""The first lines of a report and of a summary: may the policy be shipped, and what it saves or loses."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from predictor.baseline_comparison import SCHEDULE, SHIPPED, Row
from predictor.certificate import Certificate


class Verdict(NamedTuple):
    """In words."""

    certified: bool
    headline: str
    text: str


def verdict(
    certificate: Certificate, rows: Sequence[Row], refuted: Mapping[str, float], level: float
) -> Verdict:
    """Nothing is called saved without a certificate that test questions do not refute.

    ``rows`` are the report's; ``refuted`` the p-values of the certified losses on test questions, and
    ``level`` the least that they may be.
    """
    named = {row.policy: row for row in rows}
    shipped, full, schedule = named[SHIPPED], named[f"fixed N = {certificate.cap}"], named[SCHEDULE]
    lost = f"hits lost on {shipped.means.lost_hit.mean:.1%} of questions, {_right(shipped)}"
    cost = f"{shipped.of_full_cap:.1%} of the tokens of always sampling {certificate.cap} candidates"
    if certificate.policy is None:
        text = f"No policy is certified; of the config's own, on test questions: {lost}, for {cost}."
        return Verdict(False, "NOT CERTIFIED, DO NOT SHIP", text)
    if min(refuted.values(), default=1.0) < level:
        return Verdict(
            False, "REFUTED, DO NOT SHIP", f"Test questions refute the promise: {lost}, for {cost}."
        )
    text = f"On test questions: {lost}, for {cost}. "
    if read := shipped.predictor_tokens:
        saved = 1 - shipped.of_full_cap - read / full.means.tokens.mean
        text += f"The predictor reads {read:.0f} tokens a question; after them {saved:.1%} are saved. "
    net = shipped.saved_after_reading
    text += (
        f"The best fixed schedule, chosen on tune questions to hit as often in as few rounds, spends "
        f"{schedule.means.tokens.mean:.0f} tokens a question: against it {net.mean:+.1%} are saved, reading "
        f"included ({net.low:+.1%} to {net.high:+.1%})."
    )
    return Verdict(True, f"CERTIFIED: {1 - shipped.of_full_cap:.1%} of the generated tokens saved", text)


def _right(shipped: Row) -> str:
    mean, low, high = shipped.means.lost_accuracy
    return (
        "no answers are known"
        if np.isnan(mean)
        else f"right answers {-mean:+.1%} ({-high:+.1%} to {-low:+.1%})"
    )
