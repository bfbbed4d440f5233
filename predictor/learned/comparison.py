"""Fit every kind of predictor, and recommend the cheapest that does as well as the best."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from data.arrays import Array
from data.errors import ScoreError
from predictor.families import get_family
from predictor.learned.base import Fold, Predictor
from predictor.learned.card import ComparedKind
from predictor.learned.kernel_predictor import KernelPredictor
from predictor.learned.settings import KINDS, Kind, PredictorSettings
from predictor.prior import Prior, log_evidence, stack_log_weights

logger = logging.getLogger(__name__)

Log = Callable[[int, dict[str, float]], None]
_CHECKED = 1000  # questions that a refit is checked on
_AMISS = 2.0  # standard errors below the population's prior from which a fit has gone wrong


class PriorScores(NamedTuple):
    """How well priors predict questions' scores, each (questions with a score,)."""

    evidence: Array
    """Log evidence of all its scores."""
    hit: Array
    """Mean log score of 1{score >= target}."""


def score_priors(priors: Sequence[Prior], scores: Array, target: float) -> PriorScores:
    """Hold priors against scores (questions, n), NaN for none; a question without any is left out.

    Raises
    ------
    ScoreError
        If no question has a score.
    """
    rows = np.flatnonzero(~np.isnan(scores).all(axis=1))
    if not len(rows):
        raise ScoreError("no question to compare predictors on has a score: collect scored candidates")
    priors, scores = [priors[row] for row in rows.tolist()], scores[rows]
    family = get_family(priors[0].family)
    evidence = log_evidence(priors, family.log_likelihood(scores))
    log_miss = logsumexp(stack_log_weights(priors) + family.log_miss(target), axis=1)
    log_miss = np.clip(log_miss, np.log(1e-6), np.log1p(-1e-6))
    share = (scores >= target).sum(axis=1) / (~np.isnan(scores)).sum(axis=1)
    return PriorScores(evidence, share * np.log(-np.expm1(log_miss)) + (1 - share) * log_miss)


def fit_and_compare(
    train: Fold,
    tune: Fold,
    settings: PredictorSettings,
    *,
    target: float,
    directory: Path,
    cache: Path | None = None,
    log: Log = lambda step, values: None,
    say: Callable[[str], None] = lambda line: None,
) -> Predictor:
    """Fit the kinds of ``settings.compare`` on train, compare on tune, return the recommended one.

    That is then fitted again on train and tune together, its strength kept; what was compared stays where
    that goes wrong (`refit`).

    Parameters
    ----------
    target : score that counts as a hit.
    directory : checkpoints of LoRA.
    cache : folder that keeps frozen states between runs.
    log : called with steps of training, each figure with the name of the kind that is trained before it:
        another may be recommended.
    say : called, in words, with what is being done.
    """
    kinds = [k for k in KINDS if k in settings.compare or k == settings.kind]
    both = Fold([*train.questions, *tune.questions], np.concatenate([train.scores, tune.scores]))
    states, frozen = None, None
    tokens: Any = {} if "lora" in kinds else None
    if any(KINDS[kind].reads for kind in kinds):
        from predictor.learned.states import FrozenStates

        say(f"reading {len(both.questions):,} questions")
        states = FrozenStates.load(settings, cache=cache)
        frozen = states.read(both.questions, tokens)
    models: dict[Kind, Predictor] = {}
    found: dict[Kind, PriorScores] = {}
    seconds: dict[Kind, float] = {}
    for place, kind in enumerate(kinds, start=1):
        say(f"{kind} ({place}/{len(kinds)})")
        started = time.perf_counter()
        if kind == "lora":
            from predictor.learned.lora_predictor import LoraPredictor

            assert frozen is not None
            models[kind] = LoraPredictor.fit(
                train,
                tune,
                frozen,
                tokens,
                settings,
                directory=directory,
                states=states,
                base=models.get("states"),
                log=lambda step, values: log(step, {f"lora.{name}": v for name, v in values.items()}),
            )
        else:
            seen = None if frozen is None else frozen[: len(train.questions)]
            models[kind] = KernelPredictor.fit(kind, train, settings, seen, states)
        # What is compared is as strong as what will be used.
        found[kind] = score_priors(models[kind].calibrate(tune), tune.scores, target)
        seconds[kind] = time.perf_counter() - started
    compared = compare(found, seconds)
    model = models[recommend(compared) if settings.kind == "auto" else settings.kind]
    model = refit(model, both) or model
    model.card = model.card.change(compared=tuple(compared))
    return model


