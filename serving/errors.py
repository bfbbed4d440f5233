"""Errors of requests: an HTTP status, and a body like that of OpenAI's servers."""

from collections.abc import Mapping

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
    ) -> None:
        super().__init__(status, message, headers)
        self.kind, self.param = kind, param


def error_response(error: HTTPException) -> JSONResponse:
    """``{"error": {"message", "type", "param", "code"}}``, of any error with a status."""
    body = {"message": str(error.detail), "type": getattr(error, "kind", INVALID)}
    body |= {"param": getattr(error, "param", None), "code": None}
    return JSONResponse({"error": body}, error.status_code, error.headers)


def fault() -> RequestError:
    """The answer where a bug of ours ended a request; the log has the traceback."""
    return RequestError(500, "a fault of this server; its log says more", "server_error")
