"""What Best-of-N does not fit: the generator answers it alone, and its answer is marked so."""

import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple

import openai
from httpx2 import HTTPError, Response, TimeoutException

from data.errors import ModelError
from serving.chat import Alone, ChatRequest
from serving.errors import RequestError, error_event
from serving.fields import Sorted, forwarded
from serving.keys import CALLER
from serving.messages import reasons_alone

TAIL = 4096
_TOKENS = re.compile(rb'"(?:completion|output)_tokens"\s*:\s*(\d+)')
THEIRS = frozenset({400, 404, 409, 413, 415, 422, 429})
"""Statuses of the generator that are the client's own affair."""


class Forward(NamedTuple):
    """A request that the generator answers alone."""

    path: str
    body: dict[str, Any]
    why: str
    """Kinds of reasons, for the metrics."""
    fields: Sequence[str]
    """Paths of what says so."""
    model_version: str | None = None
    """Of the bundle whose gateway hands it on."""

    @property
    def reason(self) -> str:
        """Why, with the fields."""
        return f"{self.why} ({', '.join(self.fields)})"[:500]

    @property
    def headers(self) -> dict[str, str]:
        """What marks the answer, be it a stream."""
        version = {} if self.model_version is None else {"x-optscale-model-version": self.model_version}
        return {"x-optscale-passthrough": self.reason, **version}

    def mark(self, answer: bytes, request_id: str) -> bytes:
        """The generator's answer with the ``optscale`` field.

        Raises
        ------
        RequestError
            If it is no JSON object.
        """
        try:
            told = Alone(
                request_id=request_id, passthrough=self.reason, model_version=self.model_version
            ).model_dump()
            return json.dumps(json.loads(answer) | {"optscale": told}, ensure_ascii=False).encode()
        except (ValueError, TypeError) as error:
            shown = answer[:100].decode(errors="replace")
            message = f"the generator answered {self.path} with what is no JSON object: {shown!r}"
            raise RequestError(502, message, "upstream_error") from error


def forward_chat(chat: ChatRequest, kinds: Sorted, configured: Mapping[str, Any]) -> Forward | None:
    """A chat request that the generator is to answer alone; None where Best-of-N fits it."""
    reasons = {**kinds.alone, **reasons_alone(chat.messages)}
    if not reasons:
        return None
    fields = forwarded(chat.model_extra or {})
    read = chat.model_dump(
        include=ChatRequest.model_fields.keys() - {"messages", "optscale"}, exclude_none=True
    )
    own = {k: v for k, v in configured.items() if k != "return_token_ids"}
    messages = [message.sent() for message in chat.messages]
    why = ", ".join(sorted(set(reasons.values())))
    body = {**own, **read, **fields, "messages": messages}
    return Forward("/chat/completions", body, why, list(reasons))


async def relay(reply: Response) -> AsyncIterator[bytes]:
    """The events of a stream as they come; one of ours where it breaks off."""
    events, tail = 0, b""
    try:
        async for piece in reply.aiter_bytes():
            events, tail = events + piece.count(b"data:"), (tail + piece)[-TAIL:]
            yield piece
    except HTTPError as error:
        yield f"\n\n{error_event(failed(error))}".encode()
    finally:
        charge(tail, events)


def charge(answer: bytes, otherwise: int = 0) -> None:
    """Note what the generator counted of an answer, or its end, for the caller's limits."""
    if (caller := CALLER.get()) is not None:
        counted = _TOKENS.findall(answer)
        caller.tokens += int(counted[-1]) if counted else otherwise


def failed(error: Exception, said: str = "") -> RequestError:
    """What a client is told of a request that the generator could not answer, with what it ``said``."""
    cause = error.__cause__ if isinstance(error, ModelError) else error
    status = getattr(cause, "status_code", None)
    told = said or str(error) or type(error).__name__
    message = f"the generator gave no answer: {told}".splitlines()[0][:500]
    if status in THEIRS:
        return RequestError(status, message, "upstream_error" if status == 429 else "invalid_request_error")
    late = isinstance(cause, TimeoutError | openai.APITimeoutError | TimeoutException)
    return RequestError(504 if late else 502, message, "timeout_error" if late else "upstream_error")
