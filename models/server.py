"""The models of this process behind the routes that vLLM has, so that a gateway can be tried without vLLM.

One batch at a time: requests that arrive meanwhile and are alike make up the next one. A reward model by
the convention ``lines`` can be served only so, since vLLM's ``/pooling`` gives it no token likelihoods.
"""

import asyncio
import random
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from pydantic import Field, ValidationError, field_validator
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from data.contract import Sampling
from data.errors import ModelError
from data.question import Message, Question
from data.record import Record
from data.validation import explain
from models.generator.base import Candidate
from models.generator.local import LocalGenerator
from models.reward.local import LocalRewardModel, step_probabilities
from models.reward.steps import SEPARATOR, Example
from models.settings import LocalGeneratorSettings, LocalRewardSettings

Asked = TypeVar("Asked")
Found = TypeVar("Found")
UNREAD = ("name", "reasoning", "reasoning_content")


class Batches(Generic[Asked, Found]):
    """Computes in a thread; what waits meanwhile is computed together, where its key is the same."""

    def __init__(self, compute: Callable[[Any, list[Asked]], Sequence[Found]], thread: Executor) -> None:
        self.compute, self.thread = compute, thread
        self.lock = asyncio.Lock()
        self.waiting: list[tuple[Hashable, Asked, asyncio.Future[Found]]] = []

    async def ask(self, key: Hashable, asked: Asked) -> Found:
        """The answer to one request; those with an equal ``key`` share a batch."""
        found: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self.waiting.append((key, asked, found))
        try:
            async with self.lock:
                if not found.done():
                    await self._next(key)
            return await found
        finally:
            found.cancel()  # who has left is not answered; nothing where there is an answer

    async def _next(self, key: Hashable) -> None:
        batch = [one for one in self.waiting if one[0] == key and not one[2].cancelled()]
        self.waiting = [one for one in self.waiting if one[0] != key]
        try:
            asked = [one[1] for one in batch]
            loop = asyncio.get_running_loop()
            answers = await loop.run_in_executor(self.thread, self.compute, key, asked)
        except Exception as error:  # each of those that wait is to hear of it
            for _, _, found in batch:
                if not found.cancelled():
                    found.set_exception(error)
            return
        except BaseException:  # who asked for it was cancelled: the next of the others asks anew
            self.waiting += batch
            raise
        for (_, _, found), answer in zip(batch, answers, strict=True):
            if not found.cancelled():
                found.set_result(answer)


class ChatBody(Record):
    """What is understood of a chat request; one with a seed shares its batch with no other."""

    model: str
    messages: tuple[Message, ...] = Field(min_length=1)
    n: int = Field(1, ge=1)
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    user: str | None = None

    @field_validator("messages", mode="before")
    @classmethod
    def _words_alone(cls, turns: Any) -> Any:
        """Names of speakers and reasoning of earlier turns have no place in the models' prompts."""
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            return turns
        return [{k: v for k, v in turn.items() if k not in UNREAD} for turn in turns]


class PoolingBody(Record):
    """What is understood of a pooling request."""

    model: str
    task: str = "token_classify"
    input: list[list[int]]


