"""Predictors without a trained network: from the population's prior to frozen states with the text."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from data.question import Question
from predictor.empirical import save_family
from predictor.families import get_family
from predictor.learned.card import PredictorCard, clear
from predictor.learned.features import (
    Dense,
    View,
    Words,
    describe,
    encode,
    load_view,
    read_text,
    require_read,
)
from predictor.learned.regression import (
    Kernels,
    Reach,
    Regression,
    Shape,
    choose,
    learn_reach,
    make_priors,
    targets,
    weight_grid,
)
from predictor.learned.settings import KINDS, Kind, PredictorSettings
from predictor.prior import Prior, fit_population

if TYPE_CHECKING:  # torch is loaded by those alone that read states
    from predictor.learned.states import FrozenStates

Array = NDArray[np.float64]
MOST_QUESTIONS = 6000
"""Questions that are fitted on at most: the kernel's memory grows with their square."""


class KernelPredictor:
    """Questions in, priors out, by `Regression` on the views of its kind.

    A question that it was fitted on gets what the others tell of it, so no prior knows its own scores.
    """

    def __init__(
        self,
        card: PredictorCard,
        views: Sequence[View] = (),
        regression: Regression | None = None,
        reach: Reach | None = None,
        ids: Sequence[str] = (),
        states: "FrozenStates | None" = None,
    ) -> None:
        self.card = card
        self.views = views
        self.regression = regression
        self.reach = reach
        self.ids = list(ids)
        self.rows = {question: row for row, question in enumerate(ids)}
        self.states = states

    @classmethod
    def fit(
        cls,
        kind: Kind,
        questions: Sequence[Question],
        scores: Array,
        settings: PredictorSettings,
        *,
        contract: str,
        data_digest: str,
        features: NDArray[np.float32] | None = None,
        states: "FrozenStates | None" = None,
        strength: float = 1.0,
    ) -> Self:
        """Fit on questions and scores (questions, n).

        Parameters
        ----------
        features : frozen states of the questions, for the kinds that read them.
        states : what has read them.
        strength : of the priors it gives, as tune questions calibrated it.
        """
        population = fit_population(scores, settings.family)
        results: dict[str, float] = {}
        card = PredictorCard(
            kind=kind,
            settings=settings,
            population=population,
            strength=strength,
            contract=contract,
            data_digest=data_digest,
            results=results,
            questions=len(questions),
        ).having_read(q.id for q in questions)
        if kind == "population":
            return cls(card)
        usable = np.ones(len(questions), bool) if features is None else np.isfinite(features).all(axis=1)
        rows = np.flatnonzero(usable)
        require_read(len(rows), kind, settings)
        if len(rows) > MOST_QUESTIONS:
            rows = np.sort(np.random.default_rng(settings.lora.seed).permutation(rows)[:MOST_QUESTIONS])
        asked = [questions[row] for row in rows.tolist()]
        views = _fit_views(kind, asked, None if features is None else features[rows].astype(float))
        own = [view.own() for view in views]
        likelihood = get_family(settings.family).log_likelihood(scores[rows], others=True)
        shape = choose(own, weight_grid(len(own)), targets(population, likelihood))
        regression = Regression.fit(own, shape, likelihood, population)
        reach = learn_reach(own, regression, _groups(asked, views[0]), likelihood, population)
        return cls(card, views, regression, reach, [q.id for q in asked], states)

    def predict(self, questions: Sequence[Question]) -> list[Prior]:
        """A prior for each question, in order; the population's for one too long to read."""
        features = self.states.read(questions) if self.states and len(questions) else None
        return self.predict_from(questions, features)

    def predict_from(
        self, questions: Sequence[Question], features: NDArray[np.float32] | None
    ) -> list[Prior]:
        """The same from frozen states (questions, size) that were read before."""
        found = [self.card.population] * len(questions)
        if self.regression is None or self.reach is None:
            return found
        readable = np.ones(len(questions), bool) if features is None else np.isfinite(features).all(axis=1)
        rows = np.flatnonzero(readable)
        if not len(rows):
            return found
        asked = [questions[row] for row in rows.tolist()]
        told, share = self.tell(asked, None if features is None else features[rows])
        location, covariance = self.regression.normals(told)
        priors = make_priors(location, share, covariance, self.card.population, self.card.strength)
        for row, prior in zip(rows, priors, strict=True):
            found[row] = prior
        return found

    def tell(
        self, questions: Sequence[Question], features: NDArray[np.float32] | None = None
    ) -> tuple[Array, Array]:
        """What is told (questions, 4; see `Regression`), and the share that the population's prior has."""
        assert self.regression is not None
        assert self.reach is not None
        kernels = [_ask(view, questions, features) for view in self.views]
        told, distance = self.regression.predict(kernels)
        for place, question in enumerate(questions):
            if (known := self.rows.get(question.id)) is not None:
                told[place] = self.regression.arrays["left_out"][known]
                distance[place] = self.regression.arrays["distance"][known]
        return told, self.reach.share(distance)

    def tokens_read(self, question: Question) -> int:
        """Tokens of a question as the backbone reads it; 0 where none reads it."""
        if self.states is None:
            return 0
        return len(encode(self.states.tokenizer, question, self.card.settings.max_length) or ())

    def save(self, directory: Path) -> None:
        """Write views, coefficients and card, on the backbone that the card names."""
        clear(directory)
        save_family(self.card.settings.family, directory)
        if self.regression is not None and self.reach is not None:
            stored = [view.store() for view in self.views]
            document = {
                "shape": self.regression.shape.model_dump(),
                "reach": self.reach.model_dump(),
                "ids": self.ids,
                "views": [view for view, _ in stored],
            }
            (directory / "regression.json").write_text(json.dumps(document))
            arrays = {f"regression.{name}": value for name, value in self.regression.arrays.items()}
            for number, (_, found) in enumerate(stored):
                arrays |= {f"view{number}.{name}": value for name, value in found.items()}
            save_file({n: _compact(v) for n, v in arrays.items()}, directory / "regression.safetensors")
        self.card.write(directory)

    def save_merged(self, directory: Path) -> None:
        """Write it with the backbone that it reads questions with."""
        clear(directory)
        if self.states is not None:
            self.states.save(directory / "backbone")
        self.save(directory)

    @classmethod
    def load(
        cls, directory: Path, card: PredictorCard, cache: Path | None = None, reads: bool = True
    ) -> Self:
        """A stored predictor whose card was read; its backbone only if it ``reads`` questions itself.

        See `store.load_predictor`, which makes one error of what broken files raise.
        """
        get_family(card.population.family)
        if card.kind == "population":
            if (directory / "regression.json").exists():
                raise ValueError("there is a regression, and the card names none")
            return cls(card)
        document = json.loads((directory / "regression.json").read_text())
        arrays = load_file(directory / "regression.safetensors")

        def part(prefix: str) -> dict[str, NDArray[Any]]:
            return {n.removeprefix(prefix): v for n, v in arrays.items() if n.startswith(prefix)}

        views = [load_view(view, part(f"view{n}.")) for n, view in enumerate(document["views"])]
        regression = Regression(Shape.model_validate(document["shape"]), part("regression."))
        _require_fit(card, views, regression, len(document["ids"]))
        states = None
        if reads and KINDS[card.kind].reads:
            from predictor.learned.states import FrozenStates

            own = directory / "backbone"
            states = FrozenStates.load(card.settings, own if own.exists() else None, cache)
            if (fitted := views[0].arrays["centre"].size) != states.size:
                raise ValueError(f"its backbone gives {states.size} numbers of a question, not {fitted}")
        return cls(card, views, regression, Reach.model_validate(document["reach"]), document["ids"], states)


