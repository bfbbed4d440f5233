"""Where priors come from: the predictor, wherever it runs."""

from collections.abc import Sequence
from typing import Any, Protocol

from cachetools import LRUCache

from data.errors import QuestionError
from data.question import Question
from predictor.prior import Prior
from serving.schemas import MAX_QUESTION, MAX_TURNS, Asked


class PriorSource(Protocol):
    """Predicts the law of questions' scores."""

    async def priors(self, questions: Sequence[Question]) -> list[Prior]:
        """The prior of each question."""

    async def ready(self) -> bool:
        """Whether it answers."""


class RemotePredictor:
    """The predictor's service; the priors of the latest 4096 questions are remembered."""

    def __init__(self, service: Any) -> None:
        self.service = service
        self.known: LRUCache[str, Prior] = LRUCache(4096)

    async def priors(self, questions: Sequence[Question]) -> list[Prior]:
        """See `PriorSource`. Raises QuestionError for a question that is too long for it."""
        if any(len(q.messages) > MAX_TURNS or q.characters > MAX_QUESTION for q in questions):
            raise QuestionError("the question is too long for the predictor")
        priors = {q.id: self.known[q.id] for q in questions if q.id in self.known}
        new = {q.id: Asked(messages=list(q.messages)) for q in questions if q.id not in priors}
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
