"""Math-Verify, Hugging Face's checker on SymPy, says of the same pairs what the keys say."""

import re
from functools import cache

import pytest
from math_verify import parse, verify

from tests.data.test_answers_key import NEAR_MISSES, SPELLINGS

pytestmark = [pytest.mark.slow, pytest.mark.suite]
# It reads these as something else: other alphabets, sentences, words, codes, bases, several kinds of space.
NOT_READ = re.compile(
    r"[^ -~]|[_:;]|bigl|small|\*\*|\d[eE][-+]?\d|\d \d|(?<![\\a-z{])[a-z]{2}|[A-Z.]{2}|[A-Za-z]\d|\d[A-Z]"
    r"|\d{4}|\d\\,\d|\\! |\\text\{[^}]*[=,%]|[A-Z][.)]|[7t] i\b|a, d"
)
# It takes these for equal: a set for a tuple, one in brackets for itself, an equation for its right side.
EQUAL_TO_IT = {("10", "[10]"), ("(1,2)", r"\{1,2\}"), ("2x+3", "f(x)=2x+3"), ("3/4x", "3/(4x)")}


@cache
def parsed(answer):
    return parse(f"${answer}$", parsing_timeout=None)


def agree(one, other):
    one, other = parsed(one), parsed(other)
    return verify(one, other, timeout_seconds=None) or verify(other, one, timeout_seconds=None)


def test_respellings_are_equal_to_it():
    pairs = [(a, b) for a, forms in SPELLINGS.items() for b in forms if not NOT_READ.search(f"{a}|{b}")]
    assert len(pairs) > 250
    assert [pair for pair in pairs if not agree(*pair)] == []


def test_near_misses_are_unequal_to_it():
    pairs = [(first, other) for first, *others in NEAR_MISSES for other in others]
    pairs = [pair for pair in pairs if not NOT_READ.search("|".join(pair))]
    assert len(pairs) > 120
    assert {pair for pair in pairs if agree(*pair)} == EQUAL_TO_IT
