"""What a stored predictor is, whatever stands behind it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from predictor.network.settings import Kind, PredictorSettings
from predictor.prior import Prior
from predictor.question import Question
from predictor.settings import Settings

KINDS: tuple[Kind, ...] = ("population", "description", "words", "ridge", "stack", "lora")
"""From the cheapest to the dearest to ask."""
CARD = "predictor.json"
"""File of a stored predictor that makes it one: it is written last."""
_FILES = (
    CARD,
    "family.json",
    "regression.json",
    "regression.safetensors",
    "adapter_config.json",
    "adapter_model.safetensors",
    "network.safetensors",
)
REFIT = "refit"
"""Folder beside a predictor: the same, fitted on all questions of the pool."""


class Rival(Settings):
    """How one kind of predictor did on tune questions, fitted on train questions."""

    kind: Kind
    evidence: float
    """Log evidence of a question's scores (nats a question)."""
    behind: float
    """By how much that is less than the best kind's."""
    behind_error: float
    """Standard error of ``behind``, paired by question."""
    hit_score: float
    """Log score of 1{score >= target} (nats a score)."""
    hit_behind: float
    """By how much that is less than the best kind's."""
    hit_behind_error: float
    """Its standard error, paired by question."""
    seconds: float
    """Time that the fit took."""


class PredictorCard(Settings):
    """``predictor.json``."""

    kind: Kind = "lora"
    """What stands behind it."""
    settings: PredictorSettings
    population: Prior
    """Empirical-Bayes prior of the training questions; for questions too long to read."""
    strength: float
    """Multiplies the precision of every prior that was told of a question; the best on tune questions."""
    contract: str
    """Fingerprint of the scores it speaks of."""
    data_digest: str
    """Digest of the pool it was fitted on."""
    results: dict[str, float]
    questions: int = 0
    """Questions that it was fitted on."""
    rivals: tuple[Rival, ...] = ()
    """What else was fitted, and how each did."""


def clear(directory: Path) -> None:
    """Make the folder, without a file of a predictor that was there: half of two would be none."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        (directory / name).unlink(missing_ok=True)


class PriorModel(Protocol):
    """A fitted predictor: questions in, priors out."""

    card: PredictorCard

    def predict(self, questions: Sequence[Question]) -> list[Prior]:
        """A prior for each question, in order."""
        ...

    def tokens_read(self, question: Question) -> int:
        """Tokens of the forward pass that a question costs; 0 where there is none."""
        ...

    def save(self, directory: Path) -> None:
        """Write it as small plain files, on a backbone that the card names."""
        ...

    def save_merged(self, directory: Path) -> None:
        """Write all that it needs: what a bundle ships."""
        ...
