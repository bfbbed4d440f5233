"""The bento around a bundle: what BentoML serves, here or on another machine."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import requires, version
from itertools import chain
from pathlib import Path

import httpx
from packaging.requirements import Requirement

from data.errors import BundleError
from models import end_with_parent
from serving.settings import KEYS, KEYS_FILE

ROOT = Path(__file__).parent.parent
PACKAGES = ("data", "models", "predictor", "serving")


def build_bento(bundle: Path, name: str = "optscale") -> str:
    """Build a bento that carries ``bundle``; returns its tag.

    The build context is a directory of its own with just the code that serving needs, so nothing of
    the user's working directory can slip into the image.
    """
    import bentoml  # late: it reads $BENTOML_HOME when it is imported

    with tempfile.TemporaryDirectory(dir=bundle.parent) as folder:
        context = Path(folder)
        for package in PACKAGES:
            for file in chain((ROOT / package).rglob("*.py"), (ROOT / package).glob("rules/*.json")):
                copy = context / file.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
        shutil.copytree(bundle, context / "bundle", copy_function=os.link)
        built = bentoml.build(
            "serving.service:OptScale",
            name=name,
            build_ctx=str(context),
            include=["**/*"],
            python={"packages": requirements(), "lock_packages": False},
        )
    return str(built.tag)


def requirements() -> list[str]:
    """The project's dependencies with those of its extra ``serve``, in the versions that are installed."""
    named = [Requirement(line) for line in requires("optscale") or ()]
    serving = [one for one in named if one.marker is None or one.marker.evaluate({"extra": "serve"})]
    return sorted({f"{one.name}=={version(one.name)}" for one in serving})


@contextmanager
def serve_bento(tag: str, timeout: float = 180.0) -> Iterator[str]:
    """The URL of a bento that is served in a process of its own until the block or this process ends.

    Raises
    ------
    BundleError
        If it is not ready within ``timeout`` seconds.
    """
    url = f"http://127.0.0.1:{(port := free_port())}"
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", KEYS, KEYS_FILE}}
    serve = ["bentoml", "serve", tag, "--host", "127.0.0.1", "--port", str(port)]
    # Started from an empty directory, so that nothing but the bento can be imported.
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", end_with_parent.__file__, *serve],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            if why := _why_not_ready(process, url, timeout):
                log.seek(0)
                raise BundleError(f"{tag} {why}:\n{log.read()[-2000:]}")
            yield url
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
            process.communicate()


def _why_not_ready(process: subprocess.Popen[bytes], url: str, timeout: float) -> str:
    """Wait until the predictor answers; what is wrong where it does not, and empty where it does."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return "did not start"
        # /readyz would also ask for generator and reward model, which need not run where it is checked.
        with suppress(httpx.HTTPError, ValueError, KeyError):
            if httpx.get(f"{url}/health", timeout=15).json()["predictor"]:
                return ""
        time.sleep(0.5)
    return f"was not ready within {timeout:g} s"


def free_port() -> int:
    """A TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
