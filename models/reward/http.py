"""A process reward model behind vLLM's ``/pooling`` route."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from data.question import Question
from models.http_client import FAULTS, REFUSED, HttpModel, Observe, call, require_served
from models.reward.base import StepScores
from models.reward.steps import Example, encode_completions, examples_of, fill_in, find_convention
from models.settings import HttpRewardSettings
from models.tokenizer import open_tokenizer

logger = logging.getLogger(__name__)
QUICK = 2000  # characters that are encoded faster than a thread is woken; more would hold up the loop


class AsyncHttpRewardModel(HttpModel):
    """Texts are encoded here and sent as token ids.

    The server answers with one row of class probabilities a token, or a mark where it selects them.
    """

    role = "reward model"

    def __init__(self, settings: HttpRewardSettings) -> None:
        super().__init__(settings)
        self.settings = settings
        self.convention = find_convention(settings.convention)
        self.tokenizer = open_tokenizer(settings.tokenizer)
        self.identity = {
            "reward_model": settings.model,
            "reward_revision": settings.revision,
            "markup": settings.convention,
            "span": settings.span,
        }

    async def fits(self, question: Question) -> bool:
        """Whether the question leaves room for a completion."""
        if 8 * question.characters <= self.settings.positions:
            return True  # a character has four tokens at most
        coded = await asyncio.to_thread(self.convention.encode_completion, self.tokenizer, question, "?")
        return coded is None or len(coded["input_ids"]) < self.settings.positions

    async def score(
        self, items: Sequence[tuple[Question, str]], observe: Observe | None = None
    ) -> list[StepScores]:
        """See `RewardModel`. Raises ModelError where the server refuses every request alike."""
        settings = self.settings
        coding = (self.convention, self.tokenizer, settings.span, settings.positions, items)
        if sum(len(question.text) + len(text) for question, text in items) < QUICK:
            coded = encode_completions(*coding)
        else:
            coded = await asyncio.to_thread(encode_completions, *coding)
        examples, size = examples_of(coded), settings.batch_size
        async with asyncio.TaskGroup() as group:
            starts = range(0, len(examples), size)
            tasks = [group.create_task(self._ask(examples[at : at + size], observe)) for at in starts]
        return fill_in(coded, [steps for task in tasks for steps in task.result()])

    async def _ask(self, batch: list[Example], observe: Observe | None) -> list[list[float] | None]:
        settings = self.settings
        body = {
            "model": settings.model,
            "task": "token_classify",
            "input": [e["input_ids"] for e in batch],
        }
        url = settings.base_url.rstrip("/").removesuffix("/v1") + "/pooling"
        try:
            async with self._request(observe) as wrong:
                answer: Any = await self.client.post(url, body=body, cast_to=object)
                rows = sorted(answer["data"], key=lambda row: row["index"])
                found: list[list[float] | None] = []
                for example, row in zip(batch, rows, strict=True):
                    try:
                        found.append(self._read(example, row["data"]))
                    except (ValueError, LookupError, TypeError) as error:
                        wrong.append(error)
                        _unscored(1, error)
                        found.append(None)
            return found
        except FAULTS as error:
            if len(batch) == 1 or not isinstance(error, REFUSED):
                _unscored(len(batch), error)
                return [None] * len(batch)
        # One completion can have all of its request refused.
        alone = await asyncio.gather(*(self._ask([example], observe) for example in batch))
        return [steps for (steps,) in alone]

    def _read(self, example: Example, classes: Any) -> list[float] | None:
        """Step scores from (tokens or steps, classes) probabilities."""
        step = np.array(example["step"])
        right = np.asarray(classes, dtype=float)[:, self.convention.right_class]
        if len(right) == len(step):
            right = right[[np.flatnonzero(step == k)[-1] for k in range(1, step.max() + 1)]]
        if len(right) != step.max():
            raise ValueError(f"{len(right)} rows for {len(step)} tokens and {step.max()} steps")
        return [float(p) for p in right]


def _unscored(count: int, error: Exception) -> None:
    logger.warning("%d completions got no score: %s: %s", count, type(error).__name__, error)


class HttpRewardModel:
    """The reward model of collections: one event loop for all threads; see `RewardModel`."""

    def __init__(self, settings: HttpRewardSettings) -> None:
        self.settings = settings
        self.aggregation = settings.aggregation
        self._inner = AsyncHttpRewardModel(settings)
        self.identity = self._inner.identity
        self.tokenizer = self._inner.tokenizer
        call(require_served, self._inner.client, settings)

    def score(self, items: Sequence[tuple[Question, str]]) -> list[StepScores]:
        """See `RewardModel`. Raises ModelError where the server refuses every request alike."""
        return call(self._inner.score, items)
