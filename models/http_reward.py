"""A process reward model behind vLLM's ``/pooling`` route."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import openai

from models import backbone
from models.conventions import CONVENTIONS, Example
from models.http_client import MISCONFIGURED, call, connect
from models.rewards import StepScores
from models.settings import HttpRewardSettings
from models.steps import score_completions
from predictor.errors import ModelError
from predictor.question import Question

logger = logging.getLogger(__name__)


class HttpRewardModel:
    """Texts are encoded here and sent as token ids; see `models.rewards.RewardModel`.

    The server answers with one row of class probabilities a token, or a mark where it selects them.
    """

    def __init__(self, settings: HttpRewardSettings) -> None:
        self.settings = settings
        self.aggregation = settings.aggregation
        self.convention = CONVENTIONS[settings.convention]
        self.tokenizer = backbone.load_tokenizer(settings.tokenizer)
        self._client = connect(settings)
        self._limit = asyncio.Semaphore(settings.in_flight)
        self.identity = {
            "reward_model": settings.model,
            "reward_revision": settings.revision,
            "markup": settings.convention,
            "span": settings.span,
        }

    def score(self, items: Sequence[tuple[Question, str]]) -> list[StepScores]:
        """See `RewardModel`. Raises ModelError where the server refuses every request alike."""
        return score_completions(
            self.convention, self.tokenizer, self.settings.span, self.settings.positions, items, self._judge
        )

    def _judge(self, examples: list[Example]) -> list[list[float] | None]:
        return call(self._ask_all, examples)

    async def _ask_all(self, examples: list[Example]) -> list[list[float] | None]:
        size = self.settings.batch_size
        async with asyncio.TaskGroup() as group:
            starts = range(0, len(examples), size)
            tasks = [group.create_task(self._ask(examples[at : at + size])) for at in starts]
        return [steps for task in tasks for steps in task.result()]

    async def _ask(self, batch: list[Example]) -> list[list[float] | None]:
        settings = self.settings
        body = {
            "model": settings.model,
            "task": "token_classify",
            "input": [e["input_ids"] for e in batch],
        }
        url = settings.base_url.rstrip("/").removesuffix("/v1") + "/pooling"
        try:
            async with self._limit, asyncio.timeout(settings.deadline):
                answer: Any = await self._client.post(url, body=body, cast_to=object)
            rows = sorted(answer["data"], key=lambda row: row["index"])
            return [self._read(e, row["data"]) for e, row in zip(batch, rows, strict=True)]
        except MISCONFIGURED as error:
            raise ModelError(f"reward model at {settings.base_url}: {error}") from error
        except (openai.APIError, TimeoutError, ValueError, LookupError, TypeError) as error:
            logger.warning("%d completions got no score: %s: %s", len(batch), type(error).__name__, error)
            return [None] * len(batch)

    def _read(self, example: Example, classes: Any) -> list[float] | None:
        """Step scores from (tokens or steps, classes) probabilities."""
        step = np.array(example["step"])
        right = np.asarray(classes, dtype=float)[:, self.convention.right_class]
        if len(right) == len(step):
            right = right[[np.flatnonzero(step == k)[-1] for k in range(1, step.max() + 1)]]
        if len(right) != step.max():
            raise ValueError(f"{len(right)} rows for {len(step)} tokens and {step.max()} steps")
        return [float(p) for p in right]
