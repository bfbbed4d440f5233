"""The routes: chat completions, models, predictions, decisions, one OpenAPI description of all."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, Any, TypeVar

from fastapi import Body, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response, StreamingResponse
from openai.types import Model
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from data.errors import ContractError, OptScaleError
from data.validation import explain, place_of
from serving.backend import Backend
from serving.chat import AnyRequest, ChatRequest, ChatResponse, ErrorResponse, ModelList, PassedOn, stream
from serving.errors import RequestError, error_event, error_response, fault
from serving.gateway import Gateway
from serving.intake import Prepared
from serving.passthrough import Forward, charge, failed, relay
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

T = TypeVar("T")
PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorResponse, "description": "The request is at fault, or there are too many"},
    "5XX": {"model": ErrorResponse, "description": "A model behind the gateway is away or too slow"},
}
_BODY = ChatRequest | AnyRequest | DecideRequest | PredictRequest
"""What a request's errors are about."""


STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}
"""Chunks are no JSON document to describe."""


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
    response_model=ChatResponse | PassedOn,
    responses=STREAMED,
    tags=["OpenAI"],
)
async def chat_completions(request: Request, chat: ChatRequest) -> Response:
    """The best of as many candidates as it takes, or the generator's own answer where that does not fit.

    ``stream: true`` streams it once it is chosen, with comments until then.
    """
    gateway = _backend(request).gateway_of(chat.model)
    prepared = gateway.intake.prepare(chat)
    if isinstance(prepared, Forward):
        return await _pass_on(request, gateway, prepared)
    if chat.stream:
        return await _stream(request, gateway, prepared)
    with gateway.place():
        response = await _unless_gone(request, gateway.answer(prepared, request.state.request_id))
    if response is None:
        return Response(status_code=499)
    _note(request, prepared, response)
    body, headers = response.to_json(indent=None), response.optscale.headers()
    return Response(body, media_type="application/json", headers=headers)


@app.post("/v1/completions", response_model=PassedOn, responses=STREAMED, tags=["OpenAI"])
@app.post("/v1/embeddings", response_model=PassedOn, responses=STREAMED, tags=["OpenAI"])
@app.post("/v1/responses", response_model=PassedOn, responses=STREAMED, tags=["OpenAI"])
async def others(request: Request, body: AnyRequest) -> Response:
    """The generator's own answer: Best-of-N is for chats."""
    route = request.scope["route"].path.removeprefix("/v1")
    # A server may have a model for them beside the one that answers.
    gateway = _backend(request).gateway_of(body.model, beside=route == "/embeddings")
    fields = body.model_dump(exclude_unset=True, exclude={"optscale"})
    asked = gateway.intake.allow(Forward(route, fields, "route", [f"/v1{route}"]))
    return await _pass_on(request, gateway, asked)


@app.get("/v1/models", response_model_exclude_unset=True, tags=["OpenAI"])
async def models(request: Request) -> ModelList:
    """The generators' names; requests for them are answered with Best-of-N."""
    return ModelList(object="list", data=[_model(name) for name in _backend(request).models()])


@app.get("/v1/models/{name:path}", response_model_exclude_unset=True, tags=["OpenAI"])
async def model(request: Request, name: str) -> Model:
    """One of them."""
    _backend(request).gateway_of(name)
    return _model(name)


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
    if error.status_code == 404 and not isinstance(error, RequestError):
        here = f"there is no {request.method} {request.url.path} here; /docs.json lists what there is"
        error = RequestError(404, here, code="unknown_url")
    return error_response(error)


@app.exception_handler(RequestValidationError)
async def _on_invalid(request: Request, error: RequestValidationError) -> Response:
    wrong = [{**e, "loc": [p for p in e["loc"] if p not in {"body", "request"}]} for e in error.errors()[:5]]
    places = [place_of(one["loc"], _BODY) for one in wrong]
    place = max((p for p in places if p.startswith(places[0])), key=len)  # of a union's branches the deepest
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


def _model(name: str) -> Model:
    return Model(id=name, object="model", created=0, owned_by="optscale")


def _note(request: Request, prepared: Prepared, response: ChatResponse) -> None:
    """Leave for the log line what came of a chat."""
    about = response.optscale
    request.state.log = {
        **about.model_dump(include={"drawn", "rounds", "score", "ended", "degraded"}),
        "question_id": prepared.ask.question.id,
        "reason": about.decision.reason,
        "tokens": about.tokens.generated,
    }


async def _stream(request: Request, gateway: Gateway, prepared: Prepared) -> Response:
    """The answer's stream, which begins at once."""
    held = AsyncExitStack()
    held.enter_context(gateway.place())

    async def events() -> AsyncIterator[str]:
        working = asyncio.ensure_future(gateway.answer(prepared, request.state.request_id))
        held.push_async_callback(_end, working)
        yield ": candidates are drawn\n\n"
        while not (await asyncio.wait({working}, timeout=gateway.settings.keep_alive))[0]:
            yield ": and drawn\n\n"
        try:
            response = working.result()
        except Exception as error:
            known = error if isinstance(error, HTTPException) else fault()
            yield error_event(known)
            if known is error:
                request.state.log = {"failed": known.status_code}
                return
            raise
        _note(request, prepared, response)
        options = prepared.request.stream_options
        for chunk in stream(response, options is not None and bool(options.include_usage)):
            yield f"data: {chunk.to_json(indent=None)}\n\n"
        yield "data: [DONE]\n\n"

    return Held(held, events(), {"x-optscale-contract": prepared.sampled.fingerprint})


async def _pass_on(request: Request, gateway: Gateway, asked: Forward) -> Response:
    """What the generator answers alone: a stream as it comes, all else marked."""
    request.state.log = {"passthrough": asked.reason}
    asked = asked._replace(model_version=gateway.card.model_version)

    async def begin() -> Response:
        async with AsyncExitStack() as held:
            held.enter_context(gateway.place())
            reply = await held.enter_async_context(gateway.forward(asked))
            if reply.headers.get("content-type", "").startswith("text/event-stream"):
                return Held(held.pop_all(), relay(reply), asked.headers)
            charge(body := await reply.aread())
            answer = asked.mark(body, request.state.request_id)
        return Response(answer, media_type="application/json", headers=asked.headers)

    try:
        async with asyncio.timeout(gateway.settings.longest_deadline):
            return await _unless_gone(request, begin()) or Response(status_code=499)
    except TimeoutError as error:
        raise failed(error) from error


class Held(StreamingResponse):
    """A stream of events; what it holds is let go however it ends, also before it begins."""

    def __init__(
        self, held: AsyncExitStack, events: AsyncIterator[str | bytes], headers: Mapping[str, str]
    ) -> None:
        unbuffered = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(events, headers={**headers, **unbuffered}, media_type="text/event-stream")
        self.held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `StreamingResponse`."""
        async with self.held:
            await super().__call__(scope, receive, send)


async def _end(task: asyncio.Future[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _unless_gone(request: Request, answer: Awaitable[T]) -> T | None:
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
