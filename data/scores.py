"""The pool as arrays: what fits, decisions and reports work on."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.answers import extract_answer
from data.candidates import Candidates
from data.errors import PoolError
from data.folds import Fold, FoldSettings
from data.pool import Pool, Row, question_of
from data.question import Question, normalise

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Questions and their candidates in the order drawn; arrays are (questions, candidates)."""

    questions: list[Question]
    folds: NDArray[np.str_]
    """(questions,) fold of each question."""
    parts: IntArray
    """(questions,) number of the part that holds the question, in the order of collection."""
    drawn: IntArray
    """(questions,) candidates drawn."""
    prompt_tokens: Array
    """(questions,) tokens of the prompt."""
    scores: Array
    """0 where a candidate has no score (it failed, was cut or over-length: a miss); NaN beyond ``drawn``."""
    correct: Array
    """1, 0, or NaN where it is not known."""
    tokens: Array
    """Completion tokens; 0 beyond ``drawn``."""
    reward_tokens: Array
    """Tokens that the reward model read."""
    status: NDArray[np.str_]
    """Status of each candidate; empty beyond ``drawn``."""
    texts: IntArray
    """Equal numbers stand for equal completions of a question; -1 where there is no text."""
    answers: IntArray
    """Equal numbers stand for equal answers of a question; -1 where none is found."""

    def __len__(self) -> int:
        return len(self.questions)

    def select(self, rows: NDArray[np.bool_]) -> "ScoreTable":
        """The questions where ``rows`` is true."""
        chosen = np.flatnonzero(rows)
        arrays = {f.name: getattr(self, f.name)[chosen] for f in fields(self) if f.name != "questions"}
        return replace(self, questions=[self.questions[i] for i in chosen], **arrays)

    def fold(self, *names: Fold) -> "ScoreTable":
        """The questions of these folds."""
        return self.select(np.isin(self.folds, names))

    @property
    def groups(self) -> NDArray[np.str_]:
        """(questions,) group of each question; empty where it has none."""
        return np.array([q.group or "" for q in self.questions])

    def full(self, cap: int) -> "ScoreTable":
        """The questions that were sampled up to the cap: only they can be replayed without bias.

        Raises
        ------
        PoolError
            If there is none.
        """
        found = self.select(self.drawn >= cap)
        if not len(found):
            raise PoolError(
                f"no question has {cap} candidates (the most is {self.drawn.max(initial=0)}); lower the "
                "policy's cap or collect more candidates a question"
            )
        return found

    @property
    def tokens_known(self) -> bool:
        """Whether the pool tells what candidates cost; scores imported without token counts do not."""
        return bool(self.tokens.any())

    def candidates(self, cap: int) -> Candidates:
        """The first ``cap`` candidates as replay takes them; see `full`.

        Where token counts are not known each candidate counts as one token.
        """
        tokens = self.tokens if self.tokens_known else np.ones_like(self.tokens)
        return Candidates(
            scores=self.scores[:, :cap],
            correct=self.correct[:, :cap],
            tokens=tokens[:, :cap],
            reward_tokens=self.reward_tokens[:, :cap],
            answers=self.answers[:, :cap],
        )


def load_scores(pool: Pool, folds: FoldSettings) -> ScoreTable:
    """All questions of the pool, in the order of their ids; texts are read part by part and not kept.

    Raises
    ------
    PoolError
        If the pool is empty or broken, or lists a candidate twice.
    """
    number = {q: n for n, part in enumerate(pool.manifest.parts) for q in part.question_ids}
    return tabulate(pool.rows(), folds, f"pool {pool.location}", number)


def tabulate(
    rows_: Iterable[Row], folds: FoldSettings, where: str, parts: dict[str, int] | None = None
) -> ScoreTable:
    """Rows of a pool as arrays; see `load_scores`."""
    by_question: dict[str, list[tuple[Any, ...]]] = {}
    questions: dict[str, Question] = {}
    prompts: dict[str, int] = {}
    for row in rows_:
        key = row["question_id"]
        if key not in questions:
            questions[key], prompts[key] = question_of(row), row["prompt_tokens"]
        by_question.setdefault(key, []).append(_columns(row))
    if not by_question:
        raise PoolError(f"{where} is empty; collect candidates first")
    ids = sorted(by_question)
    drawn = np.array([len(by_question[q]) for q in ids], dtype=np.int64)
    shape = (len(ids), int(drawn.max()))
    blanks = (np.nan, np.nan, 0.0, 0.0, "", -1, -1)
    kinds = (float, float, float, float, "U16", np.int64, np.int64)
    filled = [np.full(shape, b, dtype=k) for b, k in zip(blanks, kinds, strict=True)]
    for place, question_id in enumerate(ids):
        rows = sorted(by_question[question_id], key=lambda columns: columns[0])
        numbers = [columns[0] for columns in rows]
        if len(set(numbers)) != len(numbers):
            raise PoolError(f"{where}: question {question_id} has a candidate twice")
        for array, values in zip(filled, list(zip(*rows, strict=True))[1:], strict=True):
            array[place, : len(rows)] = values
    sides = np.array([folds.fold_of(q, questions[q].group) for q in ids])
    part = np.array([(parts or {}).get(q, 0) for q in ids], dtype=np.int64)
    asked = [questions[q] for q in ids]
    return ScoreTable(asked, sides, part, drawn, np.array([prompts[q] for q in ids], float), *filled)


def _columns(row: Row) -> tuple[Any, ...]:
    # A candidate that was cut may carry a score; it counts as a miss all the same.
    usable = row["status"] == "complete" and row["score"] is not None
    text = row["completion"]
    answer = None if text is None else extract_answer(text)
    return (
        row["candidate"],
        row["score"] if usable else 0.0,
        np.nan if row["correct"] is None else float(row["correct"]),
        row["completion_tokens"],
        row["reward_tokens"],
        row["status"],
        -1 if text is None else _digest(text),
        -1 if answer is None else _digest(normalise(answer).casefold()),
    )


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(errors="replace"), digest_size=7).digest())
