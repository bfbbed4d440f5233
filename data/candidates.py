"""Scored candidates as arrays: what replay works on."""

from typing import NamedTuple

import numpy as np

from data.arrays import Array, IntArray


class Candidates(NamedTuple):
    """Scored candidates of many questions, in the order drawn; every array (questions, n).

    A candidate that failed, was cut, or is over-length has a score of 0: a miss with its cost.
    """

    scores: Array
    """In [0, 1]; all NaN where nothing scored the candidates."""
    correct: Array
    """1, 0, or NaN where it is not known."""
    tokens: Array
    """Completion tokens."""
    reward_tokens: Array
    """Tokens that the reward model read."""
    answers: IntArray
    """Equal numbers stand for equal answers of a question; -1 where there is none."""

    def shuffled(self, seed: int) -> "Candidates":
        """Every question's candidates in another order, the same for all its columns."""
        order = np.random.default_rng(seed).random(self.scores.shape).argsort(axis=1)
        return Candidates._make(np.take_along_axis(values, order, axis=1) for values in self)

    def select(self, rows: slice | IntArray) -> "Candidates":
        """Those of some questions."""
        return Candidates._make(values[rows] for values in self)

    def first(self, n: int) -> "Candidates":
        """The first ``n`` candidates of every question."""
        return Candidates._make(values[:, :n] for values in self)
