"""What predictors of all kinds share: from normals over questions' laws to priors, and their files."""

from collections.abc import Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.arrays import Array
from data.errors import ConfigError
from data.question import Question
from predictor.empirical import save_family
from predictor.families import get_family
from predictor.learned.card import PredictorCard, clear
from predictor.learned.features import encode
from predictor.learned.normals import make_priors
from predictor.prior import Prior, log_evidence

if TYPE_CHECKING:  # torch is loaded by those alone that read states
    from predictor.learned.states import FrozenStates

STRENGTHS = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)


class Fold(NamedTuple):
    """Questions and their scores (questions, n), NaN for none."""

    questions: Sequence[Question]
    scores: Array


class Normals(NamedTuple):
    """What is predicted of the questions that can be read."""

    rows: NDArray[np.int64]
    """Which those are."""
    location: Array
    """(rows, 2)."""
    covariance: Array
    """(rows, 2, 2)."""
    share: Array
    """(rows,) weight of the population's prior: 1 where training had no question like it."""


NOTHING = Normals(np.empty(0, np.int64), np.empty((0, 2)), np.empty((0, 2, 2)), np.empty(0))


class Predictor:
    """A fitted predictor: questions in, priors out. This one gives all of them the population's prior."""

    def __init__(
        self, card: PredictorCard, tokenizer: Any = None, states: "FrozenStates | None" = None
    ) -> None:
        self.card, self.states = card, states
        self.tokenizer = tokenizer
        """Of the backbone that reads questions; None where none does."""

    def predict_normals(
        self, questions: Sequence[Question], seen: NDArray[np.float32] | None = None
    ) -> Normals:
        """Of each question that can be read, a normal over its law.

        ``seen`` are the questions' states (questions, size), where they were read before.
        """
        return NOTHING

    def write(self, directory: Path, merged: bool) -> None:
        """Write all but card and family; see `save`."""

    def predict(self, questions: Sequence[Question], seen: NDArray[np.float32] | None = None) -> list[Prior]:
        """A prior for each question, in order; the population's for one too long to read.

        Wider, the less a question is like those of training. ``seen``: see `predict_normals`.
        """
        population = self.card.population
        found = [population] * len(questions)
        rows, location, covariance, share = self.predict_normals(questions, seen)
        priors = make_priors(location, covariance, share, population, self.card.strength)
        for row, prior in zip(rows.tolist(), priors, strict=True):
            found[row] = prior
        return found

    def tokens_read(self, question: Question) -> int:
        """Tokens of the forward pass that a question costs; 0 where there is none."""
        if self.tokenizer is None:
            return 0
        return len(encode(self.tokenizer, question, self.card.settings.max_length) or ())

    def calibrate(self, tune: Fold) -> list[Prior]:
        """Take the strength under which scores that nothing was fitted on are most likely.

        Only of priors that rest on a question: the population's is fitted as it is, and stays at 1.

        Returns
        -------
        The priors of these questions, as strong.
        """
        priors, population = self.predict(tune.questions), self.card.population
        rows = [row for row, prior in enumerate(priors) if prior is not population]
        strength = 1.0
        if rows:
            likelihood = get_family(population.family).log_likelihood(tune.scores[rows])
            tried = [[_as_strong(priors[row], s) for row in rows] for s in STRENGTHS]
            evidence = [log_evidence(each, likelihood).mean() for each in tried]
            strength = STRENGTHS[int(np.argmax(evidence))]
        self.card = self.card.change((q.id for q in tune.questions), strength=strength)
        return [prior if prior is population else _as_strong(prior, strength) for prior in priors]

    def save(self, directory: Path, merged: bool = False) -> None:
        """Write it as plain files, on a backbone that the card names; ``merged``: with the backbone."""
        clear(directory)
        save_family(self.card.settings.family, directory)
        self.write(directory, merged)
        self.card.write(directory)


def _as_strong(prior: Prior, strength: float) -> Prior:
    return prior.model_copy(update={"strength": strength})


def require_readable(rows: Sized, card: PredictorCard) -> None:
    """Raise ConfigError where of all questions of a fold none can be read."""
    if not len(rows):
        raise ConfigError(
            f"predictor {card.kind}: all questions are too long to be read at max_length "
            f"{card.settings.max_length}; raise it, or take a kind that reads no states"
        )
