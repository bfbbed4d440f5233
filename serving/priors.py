"""Where priors come from: the predictor, wherever it runs."""

from collections.abc import Sequence
from typing import Any, Protocol

from cachetools import LRUCache

from data.errors import QuestionError
from data.question import Question
from predictor.prior import Prior
from serving.schemas import MAX_QUESTION, MAX_TURNS, Placed


class PriorSource(Protocol):
    """Predicts the law of questions' scores."""

    async def priors(self, questions: Sequence[Question]) -> list[Prior]:
        """The prior of each question."""

    async def ready(self) -> bool:
        """Whether it answers."""

    async def prepare(self) -> None:
        """Have it ready before it is asked."""


class RemotePredictor:
    """The predictor's service; the priors of the latest 4096 questions are remembered.

    ``bundle`` is the folder of the bundle whose predictor is asked: the service may hold several.
    """

    def __init__(self, service: Any, bundle: str) -> None:
        self.service, self.bundle = service, bundle
        self.known: LRUCache[str, Prior] = LRUCache(4096)

    async def priors(self, questions: Sequence[Question]) -> list[Prior]:
        """See `PriorSource`. Raises QuestionError for a question that is too long for it."""
        if any(len(q.messages) > MAX_TURNS or q.characters > MAX_QUESTION for q in questions):
            raise QuestionError("the question is too long for the predictor")
        priors = {q.id: self.known[q.id] for q in questions if q.id in self.known}
        asked = [q for q in questions if q.id not in priors]
        new = {q.id: Placed(messages=list(q.messages), bundle=self.bundle) for q in asked}
        if new:
            answers = await self.service.to_async.predict_priors(questions=list(new.values()))
            priors |= zip(new, answers, strict=True)
            self.known.update(priors)
        return [priors[q.id] for q in questions]

    async def ready(self) -> bool:
        """See `PriorSource`."""
        is_ready = getattr(self.service, "is_ready", None)  # a service in this process has none
        try:
            return True if is_ready is None else bool(await is_ready(5))
        except Exception:  # whatever a connection that is not there yet raises
            return False

    async def prepare(self) -> None:
        """See `PriorSource`."""
        await self.service.to_async.prepare(bundle=self.bundle)
