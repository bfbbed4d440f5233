"""How well a predictor's priors foretell the scores of questions that it has not read."""

import numpy as np
from scipy.special import logsumexp
from scipy.stats import spearmanr

from predictor.prior import Prior, log_evidence
from predictor.scored_questions import ScoredQuestions


def prior_metrics(sample: ScoredQuestions, population: Prior) -> dict[str, float]:
    """How well the priors foretell the scores of the sample, against the population's prior."""
    table, priors = sample
    mean, std = np.nanmean(table.scores, axis=1), np.nanstd(table.scores, axis=1, ddof=1)
    told_mean, told_std = priors.moments
    flat = population.moments()
    likelihood = priors.family.log_likelihood(table.scores)
    told = logsumexp(priors.table[priors.index] + likelihood, axis=1)
    gain = told - log_evidence([population] * len(table), likelihood)
    counted = np.isfinite(mean) & np.isfinite(std)
    return {
        "mean_skill": _skill(mean[counted], told_mean[counted], flat[0]),
        "std_skill": _skill(std[counted], told_std[counted], flat[1]),
        "mean_rank_correlation": float(spearmanr(mean[counted], told_mean[counted]).statistic),
        "std_rank_correlation": float(spearmanr(std[counted], told_std[counted]).statistic),
        "evidence_gain": float(gain.sum() / (~np.isnan(table.scores)).sum()),
    }


def prior_intervals(
    sample: ScoredQuestions, population: Prior, resamples: int = 500
) -> dict[str, tuple[float, float, float]]:
    """`prior_metrics` with 95 % intervals, questions resampled."""
    (table, priors), whole = sample, prior_metrics(sample, population)
    rng, found = np.random.default_rng(0), []
    mean, std = np.nanmean(table.scores, axis=1), np.nanstd(table.scores, axis=1, ddof=1)
    told, flat = priors.moments, population.moments()
    for _ in range(resamples):
        rows = rng.integers(0, len(table), len(table))
        values = []
        for seen, said, constant in ((mean, told[0], flat[0]), (std, told[1], flat[1])):
            kept = rows[np.isfinite(seen[rows])]
            values.append(_skill(seen[kept], said[kept], constant))
            values.append(float(spearmanr(seen[kept], said[kept]).statistic))
        found.append(values)
    low, high = np.nanquantile(found, [0.025, 0.975], axis=0)
    names = ("mean_skill", "mean_rank_correlation", "std_skill", "std_rank_correlation")
    return {n: (whole[n], float(low[k]), float(high[k])) for k, n in enumerate(names)}


def _skill(observed: np.ndarray, told: np.ndarray, constant: float) -> float:
    """1 - MSE / MSE of a constant."""
    return float(1 - np.mean((observed - told) ** 2) / np.mean((observed - constant) ** 2))
