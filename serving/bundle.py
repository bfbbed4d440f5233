"""The bundle: predictor, policy, contract and card in one directory, and the bento around it."""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import httpx
import numpy as np
from pydantic import Field, ValidationError

from data.contract import ScoreContract
from data.errors import BundleError, ConfigError
from data.record import Record
from data.validation import explain
from models.tokenizer import open_tokenizer
from predictor.certificate import Certificate
from predictor.correctness import Correctness
from predictor.empirical import load_family
from predictor.policies import AnyPolicy
from predictor.prior import Prior
from serving.settings import KEYS, KEYS_FILE, GatewaySettings

TOKENIZER = "reward_tokenizer"
"""Folder in the bundle with the reward model's tokenizer."""
ROOT = Path(__file__).parent.parent
REQUIREMENTS = (
    "accelerate",
    "bentoml",
    "cachetools",
    "fastapi",
    "filelock",
    "httptools",
    "numpy",
    "openai",
    "opentelemetry-instrumentation-httpx",
    "packaging",
    "peft",
    "pyarrow",
    "pydantic",
    "python-json-logger",
    "pyyaml",
    "safetensors",
    "scikit-learn",
    "scipy",
    "torch",
    "transformers",
    "uvloop",
)


class BundleCard(Record):
    """``bundle.json``: what the service serves."""

    contract: ScoreContract
    policy: AnyPolicy
    certificate: Certificate | None = None
    """What is promised of the policy; its own policy is null where nothing could be."""
    correctness: Correctness | None = None
    """Chance that the selected answer is right; None where the pool has no answers to tell it by."""
    model_version: str
    """Version of the registered predictor."""
    data_digest: str
    tokens_per_candidate: float = Field(ge=0)
    """Mean completion tokens of a candidate in the pool."""
    gateway: GatewaySettings | None = None
    """Generator and reward model behind the gateway; None: it only predicts and decides."""

    def chance_correct(self, score: float | None, drawn: int, prior: Prior) -> float | None:
        """Chance that the best of ``drawn`` candidates is right; None without a score, or if not known."""
        if self.correctness is None or score is None:
            return None
        return float(np.squeeze(self.correctness.predict(score, drawn, prior.moments()[0])))


