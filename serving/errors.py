"""Errors of requests: an HTTP status, and a body like that of OpenAI's servers."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

INVALID = "invalid_request_error"


class RequestError(HTTPException):
    """A request that is refused or cannot be answered; ``kind`` is the ``type`` of the body's error."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = INVALID,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.kind, self.param, self.code = kind, param, code


def bad(message: str, param: str) -> RequestError:
    """The refusal of a request for one of its fields."""
    return RequestError(400, message, param=param)


def error_event(error: HTTPException) -> str:
    """The error as an event of a stream that has begun; its code is the status that it would have had."""
    body = error_body(error)
    body["error"]["code"] = str(error.status_code)
    return f"data: {json.dumps(body)}\n\n"


def error_body(error: HTTPException) -> dict[str, Any]:
    """``{"error": {"message", "type", "param", "code"}}``, of any error with a status."""
    body = {"message": str(error.detail), "type": getattr(error, "kind", INVALID)}
    return {"error": body | {name: getattr(error, name, None) for name in ("param", "code")}}


def error_response(error: HTTPException) -> JSONResponse:
    """The error as an answer."""
    return JSONResponse(error_body(error), error.status_code, error.headers)


def fault() -> RequestError:
    """The answer where a bug of ours ended a request; the log has the traceback."""
    return RequestError(500, "a fault of this server; its log says more", "server_error")
