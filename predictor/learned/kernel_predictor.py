"""Predictors without a trained network: kernel ridge regression on what is seen of a question."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from data.question import Question
from data.record import Record
from predictor.families import get_family
from predictor.learned.base import NOTHING, Fold, Normals, Predictor, require_readable
from predictor.learned.card import BACKBONE, PredictorCard
from predictor.learned.features import KERNELS, Features, WordFeatures, see
from predictor.learned.out_of_distribution import OutOfDistribution, fit_detector
from predictor.learned.regression import Regression, choose_weights, distance, mix, moments
from predictor.learned.settings import KINDS, Kind, PredictorSettings
from predictor.prior import fit_population

if TYPE_CHECKING:  # torch is loaded by those alone that read states
    from predictor.learned.states import FrozenStates

MOST_QUESTIONS = 6000
"""Questions that are fitted on at most: the kernel's memory grows with their square."""


class KernelFit(Record):
    """``regression.json``: what was fitted, beside arrays."""

    weights: tuple[float, ...]
    """Of the kernels of its features."""
    detector: OutOfDistribution
    ids: tuple[str, ...]
    """Of the questions, in the order of the arrays' rows."""


class KernelPredictor(Predictor):
    """Questions in, priors out, by `Regression` on the features of its kind.

    A question that it was fitted on gets what the others predict of it, so no prior knows its own scores.
    """

    def __init__(
        self,
        card: PredictorCard,
        fit: KernelFit,
        regression: Regression,
        features: Mapping[str, Features],
        states: "FrozenStates | None",
    ) -> None:
        super().__init__(card, states and states.tokenizer, states)
        self.kernel_fit, self.regression, self.features = fit, regression, features
        self.rows = {question: row for row, question in enumerate(fit.ids)}

    @classmethod
    def fit(
        cls,
        kind: Kind,
        fold: Fold,
        settings: PredictorSettings,
        seen: NDArray[np.float32] | None = None,
        states: "FrozenStates | None" = None,
        strength: float = 1.0,
        weights: tuple[float, ...] | None = None,
    ) -> Predictor:
        """Fit on questions and their scores.

        Parameters
        ----------
        seen : states of the questions (questions, size), for the kinds that read them; NaN for one too long.
        states : what has read them.
        strength : of the priors it gives, as tune questions calibrated it.
        weights : of the kernels, as other questions chose them; these do if None.
        """
        population = fit_population(fold.scores, settings.family)
        card = PredictorCard(
            kind=kind,
            settings=settings,
            population=population,
            strength=strength,
            questions=len(fold.questions),
        ).change(question.id for question in fold.questions)
        if kind == "population":
            return Predictor(card)
        if not KINDS[kind].reads:
            seen = states = None
        rows = _readable(fold.questions, seen)
        require_readable(rows, card)
        if len(rows) > MOST_QUESTIONS:
            rows = np.sort(np.random.default_rng(settings.lora.seed).permutation(rows)[:MOST_QUESTIONS])
        asked = [fold.questions[row] for row in rows.tolist()]
        features = {n: KERNELS[n].fit(see(n, asked, seen, rows)) for n in KINDS[kind].features}
        own = [one.own() for one in features.values()]
        likelihood = get_family(settings.family).log_likelihood(fold.scores[rows], others=True)
        weights = weights or choose_weights(own, moments(population, likelihood))
        gram = mix(own, weights)
        regression = Regression.fit(gram, likelihood, population)
        groups = _groups(asked, next(iter(features.values())))
        detector = fit_detector(gram, regression, groups, likelihood, population)
        found = KernelFit(weights=weights, detector=detector, ids=tuple(q.id for q in asked))
        return cls(card, found, regression, features, states)

    def predict_normals(
        self, questions: Sequence[Question], seen: NDArray[np.float32] | None = None
    ) -> Normals:
        """See `Predictor`."""
        if seen is None and self.states is not None:
            seen = self.states.read(questions)
        rows = _readable(questions, seen)
        if not len(rows):
            return NOTHING
        asked = [questions[row] for row in rows.tolist()]
        kernels = [one.kernel(see(name, asked, seen, rows)) for name, one in self.features.items()]
        kernel = mix(kernels, self.kernel_fit.weights)
        predicted, away = self.regression.predict(kernel), distance(kernel)
        for place, question in enumerate(asked):
            if (known := self.rows.get(question.id)) is not None:
                predicted[place] = self.regression.arrays["left_out"][known]
                away[place] = self.regression.arrays["distance"][known]
        return Normals(rows, *self.regression.normals(predicted), self.kernel_fit.detector.share(away))

    def write(self, directory: Path, merged: bool) -> None:
        """Features and coefficients, and the backbone where all is to be there."""
        if merged and self.states is not None:
            self.states.save(directory / BACKBONE)
        (directory / "regression.json").write_text(self.kernel_fit.model_dump_json())
        parts = {"regression": self.regression, **self.features}
        arrays = {f"{part}.{n}": _compact(v) for part, of in parts.items() for n, v in of.arrays.items()}
        save_file(arrays, directory / "regression.safetensors")

    @classmethod
    def load(
        cls, directory: Path, card: PredictorCard, cache: Path | None = None, reads: bool = True
    ) -> Self:
        """A stored predictor whose card was read, see `load_predictor`; its backbone only if it ``reads``."""
        fit = KernelFit.model_validate_json((directory / "regression.json").read_text())
        parts: dict[str, dict[str, NDArray[Any]]] = {}
        for name, value in load_file(directory / "regression.safetensors").items():
            part, _, name = name.partition(".")
            parts.setdefault(part, {})[name] = value
        features = {name: KERNELS[name](parts[name]) for name in KINDS[card.kind].features}
        states = None
        if reads and KINDS[card.kind].reads:
            from predictor.learned.states import FrozenStates

            states = FrozenStates.load(card.settings, directory / BACKBONE, cache)
        return cls(card, fit, Regression(parts["regression"]), features, states)


def _readable(questions: Sequence[Question], seen: NDArray[np.float32] | None) -> NDArray[np.int64]:
    """Rows of the questions that can be read: all of them where no states are."""
    return np.arange(len(questions)) if seen is None else np.flatnonzero(np.isfinite(seen).all(axis=1))


def _groups(questions: Sequence[Question], features: Features) -> NDArray[Any]:
    """Kinds of question, to hold out whole: their source and group, or clusters where these do not differ."""
    named = np.array([f"{q.source}/{q.group or ''}" for q in questions])
    if len(np.unique(named)) > 2:
        return named
    from sklearn.cluster import KMeans

    points = features.table if isinstance(features, WordFeatures) else features.arrays["points"].astype(float)
    count = min(8, max(len(questions) // 20, 1))
    return np.asarray(KMeans(count, n_init=1, random_state=0).fit_predict(points))


def _compact(values: NDArray[Any]) -> NDArray[Any]:
    """Contiguous, and single precision where double was."""
    kept = values.astype(np.float32) if values.dtype == np.float64 else values
    return np.ascontiguousarray(kept)
