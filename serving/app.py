"""The routes: chat completions, models, predictions, decisions, one OpenAPI description of all."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Annotated, Any, Protocol

from fastapi import Body, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from data.errors import ContractError, OptScaleError
from data.validation import explain, place_of
from serving.chat import ChatRequest, ChatResponse, ErrorResponse, ModelCard, ModelList, stream
from serving.gateway import Gateway, Outcome, Refused
from serving.schemas import (
    EXAMPLE,
    MAX_QUESTIONS,
    Asked,
    DecideRequest,
    DecideResponse,
    Description,
    Health,
    Prediction,
)

PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorResponse, "description": "The request is at fault, or there are too many"},
    "5XX": {"model": ErrorResponse, "description": "A model behind the gateway is away or too slow"},
}
_Questions = Annotated[
    list[Asked], Body(embed=True, max_length=MAX_QUESTIONS, examples=[[{"question": EXAMPLE}]])
]


class _Predict(BaseModel):
    questions: list[Asked]


_BODY = ChatRequest | DecideRequest | _Predict
"""What a request's errors are about."""


class Desk(Protocol):
    """What stands behind the routes."""

    gateway: Gateway | None
    tracer_provider: Any

    async def predict(self, questions: list[Asked]) -> list[Prediction]: ...

    async def decide(self, request: DecideRequest) -> DecideResponse: ...

    def describe(self) -> Description: ...

    async def health(self) -> Health: ...


@asynccontextmanager
async def _running(app: FastAPI) -> AsyncIterator[None]:
    gateway = app.state.desk.gateway
    async with gateway.running(app.state.desk.tracer_provider) if gateway else nullcontext():
        yield


app = FastAPI(
    title="OptScale",
    summary="Adaptive Best-of-N next to a generator and a reward model.",
    version="0.1.0",
    openapi_url="/docs.json",
    docs_url=None,
    redoc_url=None,
    lifespan=_running,
    responses=PROBLEMS,
)


@app.post(
    "/v1/chat/completions",
    response_model=ChatResponse,
    responses={200: {"content": {"text/event-stream": {}}}},  # chunks are no JSON document to describe
    tags=["OpenAI"],
)
async def chat_completions(request: Request, chat: ChatRequest) -> Response:
    """The best of as many candidates as it takes; ``stream: true`` streams it once it is chosen."""
    gateway, request_id = _gateway(request), request.state.request_id
    outcome = await _unless_gone(request, gateway.answer(chat, request_id))
    if outcome is None:
        return Response(status_code=499)
    told = outcome.response.optscale
    request.state.log = {
        "question_id": outcome.question_id,
        "drawn": told.drawn,
        "rounds": told.rounds,
        "score": told.score,
        "ended": told.ended,
        "reason": told.decision.reason,
        "degraded": told.degraded,
        "tokens": told.tokens.generated,
    }
    if not chat.stream:
        return Response(outcome.response.model_dump_json(), media_type="application/json")
    with_usage = chat.stream_options is not None and chat.stream_options.include_usage
    return StreamingResponse(_events(outcome.response, with_usage), media_type="text/event-stream")


@app.get("/v1/models", tags=["OpenAI"])
async def models(request: Request) -> ModelList:
    """The generator's name; requests for it are answered with Best-of-N."""
    return ModelList(data=[ModelCard(id=_gateway(request).settings.generator.model)])


@app.post("/predict", tags=["OptScale"])
async def predict(request: Request, questions: _Questions) -> list[Prediction]:
    """Prior, required samples and expected tokens of each question."""
    return await request.app.state.desk.predict(questions)


@app.post("/decide", response_model=DecideResponse, tags=["OptScale"])
async def decide(
    request: Request, body: Annotated[DecideRequest, Body(embed=True, alias="request")]
) -> Response:
    """Sample m more, accept, or give up, with the reason."""
    found: DecideResponse = await request.app.state.desk.decide(body)
    return Response(found.model_dump_json(), media_type="application/json")


@app.post("/describe", tags=["OptScale"])
async def describe(request: Request) -> Description:
    """Contract, policy, certificate and versions of the bundle."""
    return request.app.state.desk.describe()


@app.get("/health", tags=["OptScale"])
async def health(request: Request) -> Health:
    """What is there and what is away, part by part; ``/readyz`` says it in one status."""
    return await request.app.state.desk.health()


@app.exception_handler(Refused)
async def _on_refused(request: Request, error: Refused) -> Response:
    headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
    return _problem(error.status, str(error), error.kind, error.param, headers)


@app.exception_handler(RequestValidationError)
async def _on_invalid(request: Request, error: RequestValidationError) -> Response:
    found = [{**e, "loc": [p for p in e["loc"] if p not in {"body", "request"}]} for e in error.errors()[:5]]
    place = place_of(found[0]["loc"], _BODY)
    return _problem(400, explain(found, _BODY), "invalid_request_error", place or None)


@app.exception_handler(OptScaleError)
async def _on_ours(request: Request, error: OptScaleError) -> Response:
    status = 409 if isinstance(error, ContractError) else 400
    return _problem(status, str(error), "invalid_request_error")


@app.exception_handler(Exception)
async def _on_bug(request: Request, error: Exception) -> Response:
    return _problem(500, "a fault of this server; its log says more", "server_error")


@app.exception_handler(HTTPException)
async def _on_http(request: Request, error: HTTPException) -> Response:
    headers = dict(error.headers or {})
    return _problem(error.status_code, str(error.detail), "invalid_request_error", None, headers)


def _problem(
    status: int, message: str, kind: str, param: str | None = None, headers: dict[str, str] | None = None
) -> Response:
    error = {"message": message, "type": kind, "param": param, "code": None}
    return JSONResponse({"error": error}, status, headers)


def _gateway(request: Request) -> Gateway:
    gateway: Gateway | None = request.app.state.desk.gateway
    if gateway is None:
        raise Refused(
            503,
            "this bundle has no generator and reward model: ship it with gateway settings",
            "not_configured",
        )
    return gateway


async def _unless_gone(request: Request, answer: Awaitable[Outcome]) -> Outcome | None:
    """The outcome, or None where the client leaves first; what was under way for it is cancelled."""
    working, leaving = asyncio.ensure_future(answer), asyncio.ensure_future(_left(request.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        leaving.cancel()
        working.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _events(response: ChatResponse, include_usage: bool) -> AsyncIterator[str]:
    for chunk in stream(response, include_usage):
        yield f"data: {json.dumps(chunk)}\n\n"
    yield "data: [DONE]\n\n"