def refit(model: Predictor, fold: Fold) -> Predictor | None:
    """The same kind, as strong, fitted on these questions; of LoRA the regression that it corrects.

    No fold is left to compare it on. So each question's prior, as the others predict it, is held against the
    population's: where it is worse by more than two standard errors, the fit has gone wrong, which is logged,
    and there is None. By how much it is better is ``left_out_gain`` of the card's results (nats a question).
    """
    card = model.card
    seen: NDArray[np.float32] | None = None
    again: Predictor
    checked: Predictor
    if card.kind == "lora":
        from predictor.learned.lora_predictor import LoraPredictor

        assert isinstance(model, LoraPredictor)
        seen = model.read_lower(fold.questions)
        again = corrected = model.fit_base(fold, seen)
        checked = corrected.base  # the network has seen train questions
    else:
        if model.states is not None:
            seen = model.states.read(fold.questions)
        weights = model.kernel_fit.weights if isinstance(model, KernelPredictor) else None
        checked = again = KernelPredictor.fit(
            card.kind, fold, card.settings, seen, model.states, card.strength, weights
        )
    rows = np.linspace(0, len(fold.questions) - 1, min(len(fold.questions), _CHECKED)).astype(int)
    asked, population = [fold.questions[row] for row in rows.tolist()], again.card.population
    priors = checked.predict(asked, None if seen is None else seen[rows])
    likelihood = get_family(population.family).log_likelihood(fold.scores[rows], others=True)
    before = log_evidence([population] * len(rows), likelihood)
    gain, error = _paired(log_evidence(priors, likelihood) - before)
    if not gain >= -_AMISS * error:
        logger.warning(
            "predictor %s, fitted again on %d questions, predicts them worse than one prior for all (%.3g ± "
            "%.2g nats a question): it is left out, and what was fitted on %d stays. Look for scores or "
            "questions that were added and are unlike the others",
            *(card.kind, len(fold.questions), gain, error, card.questions),
        )
        return None
    # Its strength is what other questions made it: it has read those too.
    again.card = again.card.change(
        card.read,
        contract=card.contract,
        data_digest=card.data_digest,
        compared=card.compared,
        results={**card.results, "left_out_gain": gain},
    )
    return again


def compare(found: Mapping[Kind, PriorScores], seconds: Mapping[Kind, float]) -> list[ComparedKind]:
    """One row a kind, each against the best one, paired by question."""
    evidence = max((one.evidence for one in found.values()), key=np.mean)
    hit = max((one.hit for one in found.values()), key=np.mean)
    rows = []
    for kind, one in found.items():
        behind, error = _paired(evidence - one.evidence)
        hit_behind, hit_error = _paired(hit - one.hit)
        rows.append(
            ComparedKind(
                kind=kind,
                evidence=float(one.evidence.mean()),
                behind=behind,
                behind_error=error,
                hit_score=float(one.hit.mean()),
                hit_behind=hit_behind,
                hit_behind_error=hit_error,
                seconds=seconds[kind],
            )
        )
    return rows


def recommend(compared: Sequence[ComparedKind]) -> Kind:
    """The cheapest kind that is within one standard error of the best one in evidence and in hits.

    Where the two have different favourites and none is near both, the best in evidence.
    """
    near = [r for r in compared if r.behind <= r.behind_error]
    both = [r for r in near if r.hit_behind <= r.hit_behind_error]
    return (both or [max(near, key=lambda r: r.evidence)])[0].kind


def _paired(difference: Array) -> tuple[float, float]:
    """Mean and its standard error."""
    error: Any = difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else 0.0
    return float(difference.mean()), float(error)
