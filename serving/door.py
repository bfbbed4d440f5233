"""The door: API keys, the size of bodies, request ids and one log line a request, for every route."""

import hashlib
import hmac
import json
import logging
import os
import re
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from data.errors import ConfigError
from serving import metrics
from serving.settings import KEYS, KEYS_FILE

OPEN = frozenset({"/livez", "/readyz", "/healthz"})  # probes; they tell nothing but a status
_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
logger = logging.getLogger("optscale.door")


class JsonLines(logging.Formatter):
    """One JSON object a record; ``fields`` of the record are its keys."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": self.formatTime(record), "level": record.levelname, "logger": record.name}
        line |= {"message": record.getMessage(), **getattr(record, "fields", {})}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_as_json(level: int = logging.INFO) -> None:
    """Have the project's loggers write JSON lines to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    for name in ("optscale", "models"):
        named = logging.getLogger(name)
        named.handlers, named.propagate = [handler], False
        named.setLevel(level)


def read_keys() -> list[bytes]:
    """Digests of the keys in ``$OPTSCALE_API_KEYS`` (commas between) and its file (one a line); none: open.

    Raises
    ------
    ConfigError
        If the file cannot be read, or the variables are set and hold no key.
    """
    given, file = os.environ.get(KEYS), os.environ.get(KEYS_FILE)
    try:
        lines = Path(file).read_text().splitlines() if file else []
    except OSError as error:
        raise ConfigError(f"${KEYS_FILE}: {error}") from error
    keys = [key for part in ((given or "").split(","), lines) for raw in part if (key := raw.strip())]
    if not keys and (given is not None or file):
        raise ConfigError(
            f"${KEYS} or ${KEYS_FILE} is set and holds no key; unset both to serve without keys"
        )
    return [_digest(key) for key in keys]


class Door:
    """ASGI middleware; bodies are read here, up to ``body_bytes``, before anything else sees them."""

    def __init__(self, app: ASGIApp, keys: Sequence[bytes] = (), body_bytes: int = 1_000_000) -> None:
        self.app, self.keys, self.body_bytes = app, keys, body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, headers, status = time.perf_counter(), Headers(scope=scope), 0
        given = headers.get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self._enter(scope, receive, answer, headers)
        except Exception:
            # Without any answer BentoML's time limit would hold the request until it is over.
            logger.exception("a request failed by a fault of this server")
            if not status:
                await _refuse(500, "a fault of this server; its log says more", "server_error")(
                    scope, receive, answer
                )
        finally:
            if scope["path"] not in OPEN:
                fields = {"request_id": request_id, "method": scope["method"], "path": scope["path"]}
                fields |= {"status": status, "seconds": round(time.perf_counter() - started, 6)}
                fields |= scope["state"].get("log", {})
                logger.info("request", extra={"fields": fields})

    async def _enter(self, scope: Scope, receive: Receive, send: Send, headers: Headers) -> None:
        if self.keys and scope["path"] not in OPEN and not self._knows(headers.get("authorization", "")):
            metrics.REFUSED.labels("key").inc()
            await _refuse(401, "give a key: Authorization: Bearer KEY", "authentication_error")(
                scope, receive, send
            )
            return
        body = b""
        while True:
            message = await receive()
            if message["type"] != "http.request":
                # The client left before all of its request was here. It hears no answer, but BentoML's
                # time limit waits for one.
                await Response(status_code=499)(scope, receive, send)
                return
            body += message.get("body", b"")
            if len(body) > self.body_bytes or int(headers.get("content-length") or 0) > self.body_bytes:
                metrics.REFUSED.labels("body").inc()
                refusal = f"the body has more than {self.body_bytes} bytes"
                await _refuse(413, refusal, "invalid_request_error")(scope, receive, send)
                return
            if not message.get("more_body"):
                break
        read = False

        async def replay() -> Message:
            nonlocal read
            if read:
                return await receive()
            read = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)

    def _knows(self, authorization: str) -> bool:
        scheme, _, key = authorization.partition(" ")
        found = _digest(key.strip())
        # Every key is compared, each in constant time, so the time tells nothing about them.
        known = sum(hmac.compare_digest(found, one) for one in self.keys)
        return bool(known) and scheme.lower() == "bearer"


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="replace")).digest()


def _refuse(status: int, message: str, kind: str) -> JSONResponse:
    headers: dict[str, Any] = {"www-authenticate": "Bearer"} if status == 401 else {}
    error = {"message": message, "type": kind, "param": None, "code": None}
    return JSONResponse({"error": error}, status, headers)
