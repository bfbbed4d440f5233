"""The first lines of a report and of a summary: may the policy be shipped, and what it saves or loses."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from predictor.assessment import SHIPPED, VOTE_OF
from predictor.certificate import Certificate, describe
from predictor.comparison import Row
from predictor.design import REFERENCE


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
    shipped = next(row for row in rows if row.policy == SHIPPED)
    full = next(row for row in rows if row.policy == REFERENCE)
    share, held = shipped.tokens / full.tokens, describe(certificate.fallback)
    text = (
        f"On test questions: {_right(shipped, full)}, answers changed on {shipped.changed:.1%}, for "
        f"{share:.1%} of the tokens of {held}, in {shipped.rounds:.1f} rounds.{_plain_votes(rows)}"
    )
    if not certificate.epsilon:
        return Verdict(False, f"NOTHING IS PROMISED: {1 - share:.1%} fewer generated tokens", text)
    if certificate.policy is None:
        return Verdict(False, f"NOTHING THAT SAVES IS CERTIFIED: {held} may be shipped", text)
    if min(refuted.values(), default=1.0) < level:
        return Verdict(False, "REFUTED, DO NOT SHIP", f"Test questions refute the promise. {text}")
    return Verdict(
        True, f"CERTIFIED: {1 - share:.1%} of the generated tokens saved", f"{text} {gain(shipped)}"
    )


def gain(row: Row) -> str:
    """What it saves beyond what a fixed N or a schedule would."""
    if row.accuracy is None:
        return "What it saves at equal accuracy is not known."
    if row.gain is None:
        return "No fixed N or schedule with the same selection is as accurate."
    interval = f"{row.gain.tokens:+.1%} ({row.gain.low:+.1%} to {row.gain.high:+.1%})"
    shown = "" if row.gain.low > 0 else ": no saving is shown"
    return (
        "Against the best mixtures of fixed N and schedules with the same selection, at equal accuracy, it "
        f"saves {interval} of their tokens{shown}."
    )


def _plain_votes(rows: Sequence[Row]) -> str:
    """What votes of so many candidates that they take as many tokens are right on."""
    known = [row for row in rows if VOTE_OF in row.policy and row.accuracy is not None]
    told = ", ".join(f"{row.policy} on {row.accuracy:.1%}" for row in known)
    return f" Right for as many tokens: {told}." if known else ""


def _right(shipped: Row, full: Row) -> str:
    if shipped.accuracy is None or full.accuracy is None:
        return "no verdicts are known"
    return f"right on {shipped.accuracy:.1%}, the reference on {full.accuracy:.1%}"
