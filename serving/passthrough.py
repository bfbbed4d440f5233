"""What Best-of-N does not fit: the generator answers it alone, and its answer is marked so."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple

import openai
from httpx2 import HTTPError, Response, TimeoutException

from data.errors import ModelError
from serving.chat import Alone, ChatRequest
from serving.errors import RequestError, error_event
from serving.fields import Sorted, forwarded
from serving.keys import Caller
from serving.messages import reasons_alone

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

    @property
    def reason(self) -> str:
        """Why, with the fields."""
        return f"{self.why} ({', '.join(self.fields)})"[:500]

    @property
    def headers(self) -> dict[str, str]:
        """What marks the answer, be it a stream."""
        return {"x-optscale-passthrough": self.reason}

    def mark(self, answer: bytes, request_id: str) -> tuple[bytes, int]:
        """The generator's answer with the ``optscale`` field, and how many tokens it generated.

        Raises
        ------
        RequestError
            If it is no JSON object.
        """
        try:
            told = Alone(request_id=request_id, passthrough=self.reason).model_dump()
            marked = json.loads(answer) | {"optscale": told}
            usage = marked.get("usage") or {}
            tokens = usage.get("completion_tokens") or usage.get("output_tokens") or 0
            return json.dumps(marked).encode(), int(tokens)
        except (ValueError, TypeError, AttributeError) as error:
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


async def relay(reply: Response, caller: Caller | None) -> AsyncIterator[bytes]:
    """The events of a stream as they come, counted as tokens; one of ours where it breaks off."""
    try:
        async for piece in reply.aiter_bytes():
            if caller is not None:
                caller.tokens += piece.count(b"data:")
            yield piece
    except HTTPError as error:
        yield f"\n\n{error_event(failed(error))}".encode()


def failed(error: Exception) -> RequestError:
    """What a client is told of a request that the generator could not answer."""
    cause = error.__cause__ if isinstance(error, ModelError) else error
    status = getattr(cause, "status_code", None)
    message = f"the generator gave no answer: {str(error) or type(error).__name__}".splitlines()[0][:500]
    if status in THEIRS:
        return RequestError(status, message, "upstream_error" if status == 429 else "invalid_request_error")
    late = isinstance(cause, TimeoutError | openai.APITimeoutError | TimeoutException)
    return RequestError(504 if late else 502, message, "timeout_error" if late else "upstream_error")
