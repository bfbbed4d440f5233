"""Selection: which of the candidates drawn is the answer."""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from scipy.optimize import isotonic_regression

from data.arrays import Array, IntArray
from data.candidates import Candidates
from data.errors import ScoreError
from data.record import Record
from predictor.votes import Votes, count_votes

POWERS = (0.5, 1.0, 2.0, 3.0, 5.0, 8.0)
STEPS = 21


class Selection(Record):
    """How one of the candidates drawn is chosen; JSON in and out."""

    kind: Literal["best_score", "majority", "weighted_vote"] = "best_score"
    """The best score; the answer with most votes; the same with votes weighed by the score."""
    power: float = Field(3.0, gt=0)
    """A vote weighs its score to this power."""
    weights: tuple[Annotated[float, Field(ge=0)], ...] | None = Field(None, min_length=2)
    """A vote's weight at scores in equal steps from 0 to 1, instead of a power of them."""

    @property
    def reads_scores(self) -> bool:
        """Whether it needs a verifier."""
        return self.kind != "majority"

    def count(self, answers: IntArray, scores: Array | None) -> Votes:
        """The vote after each candidate, and which candidate is delivered then.

        Parameters
        ----------
        answers : (questions, n) equal numbers for equal answers of a question; -1 for none.
        scores : (questions, n) in [0, 1]; None where there is no verifier.

        Raises
        ------
        ScoreError
            If it needs scores and there are none.
        """
        if scores is None or np.isnan(scores).all():
            if self.reads_scores:
                raise ScoreError(
                    f"{self.kind} needs scores, and there are none: have candidates scored, or take majority"
                )
            return count_votes(answers)
        scores = np.nan_to_num(scores)
        weights = self.weigh(scores) if self.kind == "weighted_vote" else None
        votes = count_votes(answers, weights, scores if self.reads_scores else None)
        if self.kind != "best_score":
            return votes
        chosen = _best_so_far(scores)
        return votes._replace(chosen=chosen, answer=np.take_along_axis(answers, chosen, axis=1))

    def choose(self, answers: IntArray, scores: Array | None) -> int:
        """Place of the candidate that is delivered of one question's, both (1, n) as `count` takes them."""
        if self.kind == "best_score" and scores is not None and not np.isnan(scores).all():
            return int(np.nan_to_num(scores).argmax())  # no vote needs to be counted
        return int(self.count(answers, scores).chosen[0, -1])

    def weigh(self, scores: Array) -> Array:
        """Weights of votes, at least 0, of scores in [0, 1]."""
        if self.weights is None:
            return scores**self.power
        return np.interp(scores, np.linspace(0, 1, len(self.weights)), self.weights)


def _best_so_far(scores: Array) -> IntArray:
    """(questions, n) place of the best score up to each candidate; the first of equals."""
    before = np.pad(np.maximum.accumulate(scores, axis=1), ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    return np.maximum.accumulate(np.where(scores > before, np.arange(scores.shape[1]), 0), axis=1)


def number_answers(keys: Sequence[str | None]) -> IntArray:
    """(1, n) equal numbers for equal keys of one question's answers, -1 for None."""
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys)) if key is not None}
    return np.array([[-1 if key is None else numbers[key] for key in keys]], dtype=np.int64)


def choose_weights(candidates: Candidates) -> Selection:
    """The weighted vote that is right most often with all candidates: a power, or calibrated log-odds.

    Parameters
    ----------
    candidates : of questions to choose on; those whose verdicts are unknown count for nothing.

    Raises
    ------
    ScoreError
        If there is no score.
    """
    options = [Selection(kind="weighted_vote", power=power) for power in POWERS]
    if (odds := log_odds(candidates)) is not None:
        options.append(Selection(kind="weighted_vote", weights=odds))
    return max(options, key=lambda option: accuracy(option, candidates))


def accuracy(selection: Selection, candidates: Candidates) -> float:
    """Share of questions whose delivered answer is right with all candidates; 0 where no verdict is known."""
    chosen = selection.count(candidates.answers, candidates.scores).chosen[:, -1:]
    right = np.take_along_axis(candidates.correct, chosen, axis=1)
    return 0.0 if np.isnan(right).all() else float(np.nanmean(right))


def log_odds(candidates: Candidates) -> tuple[float, ...] | None:
    """Weights at `STEPS` scores: log-odds of being right over those at the lowest; None without verdicts.

    The chance of being right given the score is fitted by isotonic regression (pool adjacent violators), with
    one right and one wrong candidate added to each step.
    """
    scores, correct = candidates.scores.ravel(), candidates.correct.ravel()
    known = ~np.isnan(scores) & ~np.isnan(correct)
    if not known.any():
        return None
    step = np.round(scores[known] * (STEPS - 1)).astype(int)
    seen = np.bincount(step, minlength=STEPS)
    right = np.bincount(step, correct[known], minlength=STEPS)
    share = isotonic_regression((right + 1) / (seen + 2), weights=seen + 2.0).x
    odds = np.log(share / (1 - share))
    weights: list[float] = (odds - odds[0] + 0.05).round(4).tolist()
    return tuple(weights)
