"""The pool as arrays: what fits, decisions and reports work on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data.answers import key_of
from data.arrays import Array, IntArray
from data.candidates import Candidates
from data.errors import PoolError, ScoreError
from data.files import short_digest
from data.folds import Fold, FoldSettings
from data.pool import Pool
from data.question import Question
from data.rows import Row, question_of
from data.score_map import ScoreMap

ONE_OF_ALL = ("questions", "scale", "score_map")
"""Fields of a table that are no arrays by question."""


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
    scale: Literal["unit", "raw", "none"]
    """Whether the candidates have scores in [0, 1], raw ones (see `mapped`), or none."""
    scores_or_nan: Array
    """In [0, 1]; 0 where a candidate failed, was cut or over-length: a miss; NaN beyond ``drawn``, and
    everywhere where the pool has no scores in [0, 1]."""
    raw_scores: Array
    """Scores as they came, where the pool keeps raw ones; else NaN."""
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
    score_map: ScoreMap | None = None
    """What mapped raw scores to those in [0, 1]."""

    def __len__(self) -> int:
        return len(self.questions)

    def select(self, rows: NDArray[np.bool_]) -> "ScoreTable":
        """The questions where ``rows`` is true."""
        chosen = np.flatnonzero(rows)
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ONE_OF_ALL}
        arrays = {name: values[chosen] for name, values in arrays.items()}
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

    def usual_cap(self, most: int) -> int:
        """Candidates that 95 % of the questions outside the train fold have, at most ``most``."""
        drawn = self.drawn[self.folds != "train"]
        return min(most, int(np.quantile(drawn if drawn.size else self.drawn, 0.05, method="lower")))

    @property
    def signal(self) -> Array:
        """What findings about the order of candidates are read from; NaN beyond ``drawn``.

        Scores; where there are none, whether a candidate gives the question's most frequent answer.
        """
        if self.has_scores:
            return self.scores
        found = np.full(self.answers.shape, np.nan)
        for row, answers in enumerate(self.answers):
            given = answers[: self.drawn[row]]
            values, counts = np.unique(given[given >= 0], return_counts=True)
            found[row, : len(given)] = given == values[counts.argmax()] if values.size else 0.0
        return found

    @property
    def has_tokens(self) -> bool:
        """Whether the pool tells what candidates cost; one imported without token counts does not."""
        return bool(self.tokens.any())

    @property
    def has_scores(self) -> bool:
        """Whether candidates have scores in [0, 1]."""
        return self.scale == "unit"

    @property
    def scores(self) -> Array:
        """Scores in [0, 1]; 0 for a miss, NaN beyond ``drawn``.

        Raises
        ------
        ScoreError
            If the pool has none.
        """
        if not self.has_scores:
            why = {"raw": "they are raw, and no map of them is known", "none": "nothing scored them"}
            raise ScoreError(
                f"this pool has no scores: {why[self.scale]}; use what goes by answers, or import scores "
                "in [0, 1]"
            )
        return self.scores_or_nan

    def mapped(self, score_map: ScoreMap) -> "ScoreTable":
        """The table with raw scores mapped to [0, 1]; a candidate without one is a miss."""
        scores = np.nan_to_num(score_map.apply(self.raw_scores), nan=0.0)
        beyond = np.arange(scores.shape[1]) >= self.drawn[:, None]
        scores = np.where(beyond, np.nan, scores)
        return replace(self, scale="unit", scores_or_nan=scores, score_map=score_map)

    def candidates(self, cap: int) -> Candidates:
        """The first ``cap`` candidates as replay takes them; see `full`.

        Where token counts are not known each candidate counts as one token; where there are no scores in
        [0, 1] (see `has_scores`) they are NaN.
        """
        tokens = self.tokens if self.has_tokens else np.ones_like(self.tokens)
        every = Candidates(self.scores_or_nan, self.correct, tokens, self.reward_tokens, self.answers)
        return every.first(cap)


def load_scores(pool: Pool, folds: FoldSettings, score_map: ScoreMap | None = None) -> ScoreTable:
    """All questions of the pool, in the order of their ids; texts are read part by part and not kept.

    Raw scores are mapped to [0, 1] by ``score_map``, or else by their rank among the train fold's; where that
    has none they stay raw.

    Raises
    ------
    PoolError
        If the pool is empty or broken, or lists a candidate twice.
    """
    number = {q: n for n, part in enumerate(pool.manifest.parts) for q in part.question_ids}
    contract = pool.manifest.contract
    scale = contract.scale if contract.reward_model else "none"
    table = tabulate(pool.rows(), folds, f"pool {pool.location}", number, scale)
    if scale != "raw":
        return table
    train = table.fold("train").raw_scores
    if score_map is None and np.isfinite(train).any():
        score_map = ScoreMap.fit(train)
    return table if score_map is None else table.mapped(score_map)


def tabulate(
    rows: Iterable[Row],
    folds: FoldSettings,
    where: str,
    parts: Mapping[str, int] | None = None,
    scale: Literal["unit", "raw", "none"] = "unit",
) -> ScoreTable:
    """Rows of a pool whose scores are of ``scale`` as arrays; see `load_scores`."""
    questions: dict[str, Question] = {}
    prompts: dict[str, int] = {}
    found: list[tuple[Any, ...]] = []
    for row in rows:
        key = row["question_id"]
        if key not in questions:
            questions[key], prompts[key] = question_of(row), row["prompt_tokens"]
        found.append((key, row["candidate"], *_columns(row, scale)))
    if not found:
        raise PoolError(f"{where} is empty; collect candidates first")
    found.sort(key=lambda columns: columns[:2])
    for one, other in pairwise(found):
        if one[:2] == other[:2]:
            raise PoolError(f"{where}: question {one[0]} has candidate {one[1]} twice")
    keys, _, *columns = zip(*found, strict=True)
    ids, place, drawn = np.unique(keys, return_inverse=True, return_counts=True)
    folds = folds.sized(len(ids))
    number = np.arange(len(keys)) - (drawn.cumsum() - drawn)[place]
    arrays: dict[str, Any] = {name: np.full((len(ids), drawn.max()), blank) for name, blank in BLANKS.items()}
    for array, values in zip(arrays.values(), columns, strict=True):
        array[place, number] = values
    return ScoreTable(
        questions=[questions[q] for q in ids],
        folds=np.array([folds.fold_of(q, questions[q].group) for q in ids]),
        parts=np.array([(parts or {}).get(q, 0) for q in ids], dtype=np.int64),
        drawn=drawn,
        prompt_tokens=np.array([prompts[q] for q in ids], float),
        scale=scale,
        **arrays,
    )


BLANKS: dict[str, Any] = {
    "scores_or_nan": np.nan,
    "raw_scores": np.nan,
    "correct": np.nan,
    "tokens": 0.0,
    "reward_tokens": 0.0,
    "status": np.array("", "U16"),
    "texts": np.int64(-1),
    "answers": np.int64(-1),
}
"""Arrays of a table by candidate, and what they hold beyond ``drawn``."""


def _columns(row: Row, scale: str) -> tuple[Any, ...]:
    """A candidate's values, in the order of `BLANKS`."""
    # A candidate that was cut may carry a score; it counts as a miss all the same.
    complete = row["status"] == "complete"
    score, raw = (row[name] if complete else None for name in ("score", "raw_score"))
    text, answer = row["completion"], key_of(row["answer_key"], row["completion"])
    return (
        np.nan if scale != "unit" else 0.0 if score is None else score,
        np.nan if raw is None else raw,
        np.nan if row["correct"] is None else float(row["correct"]),
        row["completion_tokens"],
        row["reward_tokens"],
        row["status"],
        -1 if text is None else int(short_digest(text)[:15], 16),
        int(short_digest(answer)[:15], 16) if answer else -1,
    )
