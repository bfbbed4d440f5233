"""Reward models behind the routes that vLLM has for them; SGLang's ``/classify`` is one of them too."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import expit, softmax

from data.errors import ModelError
from data.question import Question
from models.faults import explain_fault, reason_in
from models.http_client import FAULTS, REFUSED, HttpModel, Observe, call, require_served
from models.reward.base import StepScores
from models.reward.steps import Example, encode_completions, examples_of, fill_in, find_convention
from models.settings import HttpRewardSettings
from models.tokenizer import open_tokenizer

logger = logging.getLogger(__name__)
QUICK = 2000  # characters that are encoded faster than a thread is woken; more would hold up the loop
NEAR = 0.02
"""By how much the probabilities of a row may miss one: servers compute in half precision."""


class AsyncHttpRewardModel(HttpModel):
    """Texts are encoded here and sent as token ids, but as text where the server pairs them.

    The server answers with a row of values, one a class: of ``/pooling`` one row a token, or a mark where it
    selects them, of the other routes one a completion.
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
            "markup": _markup(settings),
            "span": settings.span,
        }
        if settings.values == "raw":
            self.identity["scale"] = "raw"
        self._url = f"{settings.base_url.rstrip('/').removesuffix('/v1')}/{settings.route}"

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

    async def _ask(self, batch: list[Example], observe: Observe | None) -> list[list[float] | str]:
        """Step scores of each example, or why there are none."""
        try:
            async with self._request(observe) as wrong:
                answer: Any = await self.client.post(self._url, body=self._body(batch), cast_to=object)
                found: list[list[float] | str] = []
                for example, row in zip(batch, _rows(answer), strict=True):
                    try:
                        found.append(self._read(example, row))
                    except (ValueError, LookupError, TypeError) as error:
                        wrong.append(error)
                        found.append(_unscored(1, explain_fault(error, self.settings)))
            return found
        except FAULTS as error:
            if len(batch) == 1 or not isinstance(error, REFUSED):
                return [_unscored(len(batch), explain_fault(error, self.settings))] * len(batch)
        # One completion can have all of its request refused.
        alone = await asyncio.gather(*(self._ask([example], observe) for example in batch))
        return [steps for (steps,) in alone]

    def _body(self, batch: list[Example]) -> dict[str, Any]:
        ids, model = [e["input_ids"] for e in batch], self.settings.model
        match self.settings.route:
            case "pooling":
                return {"model": model, "task": "token_classify", "input": ids}
            case "classify":
                return {"model": model, "input": ids, "input_ids": ids}  # the second is SGLang's name of it
        questions, texts = zip(*(e["pair"] for e in batch), strict=True)
        return {"model": model, "text_1": questions, "text_2": texts}

    def _read(self, example: Example, row: Any) -> list[float]:
        """Step scores from the (tokens or steps, classes) values of one completion."""
        step, values = np.array(example["step"]), np.array(row, dtype=float)
        if values.ndim == 1:  # one class a token, or the classes of a completion
            values = values[:, None] if self.settings.route == "pooling" else values[None, :]
        if len(values) == len(step):
            values = values[[np.flatnonzero(step == k)[-1] for k in range(1, step.max() + 1)]]
        if len(values) != step.max():
            raise ValueError(f"{len(values)} rows for {len(step)} tokens and {step.max()} steps")
        return [float(p) for p in self._scores(values)]

    def _scores(self, values: np.ndarray) -> np.ndarray:
        """P(right), or the raw value, of each of (rows, classes) values.

        Raises
        ------
        ValueError
            If a value is no finite number.
        ModelError
            If a row is not what ``values`` says: all will be like it.
        """
        kind = self.settings.values
        if not np.isfinite(values).all():
            raise ValueError("a value that is no finite number")
        single = values.shape[1] == 1
        if kind == "raw" and single:
            return values[:, 0]
        if kind == "logits":
            values = expit(values) if single else softmax(values, axis=1)
        good = ((values >= 0) & (values <= 1)).all(axis=1)
        good &= single | (np.abs(values.sum(axis=1) - 1) <= NEAR)
        if kind == "raw" or not good.all():
            row = 0 if kind == "raw" else int(np.flatnonzero(~good)[0])
            shown = ", ".join(f"{value:.4g}" for value in values[row, :4])
            wanted = "one raw value" if kind == "raw" else "probabilities that sum to one"
            raise ModelError(
                f"reward model at {self._url}: row {row} is [{shown}], not {wanted}. Set reward.values: "
                "logits where the server applies no activation, raw where it gives any one number"
            )
        named = self.settings.right_class
        return values[:, 0 if single else self.convention.right_class if named is None else named]


def _rows(answer: Any) -> list[Any]:
    """The values of each completion, in the order asked for."""
    rows = answer.get("data") if isinstance(answer, dict) else answer
    if not isinstance(rows, list):
        raise ValueError(f"200 without data: {reason_in(answer)}")
    rows = sorted(rows, key=lambda row: row.get("index", 0))
    names = ("data", "probs", "embedding")  # of /pooling, of /classify, of SGLang's
    return [next((row[n] for n in names if n in row), [row.get("score")]) for row in rows]


def _markup(settings: HttpRewardSettings) -> str:
    """The convention; where the values are not the server's probabilities, what is made of them."""
    told: list[str] = [settings.convention]
    told += [] if settings.convention != "outcome" else [settings.route]
    told += [] if settings.values == "probabilities" else [settings.values]
    told += [] if settings.right_class is None else [f"class {settings.right_class}"]
    return ", ".join(told)


def _unscored(count: int, cause: str) -> str:
    logger.warning("%d completions got no score: %s", count, cause)
    return cause


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
