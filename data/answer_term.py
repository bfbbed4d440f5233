"""Products of a number and factors that are text, as the keys of answers are made of."""

import re
from fractions import Fraction
from math import isqrt, prod
from typing import NamedTuple

LARGEST = 10**8
"""Up to this square factors are taken out of a root."""
BITS = 10_000
"""Of the largest number."""
POWER_BITS = 2_000
"""Of the largest power that is worked out."""

_ROOT = re.compile(r"\\sqrt\{(\d+)\}")
_SIMPLE = re.compile(r"\d+|[^\W\d_]|\\[A-Za-z]+|\([^()]*\)")


class Term(NamedTuple):
    """A product: a number, and factors above and below the line."""

    number: Fraction
    above: tuple[str, ...] = ()
    below: tuple[str, ...] = ()

    def __str__(self) -> str:
        p, q = self.number.as_integer_ratio()
        above = [*([str(abs(p))] if abs(p) != 1 or not self.above else []), *self.above]
        below = [*([str(q)] if q != 1 else []), *self.below]
        under = f"/({'*'.join(below)})" if len(below) > 1 else "/" + below[0] if below else ""
        return "-" * (p < 0) + "*".join(above) + under


def factor(text: str) -> Term:
    """One factor."""
    return Term(Fraction(1), (text,))


def simple(term: Term) -> str:
    """What can stand before and behind a ``^``."""
    text = str(term)
    return text if _SIMPLE.fullmatch(text) else f"({text})"


def times(one: Term, other: Term) -> Term:
    """The product, its factors sorted and the roots of numbers as one above the line."""
    number, above, below = one.number * other.number, one.above + other.above, one.below + other.below
    if max(map(int.bit_length, number.as_integer_ratio())) > BITS:
        raise ValueError(f"a number of more than {BITS} bits")
    roots, under = ([int(n[1]) for f in factors if (n := _ROOT.fullmatch(f))] for factors in (above, below))
    if roots or under:
        outer, inner = _split_root(prod(roots) * prod(under))
        number *= Fraction(outer, prod(under))
        above = (*(f for f in above if not _ROOT.fullmatch(f)), *([rf"\sqrt{{{inner}}}"] * (inner != 1)))
        below = tuple(f for f in below if not _ROOT.fullmatch(f))
    return Term(number, tuple(sorted(above)), tuple(sorted(below)))


def over(one: Term, other: Term) -> Term:
    """The quotient; raises ZeroDivisionError."""
    return times(one, Term(1 / other.number, other.below, other.above))


def _split_root(number: int) -> tuple[int, int]:
    """``a`` and ``b`` with a²b the number, b without square factors where the number is not too large."""
    sides = range(isqrt(number), 1, -1) if number <= LARGEST else ()
    outer = next((a for a in sides if number % (a * a) == 0), 1)
    return outer, number // (outer * outer)


def root(term: Term) -> Term:
    """The square root."""
    p, q = term.number.as_integer_ratio()
    if term.above or term.below or p < 0:
        return factor(rf"\sqrt{{{term}}}")
    return times(Term(Fraction(1, q)), factor(rf"\sqrt{{{p * q}}}")) if p else term


def power(base: Term, exponent: Term) -> Term:
    """The power, worked out where both are numbers, the exponent is whole and the result not too large."""
    if not any((*base[1:], *exponent[1:])) and exponent.number.denominator == 1:
        size = max(map(int.bit_length, base.number.as_integer_ratio())) * abs(exponent.number)
        if size < POWER_BITS:
            return Term(base.number ** int(exponent.number))
    return factor(f"{simple(base)}^{simple(exponent)}")
