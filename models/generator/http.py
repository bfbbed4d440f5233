"""A generator behind HTTP: any server that speaks OpenAI's chat or completion route."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from httpx2 import Response

from data.contract import Sampling
from data.errors import QuestionError
from data.question import Question
from models.faults import explain_fault, reason_in
from models.generator.base import STATUS, Candidate, Status, in_think
from models.http_client import FAULTS, HttpModel, Observe, call, require_served
from models.reward.base import scored_part
from models.settings import HttpGeneratorSettings

logger = logging.getLogger(__name__)
SEEDS = 2**31
UNREAD: Any = {"headers": {"X-Stainless-Raw-Response": "stream"}}
"""By it OpenAI's client leaves a body unread."""


class TurnsError(QuestionError):
    """A question of several turns, on the route that has a place for one."""

    status_code = 400  # as if the server had refused it


class AsyncHttpGenerator(HttpModel):
    """Samples; what fails is a candidate marked ``failed``, with a warning."""

    role = "generator"

    def __init__(self, settings: HttpGeneratorSettings) -> None:
        super().__init__(settings)
        self.settings = settings
        prompt = settings.prompt_template if settings.route == "chat" else settings.template
        self.identity = {
            "generator": settings.model,
            "generator_revision": settings.revision,
            "prompt_template": f"{prompt} + {settings.instruction}" if settings.instruction else prompt,
        }

    async def sample(
        self,
        question: Question,
        count: int,
        seed: int,
        sampling: Sampling,
        more: Mapping[str, Any] | None = None,
        observe: Observe | None = None,
    ) -> list[Candidate]:
        """``count`` candidates; asked for again as long as the server gives fewer, but some.

        ``more`` are further fields of the request: its ``messages`` stand for the question's, its ``seed``
        has seeds sent where ``seeds: asked`` waits for one. Raises ModelError where the server refuses every
        request alike.
        """
        found: list[Candidate] = []
        while len(found) < count:
            number = (seed + len(found)) % SEEDS
            try:
                async with self._request(observe):
                    answer = await self._ask(question, count - len(found), number, sampling, more)
                    candidates = self._read(answer, number, sampling)[: count - len(found)]
            except (*FAULTS, TurnsError) as error:
                cause = explain_fault(error, self.settings)
                logger.warning("question %s got no answer: %s", question.id, cause)
                return found + [Candidate(None, 0, 0, "failed", number, cause=cause)] * (count - len(found))
            for cause in {one.cause for one in candidates if one.cause}:
                logger.warning("question %s got an answer that is none: %s", question.id, cause)
            found += candidates
        return found

    @asynccontextmanager
    async def forward(
        self, path: str, body: Mapping[str, Any], observe: Observe | None = None
    ) -> AsyncIterator[Response]:
        """Send a request as it is, in its turn; gives the answer, whose body is still to be read.

        Raises one of `FAULTS` where the server refuses or does not answer.
        """
        started = time.monotonic()
        async with self._limit:
            try:
                reply = await self.client.post(path, body=body, cast_to=Response, options=UNREAD)
            except Exception as error:
                if observe:
                    observe(time.monotonic() - started, error)
                raise
            try:
                yield reply
            finally:
                await reply.aclose()
                if observe:
                    observe(time.monotonic() - started, None)

    async def _ask(
        self, question: Question, n: int, seed: int, sampling: Sampling, more: Mapping[str, Any] | None
    ) -> Any:
        more = dict(more or {})
        turns = list(more.pop("messages", None) or question.as_chat())
        turns[-1] = {**turns[-1], "content": turns[-1]["content"] + self.settings.instruction}
        seeded = more.pop("seed", None) is not None or self.settings.seeds is True
        body: dict[str, Any] = {
            "model": self.settings.model,
            "n": n,
            **sampling.model_dump(exclude={"stop"}),
            **({"seed": seed} if seeded else {}),
            **({"stop": list(sampling.stop)} if sampling.stop else {}),
            **self.settings.extra_body,
            **more,
        }
        # Posted as it is: the client's typed calls take longer to build than a small request takes.
        path = "/chat/completions"
        if self.settings.route == "chat":
            body["messages"] = turns
        else:
            if len(turns) > 1:
                raise TurnsError(
                    f"route: completions takes questions of one turn, not {len(turns)}: set route: chat"
                )
            prompt = self.settings.template.replace("{question}", turns[-1]["content"])
            path, body["prompt"] = "/completions", prompt
        return await self.client.post(path, body=body, cast_to=object)

    def _read(self, answer: Any, seed: int, sampling: Sampling) -> list[Candidate]:
        if not isinstance(answer, dict) or not answer.get("choices"):
            raise ValueError(f"200 without choices: {reason_in(answer)}")
        choices, usage = answer["choices"], answer.get("usage")
        if usage is None:
            raise ValueError("the answer counts no tokens: it has no usage")
        texts = [_text(choice) for choice in choices]
        tokens = [_counted(choice) for choice in choices]
        if None in tokens:
            tokens = _apportion(usage["completion_tokens"], texts)
        found = []
        for choice, text, count in zip(choices, texts, tokens, strict=True):
            status, cause = _judge(choice, text, (count or 0) >= sampling.max_tokens)
            # What failed has no text, so that it is neither delivered nor a vote.
            text, prompt = "" if cause else text, usage.get("prompt_tokens") or 0
            found.append(Candidate(text, count or 0, prompt, status, seed, cause, _reasoning(choice)))
        return found


