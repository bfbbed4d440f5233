"""Which score family fits questions it has not seen, judged by what a decision asks of it.

A decision asks for the chance that one more candidate reaches the target, so this forecast is what
families are compared by: made from the first half of a question's candidates, tested on the second.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import logsumexp, softmax
from scipy.stats import kstest

from data.arrays import Array, BoolArray
from data.errors import ConfigError
from data.record import Record
from predictor.families import EMPIRICAL, FAMILIES, Family, get_family
from predictor.prior import Prior, fit_population
from predictor.state import CHUNK

_TAIL = 20  # fewer hits than this show nothing of the tail


class FamilyFit(Record):
    """How well one family predicts tune questions; log scores are in nats, and larger is better."""

    family: str
    prior: Prior
    """The population's, fitted on train questions."""
    evidence: float
    """Log evidence (of bins) per score."""
    hit_score: float
    """Log score per candidate of 1{score >= target} in second halves, forecast from first halves."""
    hit_score_prior: float
    """The same from the prior alone: the difference is what a question's own scores add."""
    implied_hits: float
    """Share of hits in second halves as forecast."""
    observed_hits: float
    pit_distance: float
    """Kolmogorov distance of the second halves' PIT from uniform, ties spread at random; 0 is perfect."""
    tail_distance: float | None
    """The same of the scores at or above the target, given that they are; None if these are too few."""
    hit_scores: tuple[float, ...]
    """`hit_score` of each tune question that has two candidates."""
    evidences: tuple[float, ...]
    """`evidence` of the same questions."""


def compare_families(
    train_scores: Array, tune_scores: Array, target: float, names: Sequence[str] = FAMILIES
) -> list[FamilyFit]:
    """Fit each family's population on train questions and test it on tune questions.

    Parameters
    ----------
    train_scores, tune_scores : (questions, n) in the order drawn, in [0, 1], NaN beyond those drawn.
    target : a multiple of the bin width, in (0, 1).
    names : families that exist; an empirical one must be made of these train questions.

    Raises
    ------
    ConfigError
        If the target is no bin edge, or there are too few questions.
    """
    drawn = (~np.isnan(tune_scores)).sum(axis=1)
    tune = tune_scores[drawn >= 2]
    if not len(train_scores) or len(tune) < 2:
        raise ConfigError("families need a train question and two tune questions of two candidates")
    later = np.arange(tune.shape[1]) >= (drawn[drawn >= 2] // 2)[:, None]
    return [_fit(name, train_scores, tune, later & ~np.isnan(tune), target) for name in names]


def choose(fits: Sequence[FamilyFit]) -> str:
    """The family that forecasts hits best; of equals that with the best evidence; of equals the simplest.

    Equal is what lies within a standard error of the best, paired over questions.
    """
    left = _near_best(_near_best(fits, lambda fit: fit.hit_scores), lambda fit: fit.evidences)
    simplest = (*FAMILIES, EMPIRICAL).index
    return min((fit.family for fit in left), key=lambda name: simplest(name.partition(":")[0]))


def _near_best(fits: Sequence[FamilyFit], by: Callable[[FamilyFit], tuple[float, ...]]) -> list[FamilyFit]:
    values = np.array([by(fit) for fit in fits])
    behind = values[values.mean(axis=1).argmax()] - values
    error = behind.std(axis=1, ddof=1) / np.sqrt(values.shape[1])
    return [fit for fit, near in zip(fits, behind.mean(axis=1) <= error, strict=True) if near]


def _fit(name: str, train: Array, tune: Array, later: BoolArray, target: float) -> FamilyFit:
    family, prior = get_family(name), fit_population(train, name)
    weights, chance = prior.log_weights(), -np.expm1(family.log_miss(target))
    chunks = [slice(start, start + CHUNK) for start in range(0, len(tune), CHUNK)]
    parts = [_forecast(family, weights, chance, tune[rows], later[rows]) for rows in chunks]
    evidence, hit, low, high = (np.concatenate(values) for values in zip(*parts, strict=True))
    hits = later & (tune >= target)
    share = hits.sum(axis=1) / later.sum(axis=1)
    scores, evidences = _log_score(share, hit), evidence / (~np.isnan(tune)).sum(axis=1)
    # The same random numbers spread the ties of every family.
    pit = low + np.random.default_rng(0).random(tune.shape) * (high - low)
    tail = 1 - (1 - pit) / np.maximum(hit, 1e-9)[:, None]
    return FamilyFit(
        family=name,
        prior=prior,
        evidence=float(evidences.mean()),
        hit_score=float(scores.mean()),
        hit_score_prior=float(_log_score(share, np.exp(weights) @ chance).mean()),
        implied_hits=float(hit.mean()),
        observed_hits=float(share.mean()),
        pit_distance=float(kstest(pit[later], "uniform").statistic),
        tail_distance=float(kstest(tail[hits], "uniform").statistic) if hits.sum() >= _TAIL else None,
        hit_scores=tuple(scores.tolist()),
        evidences=tuple(evidences.tolist()),
    )


def _forecast(family: Family, weights: Array, chance: Array, scores: Array, later: BoolArray) -> list[Array]:
    """Log evidence and chance of a later hit (questions,), CDF at both ends of each bin (questions, n)."""
    evidence = logsumexp(weights + family.log_likelihood(scores), axis=1)
    posterior = softmax(weights + family.log_likelihood(np.where(later, np.nan, scores)), axis=1)
    below = np.pad((posterior @ np.exp(family.log_mass.T)).cumsum(axis=1), ((0, 0), (1, 0)))
    place = family.bin(np.nan_to_num(scores))
    return [evidence, posterior @ chance, *(np.take_along_axis(below, place + k, axis=1) for k in (0, 1))]


def _log_score(share: Array, chance: Array) -> Array:
    """Log score per candidate where a share hit and each did with this chance."""
    hit = np.clip(chance, 1e-9, 1 - 1e-9)
    return share * np.log(hit) + (1 - share) * np.log1p(-hit)
