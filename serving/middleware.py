"""What every request passes on its way to a route: an id, a log line, a key, a limit on its body."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import metrics
from serving.auth import PROBES, ApiKeys, refuse
from serving.errors import RequestError, error_response, fault
from serving.keys import CALLER, ApiKey, Caller, Left, Spend, over
from serving.settings import spend_file

_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
logger = logging.getLogger("optscale.requests")


def middlewares(keys: Sequence[ApiKey] = (), body_bytes: int = 1_000_000) -> list[Middleware]:
    """Those of the service, the outermost first.

    ``keys`` are the API keys, none for open routes; ``body_bytes`` the longest body. Raises ConfigError where
    keys have limits and there is no place to keep what they have spent.
    """
    file = spend_file() if any(key.limits for key in keys) else None
    return [
        Middleware(RequestId),
        Middleware(AccessLog),
        Middleware(AuthenticationMiddleware, backend=ApiKeys(keys), on_error=refuse),
        Middleware(KeyLimits, file=file),
        Middleware(BodyLimit, body_bytes=body_bytes),
        Middleware(OneLinePath),
    ]


class RequestId:
    """Give each request an id, its own ``X-Request-Id`` where that is one; the response carries it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        await self.app(scope, receive, send_with_id)


class AccessLog:
    """Log a line a request, with what its route left in ``request.state.log``; answer a fault with 500."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started, status = time.perf_counter(), 0

        async def send_and_note(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        except Exception:
            logger.exception("a request failed by a fault of this server")
            if not status:
                await error_response(fault())(scope, receive, send_and_note)
        finally:
            if scope["path"] not in PROBES:
                state = scope["state"]
                fields = {"request_id": state["request_id"], "method": scope["method"]}
                fields |= {"path": scope["path"], "status": status}
                fields |= {"key": state["key"].name} if "key" in state else {}
                fields |= {"seconds": round(time.perf_counter() - started, 6), **state.get("log", {})}
                logger.info("request", extra=fields)


class KeyLimits:
    """Hold keys to their limits on OpenAI's routes; the response says what is left, of the tightest of each.

    ``file`` keeps what was spent; None where no key has a limit. Tokens are charged once they are known.
    """

    def __init__(self, app: ASGIApp, file: Path | None) -> None:
        self.app, self.spend = app, None if file is None else Spend(file)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key: ApiKey | None = scope.get("state", {}).get("key")
        if key is None:
            return await self.app(scope, receive, send)
        is_feedback = scope["path"] == "/v1/feedback"
        if is_feedback and not key.feedback:
            refusal = RequestError(403, "this key sends no feedback", "permission_error")
            return await error_response(refusal)(scope, receive, send)
        CALLER.set(caller := Caller(key))
        if is_feedback or scope["method"] != "POST" or not scope["path"].startswith("/v1/"):
            return await self.app(scope, receive, send)
        left = await self._add(key, 1, 0)
        if spent := over(left):
            metrics.REFUSED.labels("limit").inc()
            message = f"this key has spent its {spent.limit} {spent.what} of this {spent.window}"
            retry = {"retry-after": str(spent.seconds)}
            refusal = RequestError(429, message, "rate_limit_error", headers=retry)
            return await error_response(refusal)(scope, receive, send)
        metrics.KEY_REQUESTS.labels(key.name).inc()

        async def charge() -> None:
            nonlocal left
            tokens, caller.tokens = caller.tokens, 0
            if tokens:
                metrics.KEY_TOKENS.labels(key.name).inc(tokens)
                left = await self._add(key, 0, tokens)

        async def send_with_left(message: Message) -> None:
            if message["type"] == "http.response.start":
                await charge()
                for one in sorted(left, key=lambda one: -one.left / max(one.limit, 1)):
                    headers = MutableHeaders(scope=message)
                    headers[f"x-ratelimit-limit-{one.what}"] = str(one.limit)
                    headers[f"x-ratelimit-remaining-{one.what}"] = str(max(one.left, 0))
            await send(message)

        try:
            await self.app(scope, receive, send_with_left)
        finally:
            await charge()

    async def _add(self, key: ApiKey, requests: int, tokens: int) -> list[Left]:
        if self.spend is None or not key.limits:
            return []
        return await asyncio.to_thread(self.spend.add, key, requests, tokens)


class BodyLimit:
    """Refuse a body that is longer, as soon as that is known."""

    def __init__(self, app: ASGIApp, body_bytes: int) -> None:
        self.app, self.body_bytes = app, body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        size = 0

        async def limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.body_bytes:
                raise self._too_long()  # FastAPI lets it through, as its answer to the request
            return message

        if int(Headers(scope=scope).get("content-length", 0)) > self.body_bytes:
            return await error_response(self._too_long())(scope, receive, send)
        await self.app(scope, limited, send)

    def _too_long(self) -> RequestError:
        metrics.REFUSED.labels("body").inc()
        return RequestError(413, f"the body has more than {self.body_bytes} bytes")


class OneLinePath:
    """Answer a path with a line break, which no mounted app is found for, as any unknown path."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or "\n" not in scope["path"]:
            return await self.app(scope, receive, send)
        missing = "no path here has a line break; /docs.json lists what there is"
        await error_response(RequestError(404, missing, code="unknown_url"))(scope, receive, send)
