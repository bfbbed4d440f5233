"""OpenAI's chat completions as far as the gateway serves them; the rest is refused by name."""

import time
import uuid
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from openai.types import CompletionUsage, ErrorObject, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage
from openai.types.chat.chat_completion import Choice
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from data.contract import Sampling
from data.question import Message, Question
from models.generator.base import Candidate
from predictor.decision import Decision
from predictor.prior import Prior
from serving.draws import Tokens
from serving.schemas import EXAMPLE, MAX_QUESTION, MAX_TURNS, Request, as_question

PIECE = 24  # characters of a chunk when the chosen answer is streamed
# OpenAI's fields that are not served may have the values that change nothing, which clients send by default:
# null, nothing, or one of these. Any other value would have to be honoured.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "logprobs": (False,),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "tool_choice": ("none",),
    "top_logprobs": (0,),
}
NOTHING: tuple[Any, ...] = (None, [], {})
# What an answer's message carries beside its text where there is nothing of it; clients send it back.
ABSENT = ("refusal", "annotations", "audio", "tool_calls", "function_call")
Text = Annotated[str, Field(max_length=MAX_QUESTION)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]


class TextPart(Request):
    """A part of a message; only text is understood."""

    type: Literal["text"]
    text: Text


class ChatMessage(Request):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(max_length=64)]

    @model_validator(mode="before")
    @classmethod
    def _without_what_is_absent(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {k: v for k, v in given.items() if k not in ABSENT or v not in NOTHING}

    def read(self) -> Message:
        """The turn as the rest of the project takes it."""
        text = self.content if isinstance(self.content, str) else "".join(p.text for p in self.content)
        return Message(role="system" if self.role == "developer" else self.role, content=text)


class StreamOptions(Request):
    """What a stream ends with."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class Options(Request):
    """What a client can ask for beyond OpenAI's fields, under ``optscale``."""

    target: float | None = Field(None, gt=0, le=1, description="Score that counts as a hit.")
    confidence: float | None = Field(
        None, gt=0, lt=1, description="Chance of a hit that the bound is for; of policies that have one."
    )
    deadline: float | None = Field(None, gt=0, le=3600, description="Seconds until the answer is due.")
    token_budget: int | None = Field(
        None, ge=1, le=2**31, description="Generated tokens at most, at least max_tokens."
    )
    ahead: int | None = Field(
        None, ge=0, le=1024, description="Candidates kept in flight while a decision is pending."
    )


class ChatRequest(Request):
    """``POST /v1/chat/completions``: OpenAI's request; ``n`` is the most candidates that are drawn."""

    model_config = ConfigDict(
        extra="forbid",
        allow_inf_nan=False,
        json_schema_extra={"example": {"model": "m", "messages": [{"role": "user", "content": EXAMPLE}]}},
    )

    model: Annotated[str, Field(max_length=256)]
    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_TURNS)
    n: int | None = Field(None, ge=1, le=100_000, description="The cap: candidates at most.")
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1, le=2**31)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31)
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    user: Annotated[str, Field(max_length=512)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    optscale: Options | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_by_name(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        unserved = CompletionCreateParamsBase.__annotations__.keys() - cls.model_fields.keys()
        allowed = {name: (*NOTHING, *NEUTRAL.get(name, ())) for name in given if name in unserved}
        refused = [name for name, values in allowed.items() if given[name] not in values]
        if refused:
            raise ValueError(f"{', '.join(refused)}: not supported by this server; leave it out")
        return {name: value for name, value in given.items() if name not in allowed}

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
        """The conversation; raises QuestionError if it is too long or its last turn is empty."""
        return as_question([message.read() for message in self.messages])

    def sampling(self, default: Sampling) -> Sampling:
        """The default with what the request says."""
        changes = self.model_dump(include={"temperature", "top_p", "max_tokens", "stop"}, exclude_none=True)
        if self.max_completion_tokens is not None:
            changes["max_tokens"] = self.max_completion_tokens
        if isinstance(self.stop, str):
            changes["stop"] = (self.stop,)
        return Sampling.model_validate(default.model_dump() | changes)


class Explanation(BaseModel):
    """The ``optscale`` field of an answer: what was drawn, and why it ended."""

    request_id: str
    prior: Prior | None = Field(
        description="What was expected of the scores before the first candidate; null where none is scored."
    )
    rounds: int = Field(description="Times that the policy was asked and went on.")
    drawn: int = Field(description="Candidates of the rounds that ended; what the decision rests on.")
    scores: list[float | None] = Field(description="Their scores, null where one has none.")
    cancelled: int = Field(description="Candidates that were cancelled under way.")
    decision: Decision
    ended: str = Field(
        description="decided, or what came first: deadline, token budget, generator, reward model."
    )
    degraded: list[str] = Field(description="What was away or cut short; empty in good order.")
    selection: str = Field(
        description="How the answer was chosen: best_score, majority or weighted_vote, as the policy says; "
        "majority where that needs scores and there are none."
    )
    votes: int = Field(description="Candidates that gave the answer; 0 where none is read from its text.")
    score: float | None = Field(description="The answer's score.")
    target: float
    cap: int
    hit: bool = Field(description="Whether the answer's score reaches the target.")
    chance_correct: float | None = Field(description="Chance that the answer is right, where it is known.")
    explored: bool = Field(description="Drawn to the full cap for the log, whatever the policy said.")
    contract: str = Field(description="Fingerprint of the contract that the scores were made under.")
    model_version: str | None = Field(description="Version of the registered predictor; null: there is none.")
    promise: str | None = Field(
        description="The certificate's statement; null where the request or a fault puts it aside."
    )
    tokens: Tokens
    seconds: float


class ChatResponse(ChatCompletion):
    """OpenAI's answer and our field; ``usage`` counts the prompt once, and all that was generated."""

    optscale: Explanation


class ModelList(BaseModel):
    """``GET /v1/models``."""

    object: Literal["list"]
    data: list[Model]


class ErrorResponse(BaseModel):
    """Body of every answer that is no success."""

    error: ErrorObject


def make_response(
    model: str, candidate: Candidate, prompt_tokens: int, explanation: Explanation
) -> ChatResponse:
    """The answer to a request: its one choice is ``candidate``."""
    generated = explanation.tokens.generated
    choice = Choice(
        index=0,
        message=ChatCompletionMessage(role="assistant", content=candidate.text or "", refusal=None),
        logprobs=None,
        finish_reason="stop" if candidate.status == "complete" else "length",
    )
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
        choices=[choice],
        usage=usage,
        # Read again, so that every field of it is set: those that are not are not shown.
        optscale=Explanation.model_validate(explanation.model_dump()),
    )


def stream(response: ChatResponse, include_usage: bool) -> Iterator[ChatCompletionChunk]:
    """The answer in OpenAI's chunks; the last one with a choice carries the ``optscale`` field."""
    (choice,), text = response.choices, response.choices[0].message.content or ""
    head = response.to_dict() | {"object": "chat.completion.chunk", "usage": None}
    del head["optscale"]
    if not include_usage:
        del head["usage"]  # null in all chunks but the last, as OpenAI's servers have it

    def chunk(delta: dict[str, str], finish: str | None = None, **extra: Any) -> ChatCompletionChunk:
        choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
        return ChatCompletionChunk.model_validate(head | {"choices": choices} | extra)

    yield chunk({"role": "assistant", "content": ""})
    for at in range(0, len(text), PIECE):
        yield chunk({"content": text[at : at + PIECE]})
    yield chunk({}, choice.finish_reason, optscale=response.optscale.model_dump(mode="json"))
    if include_usage:
        yield ChatCompletionChunk.model_validate(head | {"choices": [], "usage": response.usage})
