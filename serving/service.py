"""The bundle's two services: the predictor (torch, batched) and the gateway (async, without torch).

They run in processes of their own, so that a forward pass holds up no request and no request holds up
a forward pass.
"""

import os
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bentoml

from data.errors import BundleError
from data.question import Question
from predictor.learned.store import load_predictor
from predictor.prior import Prior
from serving.app import app
from serving.bundle import Bundle
from serving.desk import Desk
from serving.door import OPEN, Door, log_as_json, read_keys
from serving.schemas import EXAMPLE, MAX_QUESTIONS, Asked
from serving.settings import override

try:
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.server.http import instruments, traffic
    from bentoml._internal.server.http.instruments import RunnerTrafficMetricsMiddleware
    from bentoml._internal.server.http.traffic import TimeoutMiddleware
except ImportError as error:
    raise BundleError(
        f"bentoml {bentoml.__version__} has not the parts that this service puts its own in place of "
        f"({error}); install bentoml>=1.4.20,<1.5"
    ) from error

UNLIMITED = 1e9  # seconds: BentoML wants a number; a request's own deadline ends it
REMEMBERED = 4096


class TimeLimit(TimeoutMiddleware):
    """BentoML's, but for services without one.

    It keeps a timer for each request, with the request's trace, for as long as the limit is: an hour's
    limit is memory that grows with the requests of an hour.
    """

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.timeout < UNLIMITED:
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send)


traffic.TimeoutMiddleware = TimeLimit
ROUTES = OPEN | {"/metrics", "/foretell"} | {getattr(route, "path", "") for route in app.routes}


class TrafficMetrics(RunnerTrafficMetricsMiddleware):
    """BentoML's, but for paths that there are.

    It stands before the door and keeps series for each path it ever saw: anybody could fill the memory.
    """

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope.get("path") in ROUTES:
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send)


instruments.RunnerTrafficMetricsMiddleware = TrafficMetrics


def bundle_path() -> Path:
    """``$OPTSCALE_BUNDLE``, else the bundle that the bento carries."""
    return Path(os.environ.get("OPTSCALE_BUNDLE") or Path(__file__).parent.parent / "bundle")


@bentoml.service(name="optscale-predictor", traffic={"timeout": 60}, threads=1)
class Predictor:
    """Priors of questions, in batches."""

    def __init__(self) -> None:
        def load() -> Any:
            network = load_predictor(bundle_path())
            network.predict([Question.ask(EXAMPLE)])  # the first pass is the slow one
            return network

        # OpenMP keeps a team for each thread that has computed and spins less with each: a thread that
        # ends leaves none, and the one that answers requests stays quick.
        with ThreadPoolExecutor(1) as loading:
            self.network = loading.submit(load).result()
        self.ready = True

    async def __is_ready__(self) -> bool:
        return getattr(self, "ready", False)

    @bentoml.api(batchable=True, max_batch_size=MAX_QUESTIONS, max_latency_ms=30_000)
    def foretell(self, questions: list[Asked]) -> list[Prior]:
        """The prior of each question."""
        return self.network.predict([question.require() for question in questions])


class RemotePredictor:
    """The predictor's service as a `PriorSource`; what it said of a question is remembered."""

    def __init__(self, service: Any) -> None:
        self.service = service
        self.known: OrderedDict[str, Prior] = OrderedDict()

    async def prior(self, question: Question) -> Prior:
        """The prior of one question."""
        return (await self.priors([question]))[0]

    async def priors(self, questions: list[Question]) -> list[Prior]:
        """The priors of questions, in their order."""
        new = {q.id: q for q in questions if q.id not in self.known}
        found = {q.id: self.known[q.id] for q in questions if q.id in self.known}
        if new:
            asked = [Asked(messages=list(q.messages)) for q in new.values()]
            found |= dict(zip(new, await self.service.to_async.foretell(questions=asked), strict=True))
        for name in found:
            self.known[name] = found[name]
            self.known.move_to_end(name)
        while len(self.known) > REMEMBERED:
            self.known.popitem(last=False)
        return [found[q.id] for q in questions]

    async def ready(self) -> bool:
        """Whether it answers."""
        is_ready = getattr(self.service, "is_ready", None)  # a service in this process has none
        try:
            return True if is_ready is None else bool(await is_ready(5))
        except Exception:  # whatever a connection that is not there yet raises
            return False


@bentoml.service(
    name="optscale",
    traffic={"timeout": UNLIMITED, "max_concurrency": 4096},
    logging={"access": {"enabled": False}},  # the door writes a line a request
    tracing={"excluded_urls": ["/decide", "/livez", "/readyz", "/metrics"]},  # they ask nobody
)
@bentoml.asgi_app(app, path="/")
class OptScale:
    """Chat completions by adaptive Best-of-N, predictions, decisions."""

    predictor = bentoml.depends(Predictor)

    def __init__(self) -> None:
        log_as_json()
        bundle = Bundle.open(bundle_path())
        settings = override(bundle.card.gateway)
        provider = BentoMLContainer.tracer_provider.get()
        self.desk = Desk(bundle, settings, RemotePredictor(self.predictor), provider)
        app.state.desk = self.desk

    async def __is_ready__(self) -> bool:
        return await self.desk.ready()


def _body_bytes() -> int:
    try:
        settings = override(Bundle.open(bundle_path()).card.gateway)
    except BundleError:  # at build time there is none
        settings = None
    return settings.body_bytes if settings else 1_000_000


OptScale.add_asgi_middleware(Door, keys=read_keys(), body_bytes=_body_bytes())  # type: ignore[attr-defined]