class ModelServer:
    """``/v1/models``, ``/v1/chat/completions`` and, where there is a reward model, ``/pooling``.

    One thread loads and computes: two models would slow each other down, and torch is slower in a second
    thread than in the first that computes.
    """

    def __init__(self, generator: LocalGeneratorSettings, reward: LocalRewardSettings | None) -> None:
        thread = ThreadPoolExecutor(1)
        self.generator = thread.submit(LocalGenerator, generator).result()
        self.chats: Batches[Question, list[Candidate]] = Batches(self._sample, thread)
        self.chance = random.SystemRandom()
        self.reward: LocalRewardModel | None = None
        if reward is None:
            return
        self.reward = thread.submit(LocalRewardModel, reward).result()
        self.poolings: Batches[list[Example], list[list[float]]] = Batches(self._score, thread)
        coder, turn = self.reward.tokenizer, Question.ask("?").as_chat()
        asked = coder.apply_chat_template(turn, tokenize=False)
        opened = coder.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        (self.mark,) = coder(SEPARATOR, add_special_tokens=False).input_ids
        self.opening = coder(opened.removeprefix(asked), add_special_tokens=False).input_ids

    @property
    def app(self) -> Starlette:
        """The routes as an ASGI application."""
        chat = Route("/v1/chat/completions", self.chat, methods=["POST"])
        routes = [Route("/v1/models", self.models), chat]
        if self.reward is not None:
            routes.append(Route("/pooling", self.pooling, methods=["POST"]))
        return Starlette(routes=routes, exception_handlers={ValueError: _on_invalid, ModelError: _on_invalid})

    async def models(self, request: Request) -> Response:
        """The names of all that are there."""
        names = [self.generator.identity["generator"]]
        if self.reward is not None:
            names.append(self.reward.identity["reward_model"])
        return JSONResponse({"object": "list", "data": [{"id": n, "object": "model"} for n in names]})

    async def chat(self, request: Request) -> Response:
        """Candidates of one question."""
        body = ChatBody.model_validate_json(await request.body())
        changes = body.model_dump(include={"temperature", "top_p", "max_tokens", "stop"}, exclude_none=True)
        sampling = Sampling.model_validate(self.generator.settings.sampling.model_dump() | changes)
        alone = object() if body.seed is not None else None  # or other questions would change what it gives
        key = (sampling, body.n, body.seed, alone)
        found = await self.chats.ask(key, Question(messages=body.messages))
        choices = [
            {
                "index": index,
                "finish_reason": "stop" if candidate.status == "complete" else "length",
                "message": {"role": "assistant", "content": candidate.text},
            }
            for index, candidate in enumerate(found)
        ]
        prompt, generated = found[0].prompt_tokens, sum(c.tokens for c in found)
        usage = {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}
        head = {"object": "chat.completion", "model": body.model}
        return JSONResponse(head | {"choices": choices, "usage": usage})

    async def pooling(self, request: Request) -> Response:
        """P(step wrong) and P(step right) of each step of token sequences."""
        body = PoolingBody.model_validate_json(await request.body())
        found = await self.poolings.ask(None, [self._example(ids) for ids in body.input])
        pairs = [[[1 - right, right] for right in steps] for steps in found]
        data = [{"index": index, "data": steps} for index, steps in enumerate(pairs)]
        return JSONResponse({"object": "list", "data": data})

    def _sample(
        self, key: tuple[Sampling, int, int | None, Any], asked: list[Question]
    ) -> list[list[Candidate]]:
        self.generator.sampling, n, seed, _ = key
        return self.generator.sample(asked, n, self.chance.randrange(2**31) if seed is None else seed)

    def _score(self, key: None, asked: list[list[Example]]) -> list[list[list[float]]]:
        assert self.reward is not None
        examples = [example for own in asked for example in own]
        tokens, pad = self.reward.settings.batch_tokens, self.reward.tokenizer.pad_token_id
        steps = iter(step_probabilities(self.reward.model, pad, examples, tokens))
        return [[next(steps) for _ in own] for own in asked]

    def _example(self, ids: list[int]) -> Example:
        """The steps that the convention ``lines`` has marked, numbered again."""
        size = len(self.opening)
        starts = [at for at in range(size, len(ids)) if ids[at - size : at] == self.opening]
        if not starts:
            raise ValueError("an input holds no answer of an assistant")
        step = [0] * starts[-1] + [1] * (len(ids) - starts[-1])
        for at in range(starts[-1] + 1, len(ids)):
            step[at] = step[at - 1] + (ids[at - 1] == self.mark)
        return {"input_ids": ids, "step": step}


async def _on_invalid(request: Request, error: Exception) -> Response:
    message = str(error)
    if isinstance(error, ValidationError):
        message = explain(error.errors()[:5], ChatBody | PoolingBody)
    return JSONResponse({"error": {"message": message, "type": "invalid_request_error"}}, 400)
