"""Votes: what many candidates' answers say together, after each candidate.

A selection delivers one of the candidates drawn: the best-scored, or one whose answer leads a vote in which
each candidate weighs 1 (majority; Wang et al., arXiv 2203.11171) or a power of its score. A candidate without
an answer is no vote, but counts among those drawn.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import betainc

from data.arrays import Array, IntArray


class Votes(NamedTuple):
    """The vote of each question after each candidate; every array (questions, n), column k after k + 1."""

    chosen: IntArray
    """Place of the candidate that is delivered."""
    answer: IntArray
    """Its answer; -1 where it has none."""
    first: Array
    """Votes of the leading answer; votes sum to the number drawn less those without an answer."""
    second: Array
    third: Array
    distinct: IntArray
    """Different answers."""
    empty: IntArray
    """Candidates without an answer."""
    single: IntArray
    """Answers that one candidate gave."""
    since: IntArray
    """Candidates drawn since the leader last changed."""

    def at(self, columns: IntArray) -> "Votes":
        """Those in some columns of each question, (questions, k)."""
        return Votes._make(np.take_along_axis(values, columns, axis=1) for values in self)


def count_votes(answers: IntArray, weights: Array | None = None, scores: Array | None = None) -> Votes:
    """Count after each candidate.

    Parameters
    ----------
    answers : (questions, n) equal numbers for equal answers of a question; -1 for none.
    weights : (questions, n) at least 0; None weighs all alike. They are taken relative to their running mean,
        so votes are in candidates.
    scores : (questions, n) which of the leader's candidates is delivered: the best-scored; the first if None.
    """
    questions, n = answers.shape
    rows = np.arange(questions)
    keys = _number(answers)
    width = int(keys.max(initial=0)) + 1
    weights = np.ones(answers.shape) if weights is None else weights
    scores = np.zeros(answers.shape) if scores is None else scores
    votes, counts = np.zeros((questions, max(width, 3))), np.zeros((questions, max(width, 3)), np.int64)
    best, place = np.full((questions, max(width, 3)), -np.inf), np.zeros((questions, max(width, 3)), np.int64)
    total, leader, since = np.zeros(questions), np.full(questions, -1), np.zeros(questions, np.int64)
    empty, columns = np.zeros(questions, np.int64), []
    fallback, fallback_score = np.zeros(questions, np.int64), np.full(questions, -np.inf)
    for k in range(n):
        key, voted = keys[:, k], keys[:, k] >= 0
        at = rows[voted], key[voted]
        votes[at] += weights[voted, k]
        counts[at] += 1
        total += weights[:, k]
        better = scores[voted, k] > best[at]
        best[at] = np.where(better, scores[voted, k], best[at])
        place[at] = np.where(better, k, place[at])
        better = scores[:, k] > fallback_score
        fallback = np.where(better, k, fallback)
        fallback_score = np.where(better, scores[:, k], fallback_score)
        empty += ~voted
        # Only the answer just given can overtake; at equal votes the leader stays.
        overtakes = voted & ((leader < 0) | (votes[rows, key] > votes[rows, leader]))
        changed = overtakes & (leader != key)
        leader = np.where(overtakes, key, leader)
        since = np.where(changed, 0, since + 1)
        top = -np.partition(-votes, 2, axis=1)[:, :3] if votes.shape[1] > 3 else votes.copy()
        top = -np.sort(-top, axis=1) * ((k + 1) / np.where(total > 0, total, 1))[:, None]
        led = leader >= 0
        columns.append(
            (
                np.where(led, place[rows, leader], fallback),
                np.where(led, answers[rows, place[rows, leader]], -1),
                *top.T,
                (counts > 0).sum(axis=1),
                empty.copy(),
                (counts == 1).sum(axis=1),
                since,
            )
        )
    return Votes._make(np.stack(column, axis=1) for column in zip(*columns, strict=True))


def _number(answers: IntArray) -> IntArray:
    """(questions, n) answers numbered 0, 1, … by first appearance within a question; -1 stays."""
    ordered = np.sort(answers, axis=1)
    new = np.concatenate([np.ones((len(answers), 1), bool), ordered[:, 1:] != ordered[:, :-1]], axis=1)
    new &= ordered >= 0
    rank = np.cumsum(new, axis=1) - 1
    place = np.empty_like(rank)
    np.put_along_axis(place, answers.argsort(axis=1, kind="stable"), rank, axis=1)
    return np.where(answers >= 0, place, -1)


FEATURES = (
    "left",
    "first",
    "second",
    "third",
    "lead_to_left",
    "lead_to_noise",
    "distinct",
    "empty",
    "single",
    "since",
    "tail",
)


def agreement(votes: Votes) -> Array:
    """(questions, n) chance that the leading answer is more frequent than the second, a uniform prior given.

    Adaptive consistency stops where it is at least a threshold (Aggarwal et al., arXiv 2305.11860).
    """
    found: Array = betainc(votes.second + 1, votes.first + 1, 0.5)
    return found


def vote_features(votes: Votes, cap: int, drawn: IntArray | None = None) -> Array:
    """(questions, n, `FEATURES`): shares only, so that a rule learned at one cap can be asked at another.

    ``drawn``: candidates drawn at each column of the votes, 1, 2, … if None.
    """
    drawn = np.arange(1, votes.chosen.shape[1] + 1) if drawn is None else drawn
    left = np.maximum(cap - drawn, 0)
    lead = votes.first - votes.second
    columns = (
        np.broadcast_to(left / cap, lead.shape),
        votes.first / drawn,
        votes.second / drawn,
        votes.third / drawn,
        lead / (left + 1),
        lead / np.sqrt(votes.first + votes.second + 1),
        votes.distinct / drawn,
        votes.empty / drawn,
        votes.single / drawn,
        votes.since / drawn,
        agreement(votes),
    )
    return np.stack(columns, axis=-1)