def _require_fit(card: PredictorCard, views: Sequence[View], regression: Regression, ids: int) -> None:
    """Raise ValueError unless all are of the card's kind, and of as many questions."""
    sources = tuple(view.source for view in views)
    if sources != KINDS[card.kind].views:
        raise ValueError(f"it looks at {', '.join(sources)}, which is of another kind than {card.kind}")
    fitted = min(card.questions, MOST_QUESTIONS)
    lengths = {ids, *(view.size for view in views)}
    lengths |= {len(regression.arrays[name]) for name in ("dual", "left_out", "diagonal", "distance")}
    # Those too long to read have no states.
    if len(lengths) > 1 or ids > fitted or (ids < fitted and "states" not in sources):
        raise ValueError(f"its parts are of {sorted(lengths)} questions, its card of {card.questions}")


def _fit_views(kind: Kind, questions: Sequence[Question], features: Array | None) -> list[View]:
    views: list[View] = []
    for source in KINDS[kind].views:
        if source == "words":
            views.append(Words.fit([read_text(q) for q in questions]))
        else:
            seen = describe(questions) if features is None or source == "description" else features
            views.append(Dense.fit(source, seen))
    return views


def _ask(view: View, questions: Sequence[Question], features: NDArray[np.float32] | None) -> Kernels:
    """A view's kernel between questions and training questions."""
    if isinstance(view, Words):
        return view.kernel([read_text(q) for q in questions])
    if view.source == "description":
        return view.kernel(describe(questions))
    assert features is not None
    return view.kernel(features.astype(float))


def _groups(questions: Sequence[Question], view: View) -> NDArray[Any]:
    """Kinds of question, to hold out whole: their source and group, or clusters where these do not tell."""
    named = np.array([f"{q.source}/{q.group or ''}" for q in questions])
    if len(np.unique(named)) > 2:
        return named
    from sklearn.cluster import KMeans

    points = view.arrays["points"].astype(float) if isinstance(view, Dense) else view.table
    count = min(8, max(len(questions) // 20, 1))
    return np.asarray(KMeans(count, n_init=1, random_state=0).fit_predict(points))


def _compact(values: NDArray[Any]) -> NDArray[Any]:
    """Contiguous, and single precision where double was."""
    kept = values.astype(np.float32) if values.dtype == np.float64 else values
    return np.ascontiguousarray(kept)
