"""What a stored predictor is: ``predictor.json``, and the files that it lists."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from data.errors import ModelError
from data.files import file_digest
from data.record import Record
from data.score_map import ScoreMap
from data.validation import parse
from predictor.learned.settings import Kind, PredictorSettings
from predictor.prior import Prior

CARD = "predictor.json"
"""File of a stored predictor that makes it one: it is written last."""
REFIT = "refit"
"""Folder beside a predictor: the same, fitted on all questions of the pool."""
BACKBONE = "backbone"
"""Folder with the backbone and its tokenizer, where a predictor is stored with it."""
BASE = "base"
"""Folder with the kernel regression that a fine-tuned network corrects."""
_FILES = ("family.json", "regression.*", "adapter_*", "head.safetensors", f"{BACKBONE}/*", f"{BASE}/*")


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

    kind: Kind
    """What stands behind it."""
    settings: PredictorSettings
    population: Prior
    """Empirical-Bayes prior of the training questions; for questions too long to read."""
    strength: float = 1.0
    """Multiplies the precision of every prior that rests on a question; the best on tune questions."""
    contract: str = ""
    """Fingerprint of the scores it speaks of."""
    score_map: ScoreMap | None = None
    """What maps raw scores to those it speaks of."""
    data_digest: str = ""
    """Digest of the pool it was fitted on."""
    results: dict[str, float] = Field({})
    questions: int
    """Questions that it was fitted on."""
    compared: tuple[ComparedKind, ...] = ()
    """The kinds that were fitted, and how each did."""
    read: tuple[str, ...] = Field((), repr=False)
    """Ids of all questions whose scores it was fitted, stopped early, or made strong on."""
    files: dict[str, str] = Field({}, repr=False)
    """Digest of each file beside the card, so that one that is cut, or of another predictor, is noticed."""

    def change(self, read: Iterable[str] = (), **changes: Any) -> Self:
        """With other values, and more questions read."""
        return self.model_copy(update={**changes, "read": tuple(sorted({*self.read, *read}))})

    def write(self, directory: Path) -> None:
        """Write the card: a folder that has one is a predictor."""
        files = {str(file.relative_to(directory)): file_digest(file) for file in _parts(directory)}
        (directory / CARD).write_text(self.change(files=files).model_dump_json(indent=1))

    @classmethod
    def open(cls, directory: Path) -> Self:
        """The card of the predictor in a folder.

        Raises
        ------
        ModelError
            If there is none, or it is of an older version, or a file is not the one that was written with it.
        """
        try:
            what = f"{directory / CARD} is not a predictor's card, or one of an older version: train again"
            card: Self = parse((directory / CARD).read_bytes(), cls, ModelError, what)
            wrong = [name for name, digest in card.files.items() if file_digest(directory / name) != digest]
        except (FileNotFoundError, NotADirectoryError) as error:
            missing = Path(error.filename).relative_to(directory)
            raise ModelError(f"no predictor at {directory}: {missing} is missing") from error
        if wrong:
            raise ModelError(
                f"the {card.kind} predictor in {directory} is not whole, or its files are of several: "
                f"{', '.join(wrong)} changed since it was saved. Copy all of it there again, or train again"
            )
        return card.change(files={})


def clear(directory: Path) -> None:
    """Make the folder, without a file of a predictor that was there: half of two would be none."""
    directory.mkdir(parents=True, exist_ok=True)
    for file in (directory / CARD, *_parts(directory)):
        file.unlink(missing_ok=True)


def _parts(directory: Path) -> list[Path]:
    """Files of the predictor in a folder, but for its card."""
    return [file for pattern in _FILES for file in sorted(directory.glob(pattern)) if file.is_file()]
