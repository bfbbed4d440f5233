"""What a set of questions looks like: by this it is seen that another question is of another kind."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Self

import numpy as np

from data.question import Question
from data.record import Record

WORD = re.compile(r"[぀-ヿ一-鿿]|[^\W\d_]+(?:['’][^\W\d_]+)*")
"""A word, or a character of a language that is written without blanks."""
COMMON, MOST = 0.02, 200
"""A word is common if this share of questions has it; so many of them are kept at most."""
RARE, SLACK = 0.005, 0.5
"""A question is of other words if it has fewer common ones than `SLACK` of what all but `RARE` have."""


class Shapes(Record):
    """The turns that some question of a set has, and the words that many of them share.

    A question in another language has few of these words. One of other matters in the same language may have
    as many: nothing is said of what a question is about.
    """

    turns: tuple[str, ...]
    """Such as ``system, one turn`` or ``several turns, prefill``."""
    words: tuple[str, ...]
    """Common words, the commonest first."""
    least: float
    """Share of a question's words that are common at least."""

    @classmethod
    def of(cls, questions: Sequence[Question]) -> Self:
        """The shapes of a set that is not empty."""
        counted = Counter(word for question in questions for word in set(_words(question)))
        kept = [w for w, n in counted.most_common(MOST) if n >= COMMON * len(questions)]
        shares = [_share(question, frozenset(kept)) for question in questions]
        least = SLACK * float(np.quantile(shares, RARE))
        return cls(turns=tuple(sorted(set(map(_turns, questions)))), words=tuple(kept), least=least)

    def has(self, question: Question) -> bool:
        """Whether some question of the set looks like this one."""
        return _turns(question) in self.turns and _share(question, frozenset(self.words)) >= self.least


def _turns(question: Question) -> str:
    roles = [turn.role for turn in question.messages]
    told = ["system"] if "system" in roles else []
    told.append("one turn" if roles.count("user") <= 1 else "several turns")
    return ", ".join([*told, "prefill"] if roles[-1] == "assistant" else told)


def _words(question: Question) -> list[str]:
    return WORD.findall(" ".join(t.content for t in question.messages if t.role == "user").lower())


def _share(question: Question, common: frozenset[str]) -> float:
    """Share of a question's words that are common; 1 where it has none, as a bare formula."""
    words = _words(question)
    return sum(word in common for word in words) / len(words) if words else 1.0
