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
from bentoml._internal import server as bentoml_server
from bentoml._internal.configuration.containers import BentoMLContainer
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
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
from serving.schemas import EXAMPLE, MAX_QUESTIONS, Placed
from serving.settings import MORE_BUNDLES, override

ASSETS = "/static_content"
OWN_ALONE = "default-src 'self' 'unsafe-inline' data:"


@app.get("/", include_in_schema=False)
def page() -> HTMLResponse:
    """A page to try the routes on. It is ours since BentoML's own loads a script of another host."""
    found = get_swagger_ui_html(
        openapi_url="/docs.json",
        title="OptScale",
        swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{ASSETS}/favicon-light-32x32.png",
    )
    found.headers["content-security-policy"] = OWN_ALONE
    return found


app.mount(ASSETS, StaticFiles(directory=Path(bentoml_server.__file__).parent / "static_content"))
TrafficMetrics.paths = PROBES | {"/metrics", "/predict_priors", *(getattr(r, "path", "") for r in app.routes)}


def bundle_path() -> Path:
    """``$OPTSCALE_BUNDLE``, else the bundle that the bento carries."""
    return Path(os.environ.get("OPTSCALE_BUNDLE") or Path(__file__).parent.parent / "bundle")


def bundles() -> list[Bundle]:
    """That one, and those of ``$OPTSCALE_MORE_BUNDLES``."""
    more = os.environ.get(MORE_BUNDLES, "").split(os.pathsep)
    return [Bundle.open(bundle_path()), *(Bundle.open(path) for path in more if path)]


@bentoml.service(name="optscale-predictor", traffic={"timeout": 60}, threads=1)
class Predictor:
    """Priors of questions, in batches."""

    def __init__(self) -> None:
        def load() -> Any:
            networks = {
                number: load_predictor(bundle.path)
                for number, bundle in enumerate(bundles())
                if bundle.card.model_version is not None  # else nobody asks
            }
            for network in networks.values():
                network.predict([Question.ask(EXAMPLE)])  # the first pass is the slow one
            return networks

        # OpenMP keeps a team for each thread that has computed and spins less with each: a thread that
        # ends leaves none, and the one that answers requests stays quick.
        with ThreadPoolExecutor(1) as loading:
            self.networks = loading.submit(load).result()
        self.ready = True

    async def __is_ready__(self) -> bool:
        return getattr(self, "ready", False)

    @bentoml.api(batchable=True, max_batch_size=MAX_QUESTIONS, max_latency_ms=30_000)
    def predict_priors(self, questions: list[Placed]) -> list[Prior]:
        """The prior of each question."""
        priors: dict[int, Prior] = {}
        for bundle in {question.bundle for question in questions}:
            rows = [row for row, question in enumerate(questions) if question.bundle == bundle]
            found = self.networks[bundle].predict([questions[row].require() for row in rows])
            priors |= zip(rows, found, strict=True)
        return [priors[row] for row in range(len(questions))]


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
        provider, first, *more = BentoMLContainer.tracer_provider.get(), *bundles()
        self.backend = Backend(first, override(first.card.gateway), RemotePredictor(self.predictor), provider)
        for number, bundle in enumerate(more, start=1):
            settings = override(bundle.card.gateway, number)
            self.backend.serve_too(bundle, settings, RemotePredictor(self.predictor, number))
        for bundle in (first, *more):
            logging.getLogger("optscale").info("what is served: %s", bundle.card.says)
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