class HttpGenerator:
    """The generator of collections: one event loop for all threads; see `Generator`."""

    def __init__(self, settings: HttpGeneratorSettings) -> None:
        self.settings = settings
        self.sampling = settings.sampling
        self._inner = AsyncHttpGenerator(settings)
        self.identity = self._inner.identity
        call(require_served, self._inner.client, settings)

    def sample(self, questions: Sequence[Question], n: int, seed: int) -> list[list[Candidate]]:
        """See `Generator`. Raises ModelError where the server refuses every request alike."""
        return call(self._sample, questions, n, seed)

    async def _sample(self, questions: Sequence[Question], n: int, seed: int) -> list[list[Candidate]]:
        size = self.settings.candidates_per_request or n
        draw = self._inner.sample
        async with asyncio.TaskGroup() as group:
            asked = [
                [
                    group.create_task(draw(question, min(size, n - at), seed + place * n + at, self.sampling))
                    for at in range(0, n, size)
                ]
                for place, question in enumerate(questions)
            ]
        return [[candidate for task in tasks for candidate in task.result()] for tasks in asked]


def _judge(choice: Any, text: str, full: bool) -> tuple[Status, str | None]:
    """Status of a choice, and why it failed if it did; ``full``: it has all the tokens that it may have."""
    ended, message = choice.get("finish_reason"), choice.get("message") or {}
    if refusal := message.get("refusal"):
        return "failed", f"the model refused: {reason_in(refusal)}"
    if choice.get("error"):
        return "failed", reason_in(choice["error"])
    status = STATUS.get(str(ended).lower())
    if status == "cut" or (ended is None and full):
        return "cut", None
    if status is None and ended is not None:
        return "failed", f"finish_reason {ended}"
    if not scored_part(text, "answer").strip():
        return "failed", f"an empty answer (finish_reason {ended})"
    return "complete", None


def _text(choice: Any) -> str:
    """The completion; what a server has taken out as reasoning is put back where it was."""
    if "message" not in choice:
        text = _joined(choice["text"])
    else:
        reasoning, content = _reasoning(choice), _joined((choice["message"] or {}).get("content"))
        text = f"{in_think(reasoning)}{content}" if reasoning else content
    return text.encode(errors="replace").decode()  # JSON can hold half a character, which nothing else can


def _reasoning(choice: Any) -> str | None:
    """What a server keeps apart from the answer."""
    message = choice.get("message") or {}
    content = message.get("content")
    thoughts = [part.get("thinking") for part in content] if isinstance(content, list) else []
    reasoning = message.get("reasoning_content") or message.get("reasoning") or _joined(thoughts)
    return str(reasoning).encode(errors="replace").decode() if reasoning else None


def _joined(content: Any) -> str:
    """The text of a content, which may be null, or a list of parts."""
    if isinstance(content, list):
        return "".join(map(_joined, content))
    if isinstance(content, dict):
        return _joined(content.get("text"))
    return content if isinstance(content, str) else ""


def _counted(choice: Any) -> int | None:
    """Tokens of one choice, where the server lists them (vLLM does if asked by ``return_token_ids``)."""
    ids = choice.get("token_ids")
    return len(ids) if isinstance(ids, list) else None


def _apportion(total: int, texts: Sequence[str]) -> list[int | None]:
    """Shares of ``total`` by length of the texts; they sum to it."""
    lengths = [len(text) + 1 for text in texts]
    ends = [round(total * sum(lengths[: i + 1]) / sum(lengths)) for i in range(len(lengths))]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]
