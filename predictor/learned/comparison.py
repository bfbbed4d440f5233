"""Fit every kind of predictor, and recommend the cheapest that does as well as the best."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from data.errors import ConfigError, ScoreError
from data.question import Question
from models.lora import Log
from predictor.families import get_family
from predictor.learned.card import ComparedKind, PriorModel
from predictor.learned.kernel_predictor import KernelPredictor
from predictor.learned.lora_predictor import LoraPredictor, calibrate
from predictor.learned.settings import KINDS, Kind, PredictorSettings
from predictor.learned.states import FrozenStates
from predictor.prior import Prior, log_evidence, stack_log_weights

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
_CHECKED = 1000  # questions that a refit is checked on
_AMISS = 2.0  # standard errors below the population's prior from which a fit has gone wrong
Fold = tuple[Sequence[Question], Array]
"""Questions, and their scores (questions, n)."""


class Told(NamedTuple):
    """What priors told of questions' scores, each (questions with a score,)."""

    evidence: Array
    """Log evidence of all its scores."""
    hit: Array
    """Mean log score of 1{score >= target}."""


def tell(priors: Sequence[Prior], scores: Array, target: float) -> Told:
    """Hold priors against scores (questions, n), NaN for none; a question without any tells nothing."""
    rows = np.flatnonzero(~np.isnan(scores).all(axis=1))
    if not len(rows):
        raise ScoreError("no question to compare predictors on has a score: collect scored candidates")
    priors, scores = [priors[row] for row in rows.tolist()], scores[rows]
    family = get_family(priors[0].family)
    evidence = log_evidence(priors, family.log_likelihood(scores))
    log_miss = logsumexp(stack_log_weights(priors) + family.log_miss(target), axis=1)
    log_miss = np.clip(log_miss, np.log(1e-6), np.log1p(-1e-6))
    share = (scores >= target).sum(axis=1) / (~np.isnan(scores)).sum(axis=1)
    return Told(evidence, share * np.log(-np.expm1(log_miss)) + (1 - share) * log_miss)


def fit_and_compare(
    train: Fold,
    tune: Fold,
    settings: PredictorSettings,
    *,
    target: float,
    contract: str,
    data_digest: str,
    directory: Path,
    cache: Path | None = None,
    log: Log = lambda step, values: None,
    say: Callable[[str], None] = lambda line: None,
) -> PriorModel:
    """Fit the kinds of ``settings.compare`` on train, compare on tune, return the recommended one.

    A kind without a trained network is then fitted again on train and tune together, its strength kept; what
    was compared stays where that goes wrong (`refit`).

    Parameters
    ----------
    target : score that counts as a hit.
    directory : checkpoints of LoRA.
    cache : folder that keeps frozen states between runs.
    log : told of steps of training, each figure with the name of the kind that is trained before it: another
        may be recommended.
    say : told, in words, what is being done.
    """
    kinds = [k for k in KINDS if k in settings.compare or k == settings.kind]
    if not kinds:
        raise ConfigError("predictor.compare names no kind of predictor")
    states, features = None, None
    if any("states" in KINDS[k].views for k in kinds):
        say(f"reading {len(train[0]) + len(tune[0]):,} questions")
        states = FrozenStates.load(settings, cache=cache)
        features = states.read([*train[0], *tune[0]])
    models: dict[Kind, PriorModel] = {}
    told: dict[Kind, Told] = {}
    seconds: dict[Kind, float] = {}
    for place, kind in enumerate(kinds, start=1):
        say(f"{kind} ({place}/{len(kinds)})")
        started = time.perf_counter()
        if kind == "lora":
            model: PriorModel = LoraPredictor.fit(
                train,
                tune,
                settings,
                contract=contract,
                data_digest=data_digest,
                directory=directory,
                log=lambda step, values: log(step, {f"lora.{name}": v for name, v in values.items()}),
            )
            priors = model.predict(tune[0])
        else:
            read = "states" in KINDS[kind].views and features is not None
            fitted = KernelPredictor.fit(
                kind,
                train[0],
                train[1],
                settings,
                features=features[: len(train[0])] if read and features is not None else None,
                states=states if read else None,
                contract=contract,
                data_digest=data_digest,
            )
            on_tune = features[len(train[0]) :] if read and features is not None else None
            raw = fitted.predict_from(tune[0], on_tune)
            strength = calibrate(raw, tune[1], fitted.card.population)
            # Now its strength knows them, and so does the choice among kinds.
            fitted.card = fitted.card.having_read(q.id for q in tune[0]).model_copy(
                update={"strength": strength}
            )
            priors = fitted.predict_from(tune[0], on_tune)  # what is compared is what it will tell
            model = fitted
        models[kind], told[kind] = model, tell(priors, tune[1], target)
        seconds[kind] = time.perf_counter() - started
    compared = compare(told, seconds)
    chosen = recommend(compared) if settings.kind == "auto" else settings.kind
    model = models[chosen]
    if isinstance(model, KernelPredictor):
        scores = np.concatenate([train[1], tune[1]])
        model = refit(model, [*train[0], *tune[0]], scores, features) or model
    model.card = model.card.model_copy(update={"compared": tuple(compared)})
    return model


