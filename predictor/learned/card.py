"""What a stored predictor is, whatever stands behind it."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, Self

from pydantic import Field, ValidationError

from data.errors import ModelError
from data.question import Question
from data.record import Record
from data.validation import explain
from predictor.learned.settings import Kind, PredictorSettings
from predictor.prior import Prior

CARD = "predictor.json"
"""File of a stored predictor that makes it one: it is written last."""
READ = "read.json"
"""File beside the card with the ids of the questions that the predictor has read."""
_FILES = (
    CARD,
    READ,
    "family.json",
    "regression.json",
    "regression.safetensors",
    "adapter_config.json",
    "adapter_model.safetensors",
    "network.safetensors",
)
REFIT = "refit"
"""Folder beside a predictor: the same, fitted on all questions of the pool."""


class ComparedKind(Record):
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


class PredictorCard(Record):
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
    compared: tuple[ComparedKind, ...] = ()
    """The kinds that were fitted, and how each did."""
    read: frozenset[str] | None = Field(None, exclude=True, repr=False)
    """Ids of all questions whose scores it was fitted, stopped early, or made strong on; kept in `READ`. None
    where that is not known: made before it was kept."""
    read_digest: str | None = None
    """Digest of ``read``: a file that was cut or left behind is noticed."""

    def having_read(self, ids: Iterable[str]) -> Self:
        """The card of a predictor that has read the questions of these ids too."""
        read = (self.read or frozenset()).union(ids)
        return self.model_copy(update={"read": read, "read_digest": _digest(read)})

    def write(self, directory: Path) -> None:
        """Write the card, and before it what was read: a folder with a card is a predictor."""
        if self.read is not None:
            (directory / READ).write_text(json.dumps(sorted(self.read), indent=0))
        (directory / CARD).write_text(self.model_dump_json(indent=1))

    @classmethod
    def open(cls, directory: Path) -> Self:
        """The card of the predictor in a folder.

        Raises
        ------
        ModelError
            If there is none, or it cannot be read, or the ids of the questions read are not its own.
        """
        try:
            card = cls.model_validate_json((directory / CARD).read_bytes())
            if card.read_digest is None:
                return card
            read = frozenset(map(str, _ids(directory / READ)))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ModelError(
                f"no predictor at {directory}: {Path(error.filename).name} is missing"
            ) from error
        except ValidationError as error:
            problems = explain(error.errors(), cls)
            raise ModelError(
                f"{directory / CARD} is not a predictor's card, or one of an older version: {problems}. "
                "Train again"
            ) from error
        if _digest(read) != card.read_digest:
            raise ModelError(
                f"{directory / READ} does not hold the questions that the predictor was fitted on: copy the "
                "folder again, or train one"
            )
        return card.model_copy(update={"read": read})


def _ids(file: Path) -> list[str]:
    """What the file holds; nothing where it is no list, so that its digest is another."""
    try:
        found = json.loads(file.read_bytes())
    except ValueError:
        return []
    return found if isinstance(found, list) else []


def _digest(read: Iterable[str]) -> str:
    return hashlib.sha256("".join(sorted(read)).encode()).hexdigest()[:16]


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
