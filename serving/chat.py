"""OpenAI's chat completions: what a request says, and what an answer to it looks like."""

import re
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from openai.types import CompletionUsage, ErrorObject, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage
from openai.types.chat.chat_completion import Choice
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from data.contract import Sampling
from data.errors import QuestionError
from data.question import Question
from data.record import Record
from data.validation import explain
from models.generator.base import Candidate, Status
from predictor.decision import Decision
from predictor.prior import Prior
from serving.draws import Draw, Tokens
from serving.messages import ChatMessage
from serving.schemas import EXAMPLE

PIECE = re.compile(r"\s*\S+\s*?(?=\s|$)|\s+")
"""What a chunk holds when the chosen answer is streamed: a word with the blanks before it."""
Stop = Annotated[str, Field(min_length=1, max_length=256)]


class StreamOptions(BaseModel):
    """What a stream ends with."""

    include_usage: bool | None = None


class Options(Record):
    """What a client can ask for beyond OpenAI's fields, under ``optscale``."""

    target: float | None = Field(None, gt=0, le=1)
    """Score that counts as a hit."""
    confidence: float | None = Field(None, gt=0, lt=1)
    """Chance of a hit that the bound is for; of policies that have one."""
    deadline: float | None = Field(None, gt=0, le=3600)
    """Seconds until the answer is due."""
    token_budget: int | None = Field(None, ge=1, le=2**31)
    """Generated tokens at most, at least max_tokens."""
    ahead: int | None = Field(None, ge=0, le=1024)
    """Candidates kept in flight while a decision is pending."""
    cap: int | None = Field(None, ge=1, le=100_000)
    """Candidates at most."""
    return_candidates: bool = False
    """Give every candidate with its score."""


class ChatRequest(Record):
    """``POST /v1/chat/completions``: OpenAI's request; `serving.fields` sorts what is not read here."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"example": {"model": "m", "messages": [{"role": "user", "content": EXAMPLE}]}},
    )

    model: Annotated[str, Field(max_length=256)]
    messages: list[ChatMessage] = Field(min_length=1)
    n: int | None = Field(None, ge=1, le=100_000)
    """Choices, the best first, of one run."""
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1, le=2**31)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31)
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    optscale: Options | None = None

    @field_validator("max_completion_tokens")
    @classmethod
    def _one_limit(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("max_tokens") not in {None, value}:
            raise ValueError("max_tokens and max_completion_tokens differ; give one of them")
        return value

    @model_validator(mode="after")
    def _stream_options_with_stream(self) -> "ChatRequest":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options goes with stream: true")
        return self

    def question(self) -> Question:
        """The conversation's words; raises QuestionError if its last turn is empty, or all endless."""
        try:
            return Question(messages=tuple(message.read() for message in self.messages))
        except ValidationError as error:
            raise QuestionError(explain(error.errors(), Question)) from error

    def sampling(self, default: Sampling) -> Sampling:
        """The default with what the request says."""
        changes = self.model_dump(include={"temperature", "top_p", "max_tokens", "stop"}, exclude_none=True)
        if self.max_completion_tokens is not None:
            changes["max_tokens"] = self.max_completion_tokens
        if isinstance(self.stop, str):
            changes["stop"] = (self.stop,)
        elif not self.stop:
            changes.pop("stop", None)
        return Sampling.model_validate(default.model_dump() | changes)


class AnyRequest(BaseModel):
    """A request of a route that the generator answers alone."""

    model_config = ConfigDict(extra="allow")

    model: Annotated[str, Field(max_length=256)]


class Shown(Record):
    """A candidate as ``optscale.return_candidates`` gives it."""

    text: str | None
    score: float | None
    answer: str | None
    """Key of its answer: equal answers have equal keys."""
    status: Status
    tokens: int
    round: int

    @classmethod
    def of(cls, draw: Draw) -> "Shown":
        """The candidate as it is now."""
        return cls.model_validate(draw, from_attributes=True)