class Bundle(Record):
    """A bundle on disk."""

    path: Path
    card: BundleCard

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Read a bundle's card.

        Raises
        ------
        BundleError
            If there is no bundle, or its card cannot be read.
        ContractError
            If its certificate speaks of other scores.
        ModelError
            If its score family was altered.
        """
        file = Path(path) / "bundle.json"
        try:
            card = BundleCard.model_validate_json(file.read_bytes())
        except FileNotFoundError as error:
            raise BundleError(f"no bundle at {path}: bundle.json is missing; ship one first") from error
        except ValidationError as error:
            problems = explain(error.errors(), BundleCard)
            raise BundleError(f"{file} is not a bundle's card: {problems}") from error
        except ConfigError as error:
            raise BundleError(f"{file} is not a bundle's card: {error}") from error
        load_family(Path(path))
        if card.certificate is not None:
            card.certificate.require_contract(card.contract.fingerprint)
        return cls(path=Path(path), card=card)

    def population(self) -> Prior:
        """The population's prior, as the predictor's card has it.

        Raises
        ------
        BundleError
            If the bundle has no predictor.
        """
        file = self.path / "predictor.json"
        try:
            return Prior.model_validate(json.loads(file.read_bytes())["population"])
        except (OSError, ValueError, KeyError) as error:
            raise BundleError(f"{file} is not a predictor's card: {error}") from error

    def resolve(self, settings: GatewaySettings) -> GatewaySettings:
        """The settings with the tokenizer that the bundle carries, where they name it."""
        if settings.reward.tokenizer != TOKENIZER:
            return settings
        reward = settings.reward.model_copy(update={"tokenizer": str(self.path / TOKENIZER)})
        return settings.model_copy(update={"reward": reward})


def build_bento(bundle: Path, name: str = "optscale") -> str:
    """Build a bento that carries ``bundle``; returns its tag.

    The build context is a directory of its own with just the rooms that serving needs, so nothing of
    the user's working directory can slip into the image.
    """
    import bentoml

    with tempfile.TemporaryDirectory(dir=bundle.parent) as scratch:
        context = Path(scratch)
        for room in ("data", "predictor", "models", "serving"):
            for file in (ROOT / room).rglob("*.py"):
                copy = context / file.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
        shutil.copytree(bundle, context / "bundle", copy_function=os.link)
        built = bentoml.build(
            "serving.service:OptScale",
            name=name,
            build_ctx=str(context),
            include=["**/*"],
            python={
                "packages": [f"{package}=={version(package)}" for package in REQUIREMENTS],
                "lock_packages": False,
            },
            labels={"bundle": digest_bundle(bundle)},
        )
    return str(built.tag)


def digest_bundle(bundle: Path) -> str:
    """Sixteen hex digits over all files of a bundle."""
    total = hashlib.sha256()
    for file in sorted(p for p in bundle.rglob("*") if p.is_file()):
        with file.open("rb") as stream:
            total.update(file.relative_to(bundle).as_posix().encode())
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:16]


class Server:
    """A served bento in a process of its own; use as a context manager."""

    def __init__(self, tag: str, port: int | None = None, timeout: float = 180.0) -> None:
        self.tag = tag
        self.port = port or free_port()
        self.timeout = timeout
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        # Started from an empty directory, so that nothing but the bento can be imported.
        self.folder = tempfile.TemporaryDirectory()
        self.log = Path(self.folder.name) / "log"
        hidden = {"PYTHONPATH", KEYS, KEYS_FILE}
        environment = {k: v for k, v in os.environ.items() if k not in hidden}
        command = [sys.executable, "-m", "bentoml", "serve", self.tag, "--port", str(self.port)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--host", "127.0.0.1"],
                cwd=self.folder.name,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        # However this process ends, the pipe then closes and the server is ended too.
        self.guard = subprocess.Popen(
            ["/bin/sh", "-c", 'cat >/dev/null; kill -s TERM -- "-$0"', str(self.process.pid)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.guard.kill()
        self.guard.communicate()
        for sign, wait in ((signal.SIGTERM, 20), (signal.SIGKILL, 5)):
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, sign)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(wait)
                break
        self.folder.cleanup()

    def post(self, route: str, body: Any) -> Any:
        """The JSON answer of a route.

        Raises
        ------
        BundleError
            If the answer is not a success.
        """
        answer = httpx.post(f"{self.url}{route}", json=body, timeout=60)
        if answer.status_code != 200:
            raise BundleError(f"{self.tag} answered {route} with {answer.status_code}: {answer.text[:300]}")
        return answer.json()

    def _wait(self) -> None:
        deadline = time.monotonic() + self.timeout
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise BundleError(f"{self.tag} did not start:\n{self._tail()}")
            # /readyz would also ask for generator and reward model, which need not run where it is checked.
            with suppress(httpx.HTTPError, ValueError, KeyError):
                if httpx.get(f"{self.url}/health", timeout=15).json()["predictor"]:
                    return
            time.sleep(0.5)
        raise BundleError(f"{self.tag} was not ready within {self.timeout:g} s:\n{self._tail()}")

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]


def free_port() -> int:
    """A TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def carry_tokenizer(bundle: Path, settings: GatewaySettings) -> GatewaySettings:
    """Put the reward model's tokenizer into the bundle; the settings that name it there.

    Raises
    ------
    ModelError
        If there is no such tokenizer.
    """
    open_tokenizer(settings.reward.tokenizer).save_pretrained(bundle / TOKENIZER)
    reward = settings.reward.model_copy(update={"tokenizer": TOKENIZER})
    return settings.model_copy(update={"reward": reward})


def write_card(bundle: Path, card: BundleCard) -> None:
    """Write ``bundle.json``."""
    (bundle / "bundle.json").write_text(json.dumps(card.model_dump(mode="json"), indent=1))