def refit(
    model: KernelPredictor,
    questions: Sequence[Question],
    scores: Array,
    features: NDArray[np.float32] | None = None,
) -> KernelPredictor | None:
    """The same kind, as strong, fitted on these questions; ``features`` where they are read already.

    No fold is left to compare it on. So each question's prior, as the others tell it, is held against the
    population's: where it is worse by more than two standard errors, the fit has gone wrong, which is logged,
    and there is None. By how much it is better is ``left_out_gain`` of the card's results (nats a question).
    """
    read = "states" in KINDS[model.card.kind].views
    if read and features is None and model.states is not None:
        features = model.states.read(questions)
    card = model.card
    again = KernelPredictor.fit(
        card.kind,
        questions,
        scores,
        card.settings,
        contract=card.contract,
        data_digest=card.data_digest,
        features=features if read else None,
        states=model.states,
        strength=card.strength,
    )
    gain, error = _left_out_gain(again, questions, scores, features if read else None)
    if not gain >= -_AMISS * error:
        logger.warning(
            "predictor %s, fitted again on %d questions, foretells them worse than one prior for all (%.3g ± "
            "%.2g nats a question): it is left out, and what was fitted on %d stays. Look for scores or "
            "questions that were added and are unlike the others",
            *(card.kind, len(questions), gain, error, card.questions),
        )
        return None
    results = {**card.results, "left_out_gain": gain}
    again.card = again.card.model_copy(update={"compared": card.compared, "results": results})
    # Its strength is what other questions made it, and if nobody knows which, nobody knows what it has read.
    unknown = {"read": None, "read_digest": None}
    again.card = (
        again.card.model_copy(update=unknown) if card.read is None else again.card.having_read(card.read)
    )
    return again


def _left_out_gain(
    model: KernelPredictor, questions: Sequence[Question], scores: Array, features: Any
) -> tuple[float, float]:
    """Log evidence more than under the population's prior, a question, and its standard error."""
    rows = np.linspace(0, len(questions) - 1, min(len(questions), _CHECKED)).astype(int)
    asked = [questions[row] for row in rows.tolist()]
    priors = model.predict_from(asked, None if features is None else features[rows])
    population = model.card.population
    likelihood = get_family(population.family).log_likelihood(scores[rows], others=True)
    return _paired(log_evidence(priors, likelihood) - log_evidence([population] * len(rows), likelihood))


def compare(told: dict[Kind, Told], seconds: dict[Kind, float]) -> list[ComparedKind]:
    """One row a kind, each against the best one, paired by question."""
    best = {name: max(told.values(), key=lambda t: getattr(t, name).mean()) for name in ("evidence", "hit")}
    rows = []
    for kind, found in told.items():
        behind, error = _paired(best["evidence"].evidence - found.evidence)
        hit_behind, hit_error = _paired(best["hit"].hit - found.hit)
        rows.append(
            ComparedKind(
                kind=kind,
                evidence=float(found.evidence.mean()),
                behind=behind,
                behind_error=error,
                hit_score=float(found.hit.mean()),
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
