r"""The canonical form of one answer, in LaTeX or plain text.

Numbers, fractions, roots, products and sums in any order, tuples, intervals, sets, matrices, equations and
words are read; what is not is compared as text, token by token. Fractions are reduced, factors and terms
sorted, square factors taken out of roots; there is no other algebra: ``2k+2`` is ``2+2k``, not ``2(k+1)``.

By convention these are left out: currency, percent and degree signs (``50\%`` is 50 and not .5), units
behind a number (so 5 cm is 5 m: the question says which), a single letter before ``=`` or ``\in``
(``x = 5`` is 5) and the case of letters. A list without brackets is a set.
"""

import re
from collections.abc import Iterable
from fractions import Fraction
from functools import lru_cache, reduce

from data.answer_term import Term, factor, over, power, root, simple, times

LONGEST = 2_000
"""Characters of an answer that is read as an expression."""
DEEPEST = 20
"""Brackets and arguments in one another."""

_SIGNS = str.maketrans(
    {"−": "-", "–": "-", "×": "*", "·": "*", "⋅": "*", "÷": "/", "°": " ", "²": "^2", "³": "^3", "’": "'"}
    | {"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "±": r"\pm "}
    | {"π": r"\pi ", "∞": r"\infty ", "∅": r"\emptyset ", "√": " sqrt ", "½": r"\frac12 "}
)
_REWRITES = [
    (re.compile(pattern), new)
    for pattern, new in (
        (r"(?<=\d)(?:\{,\}|\\,|\\!\s*,|,\s*\\!\s*)(?=\d{3}(?!\d))", ""),  # between thousands
        (r"(?:\\\\\s*)?\\end\{(?:[pb]|small)?(?:matrix|array)\}", r"\\endmatrix "),
        (r"\\begin\{(?:[pb]|small)?(?:matrix|array)\}(?:\s*\{[clr|]*\})?", r"\\matrix "),
        (r"\\\\", " ; "),  # rows
        (r"(?<!\\)&", " , "),
        (r"\\[,;:! ()\[\]]|~|\\?[$%]|\^\s*\{?\s*\\(?:circ|degree)\b\s*\}?", " "),
        (r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|q?quad)(?![A-Za-z])", " "),
        (r"\\(?:text|math|mbox|operatorname|bold)[a-z]*(?=\s*\{)", " "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"(?i)\b([ap])\.\s?m\b\.?", r"\1m"),
        (r"\s*([-+*/^_!])\s*", r"\1"),
        (r"\A[\s:\"`*]+|[\s.,;:\"`*]+\Z", ""),
        (r"\A\(?([A-Za-z])[).:]*\Z", r"\1"),  # a choice
        (r"(\\frac|\\sqrt)\s*(\d|[A-Za-z]\b)", r"\1{\2}"),
        (r"(\\frac\s*\{[^{}]*\})\s*(\d|[A-Za-z]\b)", r"\1{\2}"),
    )
]
_THOUSANDS = re.compile(r"(?<![\w,.(\[{])\d{1,3}(?:,\d{3})+(?![\w)\]}]|,\d)")
_MIXED = re.compile(
    r"(?<![\w.^/}])(\d+)(?:\s*\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}|\s+(\d+)/(\d+)(?![\d./^_!]))"
)
_TOKEN = re.compile(
    r"\\[A-Za-z]+|\\.|[1-9](?:\.\d+)?[eE][-+]?\d{1,3}(?![\w.^])"
    r"|(?!\w*(?:sqrt|pi|log|ln))\d*[^\W\d_]+\d[^\W_]*|[^\W\d_]+"  # H2O and 1B2 are codes
    r"|(?<![\w.)}\-+*/^])(?:\d+(?:/\d+){2,}|\d+(?:-\d+){2,}|0\d{3,})(?![\w.^])"  # a date, a code
    r"|(?<![\w./^])\d+/\d+(?![\d./^_!])"
    r"|\d+(?:\.\d*)?|\.\d+|<=|>=|!=|\*\*|\S"
)
_NUMBER = re.compile(r"(?!0\d{3})\d+(?:\.\d*)?(?:/\d+|e[-+]?\d{1,3})?|\.\d+")
_WORD = re.compile(r"[^\W\d_]{2,}")
_ATOM = re.compile(
    r"[^\W_]+(?:[/-]\d+)*|\\(?:alpha|beta|gamma|delta|epsilon|theta|lambda|mu|pi|rho|sigma|tau|phi|varphi|omega"
    r"|Delta|Omega|Phi|infty|emptyset)"
)
_FUNCTION = re.compile(r"\\?((?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|log|ln|exp)")
_UNIT = re.compile(
    r"[cdkm]m|in|inch(?:es)?|f(?:oo|ee)?t|(?:yard|mile|(?:centi|kilo)?(?:met(?:er|re)|gram)|lit(?:er|re))s?|ml|per"
    r"|square|cubic|sq|units?|[km]g|lbs?|oz|(?:pound|ounce|ton|gallon|hr)s?|[mk]ph|sec|min|percent|people|students?"
    r"|(?:second|minute|hour|day|week|month|year|dollar|cent|euro|degree|radian|way|point|digit)s?|th|st|nd|rd"
)

_NAMES = {"pi": r"\pi", "infinity": r"\infty", "sqrt": r"\sqrt", "**": "^", r"\times": "*", r"\cdot": "*"}
_NAMES |= {"<=": r"\le", r"\leq": r"\le", ">=": r"\ge", r"\geq": r"\ge", "!=": r"\ne", r"\neq": r"\ne"}
_NAMES |= {r"\div": "/", r"\varnothing": r"\emptyset"}
_CLOSING = {"{": "}", "(": ") ]", "[": ") ]", r"\{": r"\}", r"\matrix": r"\endmatrix"}
_ORDER = {"<", ">", r"\le", r"\ge"}
_RELATIONS = {"=", ":", r"\ne", r"\in", r"\cup", r"\cap", r"\approx", r"\equiv"} | _ORDER
_COMMAS = {",", ";", "and", "or"}
_DIGITS = ".0123456789"
_STOP = {"", *"+-*/^_!)]}", r"\}", r"\endmatrix"} | _COMMAS | _RELATIONS


class _UnreadableError(ValueError):
    """What is no expression of the kinds that are known here."""


@lru_cache(4096)
def canonical(answer: str) -> str:
    """The answer's canonical form; empty where nothing is left of it."""
    text = answer.translate(_SIGNS)
    for pattern, new in _REWRITES:
        text = pattern.sub(new, text)
    text = _THOUSANDS.sub(lambda found: found[0].replace(",", ""), text)
    text = _MIXED.sub(_add_up, text)
    if text.count(r"\pm") == 1 and not set(",;") & set(text) and r"\{" not in text:
        text = ",".join(text.replace(r"\pm", sign) for sign in "+-")
    tokens = [token if token[0] == "\\" else token.casefold() for token in _TOKEN.findall(text)]
    try:
        return _Reader(_NAMES.get(token, token) for token in tokens).answer() if tokens else ""
    except (ValueError, ZeroDivisionError):
        return " ".join(tokens)


def _add_up(found: re.Match[str]) -> str:
    """A mixed number as a fraction; one and three halves is none."""
    whole, p, q = (int(part) for part in found.groups() if part)
    return f"({whole * q + p}/{q})" if p < q else found[0]


class _Reader:
    """Reads tokens from left to right; each says how to go on, so none is read twice."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self.tokens = [*tokens, ""]
        self.at = self.depth = 0

    @property
    def next(self) -> str:
        return self.tokens[self.at]

    def take(self, *choices: str) -> str:
        """The next token if it is one of these, else nothing."""
        if not self.next or self.next not in choices:
            return ""
        self.at += 1
        return self.tokens[self.at - 1]

    def answer(self) -> str:
        items, _ = self.items()
        if self.next:
            raise _UnreadableError
        names = {str(item[0]) for item in items if len(item) == 3 and str(item[1]) in ("=", r"\in")}
        if names == {name := str(items[0][0])} and len(name) == 1:
            items = [item[2:] if str(item[0]) == name else item for item in items]
        return _joined(items[0]) if len(items) == 1 else _set(items)

    def items(self) -> tuple[list[list[Term]], list[str]]:
        """The items of a list, each as sides and relations, and what is between them."""
        items, between = [self.item()], list[str]()
        while comma := self.take(*_COMMAS):
            self.take("and", "or")
            between.append("; " if comma == ";" else ", ")
            items.append(self.item())
        # "x > 1 or x < 0" is not "x > 1 and x < 0", while of solutions both are said.
        if between and any(str(side) in _ORDER for item in items for side in item):
            raise _UnreadableError
        return items, between

    def item(self) -> list[Term]:
        sides = [self.sum()]
        while relation := self.take(*_RELATIONS):
            sides += [factor(relation), self.sum()]
        if {*map(str, sides[1::2])} == {r"\cup"}:
            sides[::2] = sorted(sides[::2], key=str)
        return sides

    def sum(self) -> Term:
        terms = [self.product()]
        while self.next in ("+", "-"):
            terms.append(self.product())
        if len(terms) == 1:
            return terms[0]
        signed = (term if term[0] == "-" else "+" + term for term in sorted(map(str, terms)))
        return factor(f"({''.join(signed).removeprefix('+')})")

    def product(self) -> Term:
        value = self.run()
        while sign := self.take("*", "/"):
            value = times(value, self.run()) if sign == "*" else over(value, self.run())
        return value

    def run(self, functions: bool = True) -> Term:
        """A sign, and factors side by side, which bind stronger than ``/``; but 1/2x is half of x.

        A number behind another factor makes it a phrase, which keeps its order, as does a word before one.
        """
        sign, parts, first = self.sign(), list[Term](), list[str]()
        while self.next not in _STOP and (functions or not parts or not _FUNCTION.fullmatch(self.next)):
            first.append(self.next)
            parts.append(self.factor())
        if not parts:
            raise _UnreadableError
        end = len(parts)
        while end > 1 and _UNIT.fullmatch(first[end - 1]):
            end -= 1
        words = [_WORD.fullmatch(str(part)) is not None for part in parts]
        if not any(words[:end]):
            parts = parts[:end]
        if any(words[: len(parts) - 1]) or any(token[0] in _DIGITS for token in first[1:]):
            parts = [_phrase(parts)]
        value = reduce(times, parts)
        return value._replace(number=sign * value.number)

    def sign(self) -> int:
        sign = 1
        while mark := self.take("+", "-"):
            sign *= -1 if mark == "-" else 1
        return sign

    def factor(self) -> Term:
        base = self.primary()
        while mark := self.take("^", "_", "!"):
            if mark == "^":
                sign, exponent = self.sign(), self.primary()
                base = power(base, exponent._replace(number=sign * exponent.number))
            else:
                base = factor(simple(base) + mark + (simple(self.primary()) if mark == "_" else ""))
        return base

    def primary(self) -> Term:
        token, self.at, self.depth = self.next, self.at + 1, self.depth + 1
        if token in _STOP or self.depth > DEEPEST:
            raise _UnreadableError
        if _NUMBER.fullmatch(token):
            found = Term(Fraction(token))
        elif token in _CLOSING:
            found = self.group(token)
        elif token == r"\frac":
            found = over(self.primary(), self.primary())
        elif token == r"\sqrt":
            index = self.group("[") if self.take("[") else None
            found = factor(rf"\sqrt{index}{{{self.primary()}}}") if index else root(self.primary())
        elif name := _FUNCTION.fullmatch(token):
            found = self.function("\\" + name[1])
        elif _ATOM.fullmatch(token):
            if _WORD.fullmatch(token) and self.next in ("^", "_") and not _UNIT.fullmatch(token):
                self.at -= 1
                token, self.tokens[self.at] = token[:-1], token[-1]  # of ab^2 the power is b's
            found = factor(token)
        else:
            raise _UnreadableError
        self.depth -= 1
        return found

    def group(self, opening: str) -> Term:
        items, between = self.items()
        closing = self.take(*_CLOSING[opening].split())
        if not closing:
            raise _UnreadableError
        if opening + closing in ("()", "{}") and len(items) == 1:
            return items[0][0] if len(items[0]) == 1 else factor(f"({_joined(items[0])})")
        if opening in ("{", r"\{"):
            return factor(_set(items))
        inside = "".join(_joined(item) + comma for item, comma in zip(items, [*between, ""], strict=True))
        return factor(f"{opening} {inside}{closing}" if opening == r"\matrix" else opening + inside + closing)

    def function(self, name: str) -> Term:
        while mark := self.take("^", "_"):
            name += mark + simple(self.primary())
        if self.next in _STOP:
            return factor(name)
        argument = self.primary() if self.next in ("(", "{") else self.run(functions=False)
        return factor(f"{name}({argument})")


def _joined(item: list[Term]) -> str:
    return " ".join(map(str, item))


def _set(items: list[list[Term]]) -> str:
    return rf"\{{{', '.join(sorted(map(_joined, items)))}\}}"


def _phrase(parts: list[Term]) -> Term:
    text = " ".join(map(str, parts))
    if not re.fullmatch(r"[\w ]+", text):
        raise _UnreadableError
    return factor(text)
