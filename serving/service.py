"""The bundle's two services: the predictor (torch, batched) and the gateway (async, without torch).

They run in processes of their own, so that a forward pass holds up no request and no request holds up
a forward pass.
"""

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
from serving.auth import PROBES, read_keys
from serving.backend import Backend
from serving.bentoml_patches import UNLIMITED, TrafficMetrics
from serving.bundle import Bundle
from serving.middleware import middlewares
from serving.priors import RemotePredictor
from serving.routes import app
from serving.schemas import EXAMPLE, MAX_QUESTIONS, Asked
from serving.settings import override

TrafficMetrics.paths = PROBES | {"/metrics", "/predict_priors", *(getattr(r, "path", "") for r in app.routes)}


def bundle_path() -> Path:
    """``$OPTSCALE_BUNDLE``, else the bundle that the bento carries."""
    return Path(os.environ.get("OPTSCALE_BUNDLE") or Path(__file__).parent.parent / "bundle")


@bentoml.service(name="optscale-predictor", traffic={"timeout": 60}, threads=1)
class Predictor:
    """Priors of questions, in batches."""

    def __init__(self) -> None:
        def load() -> Any:
            if Bundle.open(bundle_path()).card.model_version is None:
                return None  # and nobody asks
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
    def predict_priors(self, questions: list[Asked]) -> list[Prior]:
        """The prior of each question."""
        return self.network.predict([question.require() for question in questions])


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
        bundle = Bundle.open(bundle_path())
        settings = override(bundle.card.gateway)
        logging.getLogger("optscale").info("what is served: %s", bundle.card.says)
        provider = BentoMLContainer.tracer_provider.get()
        self.backend = Backend(bundle, settings, RemotePredictor(self.predictor), provider)
        app.state.backend = self.backend

    async def __is_ready__(self) -> bool:
        return await self.backend.ready()


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
        settings = override(Bundle.open(bundle_path()).card.gateway)
    except BundleError:  # at build time there is none
        settings = None
    return settings.body_bytes if settings else 1_000_000


for middleware in middlewares(read_keys(), _body_bytes()):
    OptScale.add_asgi_middleware(middleware.cls, **middleware.kwargs)  # type: ignore[attr-defined]
