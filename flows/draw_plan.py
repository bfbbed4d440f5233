"""How many candidates a collection draws of each question: few of most train questions, all of the others."""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Self

from pydantic import Field, model_validator

from data.files import short_digest
from data.folds import FoldSettings
from data.pool import Pool
from data.question import Question
from data.record import Record


class CollectSettings(Record):
    """How the pool is filled."""

    questions: tuple[str, ...] = ("data/questions/arithmetic.jsonl",)
    """Question sets: JSON lines files."""
    candidates: int = Field(32, ge=1)
    """Candidates a question; the cap that policies are judged against."""
    train_candidates: int | None = Field(None, ge=2)
    """Candidates of train questions beyond ``full_train``, which predictors learn from: 4 to 8 of many
    questions teach as much as all of them, for a fraction of the tokens. null: as many as of the others."""
    full_train: int = Field(200, ge=1)
    """Train questions that get all candidates in any case: stopping rules are learned on them."""
    part_questions: int = Field(16, ge=1)
    """Questions a part of the pool; what a crash can cost at most."""
    answers: str | None = Field(None, pattern=r"^[\w.]+:[\w.]+$")
    """``package.module:function`` that reads a completion's answer and judges it, for code and prose; null:
    the product's own notion (`optscale grade`). Name it in ``gateway.answers`` too."""
    limit: int | None = Field(None, ge=1)
    """New questions to collect in one run, at most."""
    seed: int = 0
    """Base of the candidates' seeds."""
    retries: int = Field(2, ge=0)
    """Further tries of a part whose collection failed."""
    parts_in_flight: int = Field(1, ge=1)
    """Parts collected at once: 2 lets a server generate while the last part is scored."""
    failed_share: float = Field(0.1, ge=0, le=1)
    """A part with a greater share of failed candidates is not kept: something is broken."""

    @model_validator(mode="after")
    def _few_are_fewer(self) -> Self:
        if self.train_candidates is not None and self.train_candidates > self.candidates:
            raise ValueError(f"train_candidates is {self.train_candidates}, and candidates {self.candidates}")
        return self


def choose_few(
    new: Sequence[Question], pool: Pool | None, folds: FoldSettings, settings: CollectSettings
) -> Collection[str]:
    """Ids of the new questions of which ``settings.train_candidates`` are drawn; none where that is null.

    Folds are those of the pool with the new questions in it. Which train questions get all candidates is a
    matter of a hash, so a collection that was killed goes on with the same plan.
    """
    if settings.train_candidates is None:
        return ()
    rows = [] if pool is None else pool.columns("question_id", "group").to_pylist()
    held = Counter((row["question_id"], row["group"]) for row in rows)
    sized = folds.sized(len(held) + len(new))
    full = sum(
        drawn >= settings.candidates and sized.fold_of(*asked) == "train" for asked, drawn in held.items()
    )
    train = [question.id for question in new if sized.fold_of(question.id, question.group) == "train"]
    train.sort(key=lambda name: short_digest(f"full:{name}"))
    return set(train[max(settings.full_train - full, 0) :])


def plan_parts(
    new: Sequence[Question], few: Collection[str], settings: CollectSettings
) -> list[tuple[Sequence[Question], CollectSettings]]:
    """Questions of each part, and the settings that it is collected with.

    A part of questions with few candidates holds more of them: as many candidates as another part, or nearly.
    """
    parts = list[tuple[Sequence[Question], CollectSettings]]()
    for chosen in (False, True):
        asked = [question for question in new if (question.id in few) == chosen]
        drawn = settings.train_candidates if chosen else None
        own = settings if drawn is None else settings.model_copy(update={"candidates": drawn})
        size = max(settings.part_questions * settings.candidates // own.candidates, 1)
        parts += [(asked[start : start + size], own) for start in range(0, len(asked), size)]
    return parts
