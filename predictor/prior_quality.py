"""How well a predictor's priors predict the scores of questions that it has not read."""

import numpy as np
from scipy.special import logsumexp
from scipy.stats import spearmanr

from data.arrays import IntArray
from predictor.prior import Prior, log_evidence
from predictor.replay import Interval
from predictor.scored_questions import ScoredQuestions


def prior_metrics(sample: ScoredQuestions, population: Prior) -> dict[str, float]:
    """Accuracy of the priors on the sample, against the population's prior."""
    table, priors = sample.table, sample.require_priors()
    likelihood = priors.family.log_likelihood(table.scores)
    evidence = logsumexp(priors.table[priors.index] + likelihood, axis=1)
    gain = evidence - log_evidence([population] * len(table), likelihood)
    metrics = _accuracy(sample, population, np.arange(len(table)))
    return metrics | {"evidence_gain": float(gain.sum() / (~np.isnan(table.scores)).sum())}


def prior_intervals(sample: ScoredQuestions, population: Prior) -> dict[str, Interval]:
    """Skills and rank correlations of `prior_metrics` with 95 % intervals, questions resampled."""
    rng, count = np.random.default_rng(0), len(sample.table)
    again = [_accuracy(sample, population, rng.integers(0, count, count)) for _ in range(500)]
    whole = _accuracy(sample, population, np.arange(count))
    ends = {name: np.nanquantile([values[name] for values in again], [0.025, 0.975]) for name in whole}
    return {name: Interval(value, *map(float, ends[name])) for name, value in whole.items()}


def _accuracy(sample: ScoredQuestions, population: Prior, rows: IntArray) -> dict[str, float]:
    """Skill (1 - MSE / MSE of the population's prior) and rank correlation, of the mean and the deviation."""
    scores = sample.table.scores[rows]
    observed = {"mean": np.nanmean(scores, axis=1), "std": np.nanstd(scores, axis=1, ddof=1)}
    metrics = {}
    for (name, seen), predicted, constant in zip(
        observed.items(), sample.require_priors().moments, population.moments(), strict=True
    ):
        known = np.isfinite(seen)
        seen, prior = seen[known], predicted[rows][known]
        metrics[f"{name}_skill"] = 1 - float(np.mean((seen - prior) ** 2) / np.mean((seen - constant) ** 2))
        metrics[f"{name}_rank_correlation"] = float(spearmanr(seen, prior).statistic)
    return metrics
