"""The pool as arrays: what fits, decisions and reports work on."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from data.folds import Fold, FoldSettings
from data.pool import Pool, Row, question_of
from predictor.errors import PoolError
from predictor.question import Question

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Questions and their candidates in the order drawn; arrays are (questions, candidates)."""

    questions: list[Question]
    folds: NDArray[np.str_]
    """(questions,) fold of each question."""
    scores: Array
    """NaN where a candidate has no score: it failed, was cut, or was never drawn."""
    drawn: NDArray[np.int64]
    """(questions,) candidates drawn."""
    correct: Array
    """1, 0, or NaN where it is not known."""
    tokens: Array
    """Completion tokens; 0 beyond ``drawn``."""
    reward_tokens: Array
    """Tokens that the reward model read."""
    prompt_tokens: Array
    """(questions,) tokens of the prompt."""

    def __len__(self) -> int:
        return len(self.questions)

    def select(self, rows: NDArray[np.bool_]) -> "ScoreTable":
        """The questions where ``rows`` is true."""
        chosen = np.flatnonzero(rows)
        arrays = ("folds", "scores", "drawn", "correct", "tokens", "reward_tokens", "prompt_tokens")
        parts = {name: getattr(self, name)[chosen] for name in arrays}
        return replace(self, questions=[self.questions[i] for i in chosen], **parts)

    def fold(self, *names: Fold) -> "ScoreTable":
        """The questions of these folds."""
        return self.select(np.isin(self.folds, names))


def load_scores(pool: Pool, folds: FoldSettings) -> ScoreTable:
    """All questions of the pool, in the order of their ids.

    Raises
    ------
    PoolError
        If the pool is empty or broken, or lists a candidate twice.
    """
    return tabulate(pool.rows(), folds, f"pool {pool.location}")


def tabulate(rows_: Iterable[Row], folds: FoldSettings, where: str) -> ScoreTable:
    """Rows of a pool as arrays; see `load_scores`."""
    by_question: dict[str, list[Row]] = {}
    for row in rows_:
        by_question.setdefault(row["question_id"], []).append(row)
    if not by_question:
        raise PoolError(f"{where} is empty; collect candidates first")
    ids = sorted(by_question)
    width = max(len(rows) for rows in by_question.values())
    blank = np.full((len(ids), width), np.nan)
    scores, correct = blank.copy(), blank.copy()
    tokens, reward_tokens = np.zeros_like(blank), np.zeros_like(blank)
    questions, drawn, prompts = [], np.zeros(len(ids), dtype=np.int64), np.zeros(len(ids))
    for place, question_id in enumerate(ids):
        rows = sorted(by_question[question_id], key=lambda r: int(r["candidate"]))
        numbers = [r["candidate"] for r in rows]
        if len(set(numbers)) != len(numbers):
            raise PoolError(f"{where}: question {question_id} has a candidate twice")
        questions.append(question_of(rows[0]))
        drawn[place] = len(rows)
        prompts[place] = rows[0]["prompt_tokens"]
        for column, row in enumerate(rows):
            # A candidate that was cut may carry a score; it counts as a miss all the same.
            usable = row["status"] == "complete" and row["score"] is not None
            scores[place, column] = row["score"] if usable else np.nan
            correct[place, column] = np.nan if row["correct"] is None else row["correct"]
            tokens[place, column] = row["completion_tokens"]
            reward_tokens[place, column] = row["reward_tokens"]
    sides = np.array([folds.fold_of(q, questions[i].group) for i, q in enumerate(ids)])
    return ScoreTable(questions, sides, scores, drawn, correct, tokens, reward_tokens, prompts)
