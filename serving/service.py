"""The bundle's two services: the predictor (torch, batched) and the gateway (async, without torch).

They run in processes of their own, so that a forward pass holds up no request and no request holds up
a forward pass.
"""

import asyncio
import gc
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
from serving import champion
from serving.auth import PROBES, read_keys
from serving.backend import Backend
from serving.bentoml_patches import UNLIMITED, TrafficMetrics
from serving.bundle import Bundle
from serving.follow import Stage, Wanted
from serving.middleware import middlewares
from serving.priors import RemotePredictor
from serving.routes import app
from serving.schemas import EXAMPLE, MAX_QUESTIONS, Placed
from serving.settings import CHAMPION, MORE_BUNDLES, override

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
_INTERNAL = {"/metrics", "/predict_priors", "/prepare"}
TrafficMetrics.paths = PROBES | _INTERNAL | {getattr(r, "path", "") for r in app.routes}


def served() -> Wanted:
    """What to start with: ``$OPTSCALE_BUNDLE``, else the champion's if it is here, else the bento's."""
    carried = str(Path(__file__).parent.parent / "bundle")
    if given := os.environ.get("OPTSCALE_BUNDLE"):
        return Wanted(given, False)
    manifest = champion.read(location) if (location := os.environ.get(CHAMPION)) else champion.Manifest()
    named = manifest.champion.bundle if manifest.champion else carried
    return Wanted(named if Path(named).is_dir() else carried, manifest.full_cap)


def more() -> list[str]:
    """Folders of the bundles of ``$OPTSCALE_MORE_BUNDLES``."""
    return [path for path in os.environ.get(MORE_BUNDLES, "").split(os.pathsep) if path]


@bentoml.service(name="optscale-predictor", traffic={"timeout": 60}, threads=1)
class Predictor:
    """Priors of questions, in batches."""

    def __init__(self) -> None:
        self.networks: dict[str, Any] = {}
        for bundle in (served().bundle, *more()):
            self._load(bundle)
        self.ready = True

    def _load(self, bundle: str) -> Any:
        """The predictor of a bundle, loaded in a thread of its own; a former champion's is kept too."""
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
        self.networks[bundle] = network
        for old in list(self.networks)[: -2 - len(more())]:
            if old not in more():
                del self.networks[old]
        return network

    async def __is_ready__(self) -> bool:
        return getattr(self, "ready", False)

    @bentoml.api(batchable=True, max_batch_size=MAX_QUESTIONS, max_latency_ms=30_000)
    def predict_priors(self, questions: list[Placed]) -> list[Prior]:
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
        gc.freeze()  # a collection that looks through all that is loaded would hold up what is in flight

    def _make(self, wanted: Wanted) -> Backend:
        first = Bundle.open(wanted.bundle)
        bundles = [first.at_full_cap() if wanted.full_cap else first, *map(Bundle.open, more())]
        settings = [override(bundle.card.gateway, number) for number, bundle in enumerate(bundles)]
        predictors = [RemotePredictor(self.predictor, str(bundle.path)) for bundle in bundles]
        asked, *others = zip(bundles, settings, predictors, strict=True)
        made = Backend(*asked, BentoMLContainer.tracer_provider.get())
        for other in others:
            made.serve_too(*other)
        for bundle in bundles:
            logging.getLogger("optscale").info("what is served: %s", bundle.card.says)
        return made

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