class Explanation(Record):
    """The ``optscale`` field of an answer: what was drawn, and why it ended."""

    request_id: str
    prior: Prior | None
    """What was expected of the scores before the first candidate; null where none is scored."""
    rounds: int
    """Times that the policy was asked and went on."""
    drawn: int
    """Candidates of the rounds that ended; what the decision rests on."""
    scores: list[float | None]
    """Their scores, null where one has none."""
    cancelled: int
    """Candidates that were cancelled under way."""
    decision: Decision
    ended: str
    """decided, or what came first: deadline, token budget, generator, reward model."""
    degraded: list[str]
    """What was away or cut short; empty in good order."""
    selection: str
    """How the answer was chosen: best_score, majority or weighted_vote, as the policy says; majority where
    that needs scores and there are none."""
    votes: int
    """Candidates that gave the answer; 0 where none is read from its text."""
    score: float | None
    """The answer's score."""
    target: float
    cap: int
    hit: bool
    """Whether the answer's score reaches the target."""
    chance_correct: float | None
    """Chance that the answer is right, where it is known."""
    explored: bool
    """Drawn to the full cap for the log, whatever the policy said."""
    contract: str
    """Fingerprint of the contract that the scores were made under."""
    model_version: str | None
    """Version of the registered predictor; null: there is none."""
    promise: str | None
    """The certificate's statement; null where the request or a fault puts it aside."""
    tokens: Tokens
    seconds: float
    notes: list[str] = Field([])
    """What else is to be known of how it was answered."""
    candidates: list[Shown] | None = None
    """All of them, where return_candidates asks."""

    def headers(self) -> dict[str, str]:
        """The decision once more, for clients that drop fields that they do not know."""
        told = self.model_dump(include={"drawn", "rounds", "cap", "score", "hit", "votes", "ended"})
        told |= {"selection": self.selection, "reason": self.decision.reason, "contract": self.contract}
        told |= {"promise": self.promise, "degraded": "; ".join(self.degraded)}
        told |= {"tokens": self.tokens.generated, "notes": "; ".join(self.notes)}
        told["model-version"] = self.model_version
        return {
            f"x-optscale-{name}": str(value).lower() if isinstance(value, bool) else _header(str(value))
            for name, value in told.items()
            if value not in (None, "")
        }


class ChatResponse(ChatCompletion):
    """OpenAI's answer and our field; ``usage`` counts the prompt once, and all that was generated."""

    optscale: Explanation


class Alone(Record):
    """The ``optscale`` field of what the generator answered alone; nothing is promised of it."""

    request_id: str
    passthrough: str
    """Why Best-of-N does not fit it, with the fields that say so."""
    model_version: str | None = None
    promise: None = None


class PassedOn(BaseModel):
    """The generator's own answer, with our field."""

    model_config = ConfigDict(extra="allow")

    optscale: Alone


class ModelList(BaseModel):
    """``GET /v1/models``."""

    object: Literal["list"]
    data: list[Model]


class ErrorResponse(BaseModel):
    """Body of every answer that is no success."""

    error: ErrorObject


def make_response(
    model: str, candidates: Sequence[Candidate], prompt_tokens: int, explanation: Explanation
) -> ChatResponse:
    """The answer to a request: its choices are ``candidates``, the best first."""
    generated = explanation.tokens.generated
    usage = CompletionUsage(
        prompt_tokens=prompt_tokens,
        completion_tokens=generated,
        total_tokens=prompt_tokens + generated,
    )
    return ChatResponse(
        id=f"chatcmpl-{uuid.uuid4().hex}",
        object="chat.completion",
        created=int(time.time()),
        model=model,
        choices=[_choice(index, candidate) for index, candidate in enumerate(candidates)],
        usage=usage,
        # Read again, so that every field of it is set: those that are not are not shown.
        optscale=Explanation.model_validate(explanation.model_dump()),
    )


def _choice(index: int, candidate: Candidate) -> Choice:
    message = {"role": "assistant", "content": candidate.answer, "refusal": None}
    if candidate.reasoning:
        message["reasoning_content"] = candidate.reasoning
    return Choice(
        index=index,
        message=ChatCompletionMessage.model_validate(message),
        logprobs=None,
        finish_reason="stop" if candidate.status == "complete" else "length",
    )


def _header(text: str) -> str:
    """A text as a header can hold it."""
    return " ".join(text.encode("ascii", "replace").decode().split())[:500]


def stream(response: ChatResponse, include_usage: bool) -> Iterator[ChatCompletionChunk]:
    """The answer in OpenAI's chunks; the last one with a choice carries the ``optscale`` field."""
    head = response.to_dict() | {"object": "chat.completion.chunk", "usage": None}
    del head["optscale"]
    if not include_usage:
        del head["usage"]  # null in all chunks but the last, as OpenAI's servers have it

    def chunk(index: int, delta: dict[str, str], finish: str | None = None, **extra: Any) -> Any:
        choices = [{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}]
        return ChatCompletionChunk.model_validate(head | {"choices": choices} | extra)

    for choice in response.choices:
        yield chunk(choice.index, {"role": "assistant", "content": ""})
        reasoning = getattr(choice.message, "reasoning_content", None) or ""
        for name, text in (("reasoning_content", reasoning), ("content", choice.message.content or "")):
            for piece in PIECE.findall(text):
                yield chunk(choice.index, {name: piece})
        last = choice is response.choices[-1]
        extra = {"optscale": response.optscale.model_dump(mode="json")} if last else {}
        yield chunk(choice.index, {}, choice.finish_reason, **extra)
    if include_usage:
        yield ChatCompletionChunk.model_validate(head | {"choices": [], "usage": response.usage})
