"""Does the reward model help to choose? Selection happens within a question, so quality is measured there."""

import numpy as np

from data.arrays import Array
from predictor.replay import best_of, pick


def within_question_auc(scores: Array, correct: Array) -> tuple[float, int]:
    """Chance that a right candidate outscores a wrong one *of the same question*, ties counting half.

    An overall AUC flatters a reward model that merely separates easy questions from hard ones.

    Parameters
    ----------
    scores, correct : (questions, n); NaN where a candidate has no score or its answer is not known.

    Returns
    -------
    The mean over questions that have both kinds, and how many those are; NaN where there is none.
    """
    chances = []
    for values, right in zip(scores, correct, strict=True):
        known = ~np.isnan(values) & ~np.isnan(right)
        good, bad = values[known & (right == 1)], values[known & (right == 0)]
        if good.size and bad.size:
            chances.append((good[:, None] > bad).mean() + 0.5 * (good[:, None] == bad).mean())
    return (float(np.mean(chances)) if chances else np.nan, len(chances))


def selection_accuracy(scores: Array, correct: Array) -> dict[str, float]:
    """Share of right answers: a single sample, the best-scored of all, and any of all (a ceiling).

    Over the questions of which it is known of each candidate whether it is right; empty where there is none.

    Parameters
    ----------
    scores, correct : (questions, n); NaN beyond what was drawn, and where it is not known.
    """
    known = ~np.isnan(correct)
    judged = known.any(axis=1) & (known | np.isnan(scores)).all(axis=1)
    if not judged.any():
        return {}
    known, right = known[judged], np.nan_to_num(correct[judged])
    _, chosen = best_of(scores[judged])
    return {
        "accuracy_single": float((right.sum(axis=1) / known.sum(axis=1)).mean()),
        "accuracy_best": float(pick(right, chosen).mean()),
        "accuracy_any": float(right.max(axis=1).mean()),
    }
