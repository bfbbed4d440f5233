"""The bundle's two services: the predictor (torch, batched) and the gateway (async, without torch).

They run in processes of their own, so that a forward pass holds up no request and no request holds up
a forward pass.
"""

import asyncio
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bentoml
from bentoml._internal.configuration.containers import BentoMLContainer
from pythonjsonlogger.json import JsonFormatter

from data.errors import BundleError
from data.question import Question
from predictor.learned.store import load_predictor
from predictor.prior import Prior
from serving import champion
from serving.auth import PROBES, read_keys
from serving.backend import Backend
from serving.bentoml_patches import UNLIMITED, TrafficMetrics
from serving.bundle import Bundle
from serving.follow import Stage, Wanted
from serving.middleware import middlewares
from serving.priors import RemotePredictor
from serving.routes import app
from serving.schemas import EXAMPLE, MAX_QUESTIONS, Foretold
from serving.settings import CHAMPION, override

TrafficMetrics.paths = PROBES | {
    "/metrics",
    "/predict_priors",
    "/prepare",
    *(getattr(r, "path", "") for r in app.routes),
}


def served() -> Wanted:
    """What to start with: ``$OPTSCALE_BUNDLE``, else the champion's if it is here, else the bento's."""
    carried = str(Path(__file__).parent.parent / "bundle")
    if given := os.environ.get("OPTSCALE_BUNDLE"):
        return Wanted(given, False)
    manifest = champion.read(location) if (location := os.environ.get(CHAMPION)) else champion.Manifest()
    named = manifest.champion.bundle if manifest.champion else carried
    return Wanted(named if Path(named).is_dir() else carried, manifest.full_cap)


@bentoml.service(name="optscale-predictor", traffic={"timeout": 60}, threads=1)
class Predictor:
    """Priors of questions, in batches."""

    def __init__(self) -> None:
        self.networks: dict[str, Any] = {}
        self._load(str(served().bundle))
        self.ready = True

    def _load(self, bundle: str) -> Any:
        """The predictor of a bundle, in a thread of its own; the latest two are kept."""
        if bundle in self.networks:
            return self.networks[bundle]

        def load() -> Any:
            if Bundle.open(bundle).card.model_version is None:
                return None  # and nobody asks
            network = load_predictor(Path(bundle))
            network.predict([Question.ask(EXAMPLE)])  # the first pass is the slow one
            return network

        # OpenMP keeps a team for each thread that has computed and spins less with each: a thread that
        # ends leaves none, and the one that answers requests stays quick.
        with ThreadPoolExecutor(1) as loading:
            network = loading.submit(load).result()
        self.networks = dict([*self.networks.items(), (bundle, network)][-2:])
        return network

    async def __is_ready__(self) -> bool:
        return getattr(self, "ready", False)

    @bentoml.api(batchable=True, max_batch_size=MAX_QUESTIONS, max_latency_ms=30_000)
    def predict_priors(self, questions: list[Foretold]) -> list[Prior]:
        """The prior of each question."""
        found: dict[int, Prior] = {}
        for bundle in {question.bundle for question in questions}:
            places = [n for n, question in enumerate(questions) if question.bundle == bundle]
            priors = self._load(bundle).predict([questions[n].require() for n in places])
            found |= zip(places, priors, strict=True)
        return [found[n] for n in range(len(questions))]

    @bentoml.api
    async def prepare(self, bundle: str) -> None:
        """Have the predictor of a bundle ready, while another answers."""
        await asyncio.to_thread(self._load, bundle)


@bentoml.service(
    name="optscale",
    traffic={"timeout": UNLIMITED, "max_concurrency": 4096},  # a request's own deadline ends it
    logging={"access": {"enabled": False}},  # ours has a line a request
    tracing={"excluded_urls": ["/decide", "/livez", "/readyz", "/metrics"]},  # they ask nobody
)
@bentoml.asgi_app(app, path="/")
class OptScale:
    """Chat completions by adaptive Best-of-N, predictions, decisions."""

    predictor = bentoml.depends(Predictor)

    def __init__(self) -> None:
        log_as_json()
        now = served()
        app.state.backend = self._make(now)
        app.state.stage = Stage(app.state, os.environ.get(CHAMPION), self._make, now)
        logging.getLogger("optscale").info("what is served: %s", app.state.backend.card.says)

    def _make(self, wanted: Wanted) -> Backend:
        bundle = Bundle.open(wanted.bundle)
        if wanted.full_cap:
            bundle = bundle.at_full_cap()
        predictor = RemotePredictor(self.predictor, wanted.bundle)
        return Backend(
            bundle, override(bundle.card.gateway), predictor, BentoMLContainer.tracer_provider.get()
        )

    async def __is_ready__(self) -> bool:
        return bool(await app.state.backend.ready())


def log_as_json() -> None:
    """Have the project's loggers write JSON lines to standard error."""
    names = {"asctime": "time", "levelname": "level", "name": "logger", "exc_info": "error"}
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(["asctime", "levelname", "name", "message"], rename_fields=names))
    for name in ("optscale", "models"):
        named = logging.getLogger(name)
        named.handlers, named.propagate = [handler], False
        named.setLevel(logging.INFO)


def _body_bytes() -> int:
    try:
        settings = override(Bundle.open(served().bundle).card.gateway)
    except BundleError:  # at build time there is none
        settings = None
    return settings.body_bytes if settings else 1_000_000


for middleware in middlewares(read_keys(), _body_bytes()):
    OptScale.add_asgi_middleware(middleware.cls, **middleware.kwargs)  # type: ignore[attr-defined]
