"""The bento in a process of its own: what it needs, and that it outlives nobody."""

import subprocess
import sys

import psutil
import pytest

from data.errors import BundleError
from models import end_with_parent
from serving.bento import free_port, requirements, serve_bento

pytestmark = pytest.mark.slow
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-P", *sys.argv[1:]], stdin=subprocess.PIPE)
print(child.pid, flush=True)
child.wait()
"""


def test_requirements_are_pinned_and_hold_what_serving_imports():
    names = {line.split("==")[0] for line in requirements() if "==" in line}
    assert {"bentoml", "fastapi", "openai", "pydantic", "torch", "transformers"} <= names
    assert not {"mlflow", "prefect", "pytest"} & names


def test_a_bento_that_does_not_start_says_why():
    with pytest.raises(BundleError, match=r"(?s)nobody:1 did not start:.*nobody"), serve_bento("nobody:1"):
        pass


def test_a_server_ends_with_the_process_that_started_it():
    server = [end_with_parent.__file__, "http.server", "--bind", "127.0.0.1", str(free_port())]
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, *server], stdout=subprocess.PIPE, text=True
    ) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        with pytest.raises(psutil.TimeoutExpired):
            child.wait(1)
        parent.kill()
        child.wait(20)
