"""The routes: chat completions, models, predictions, decisions, one OpenAPI description of all."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Body, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response, StreamingResponse
from openai.types import Model
from starlette.exceptions import HTTPException

from data.errors import ContractError, OptScaleError
from data.validation import explain, place_of
from serving.backend import Backend
from serving.chat import ChatRequest, ChatResponse, ErrorResponse, ModelList, stream
from serving.errors import RequestError, error_response, fault
from serving.schemas import (
    DecideRequest,
    DecideResponse,
    Description,
    FeedbackRequest,
    FeedbackResponse,
    Health,
    Prediction,
    PredictRequest,
)

PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorResponse, "description": "The request is at fault, or there are too many"},
    "5XX": {"model": ErrorResponse, "description": "A model behind the gateway is away or too slow"},
}
_BODY = ChatRequest | DecideRequest | PredictRequest
"""What a request's errors are about."""


@asynccontextmanager
async def _running(app: FastAPI) -> AsyncIterator[None]:
    stage = getattr(app.state, "stage", None)
    async with app.state.backend.running() if stage is None else stage:
        yield


app = FastAPI(
    title="OptScale",
    summary="Adaptive Best-of-N next to a generator and, if there is one, a reward model.",
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
    gateway, request_id = _backend(request).gateway_of(chat.model), request.state.request_id
    response = await _unless_gone(request, gateway.answer(chat, request_id))
    if response is None:
        return Response(status_code=499)
    about = response.optscale
    request.state.log = {
        **about.model_dump(include={"drawn", "rounds", "score", "ended", "degraded"}),
        "question_id": chat.question().id,
        "reason": about.decision.reason,
        "tokens": about.tokens.generated,
    }
    if not chat.stream:
        return Response(response.to_json(indent=None), media_type="application/json")
    with_usage = chat.stream_options is not None and chat.stream_options.include_usage
    return StreamingResponse(_events(response, with_usage), media_type="text/event-stream")


@app.get("/v1/models", response_model_exclude_unset=True, tags=["OpenAI"])
async def models(request: Request) -> ModelList:
    """The generators' names; requests for them are answered with Best-of-N."""
    names = _backend(request).models()
    data = [Model(id=name, object="model", created=0, owned_by="optscale") for name in names]
    return ModelList(object="list", data=data)


@app.post("/v1/feedback", tags=["OptScale"])
async def feedback(request: Request, told: FeedbackRequest) -> FeedbackResponse:
    """Keep what a person says of an answer, beside the decision log; later certificates count it."""
    await _backend(request).keep_feedback(told)
    return FeedbackResponse(request_id=told.request_id, kept=True)


@app.post("/predict", tags=["OptScale"])
async def predict(request: Request, body: PredictRequest) -> list[Prediction]:
    """Prior, required samples and expected tokens of each question."""
    return await _backend(request).predict(body.questions)


@app.post("/decide", response_model=DecideResponse, tags=["OptScale"])
async def decide(
    request: Request, body: Annotated[DecideRequest, Body(embed=True, alias="request")]
) -> Response:
    """Sample m more, accept, or give up, with the reason."""
    decision = await _backend(request).decide(body)
    return Response(decision.model_dump_json(), media_type="application/json")


@app.post("/describe", tags=["OptScale"])
async def describe(request: Request) -> Description:
    """Contract, policy, certificate and versions of the bundle."""
    return _backend(request).describe()


@app.get("/health", tags=["OptScale"])
async def health(request: Request) -> Health:
    """What is there and what is away, part by part; ``/readyz`` says it in one status."""
    return await _backend(request).health()


@app.exception_handler(HTTPException)
async def _on_http(request: Request, error: HTTPException) -> Response:
    return error_response(error)


@app.exception_handler(RequestValidationError)
async def _on_invalid(request: Request, error: RequestValidationError) -> Response:
    wrong = [{**e, "loc": [p for p in e["loc"] if p not in {"body", "request"}]} for e in error.errors()[:5]]
    place = place_of(wrong[0]["loc"], _BODY)
    return error_response(RequestError(400, explain(wrong, _BODY), param=place or None))


@app.exception_handler(OptScaleError)
async def _on_ours(request: Request, error: OptScaleError) -> Response:
    return error_response(RequestError(409 if isinstance(error, ContractError) else 400, str(error)))


@app.exception_handler(Exception)
async def _on_bug(request: Request, error: Exception) -> Response:
    return error_response(fault())


def _backend(request: Request) -> Backend:
    backend: Backend = request.app.state.backend
    return backend


async def _unless_gone(request: Request, answer: Awaitable[ChatResponse]) -> ChatResponse | None:
    """The response, or None where the client leaves first; what was under way for it is cancelled."""
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
        yield f"data: {chunk.to_json(indent=None)}\n\n"
    yield "data: [DONE]\n\n"
