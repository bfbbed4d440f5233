"""The bento in a process of its own: what it needs, and that it outlives nobody."""

import ast
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires

import psutil
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from data.errors import BundleError
from models import end_with_parent
from serving.bento import PACKAGES, ROOT, free_port, requirements, serve_bento

pytestmark = pytest.mark.slow
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-P", *sys.argv[1:]], stdin=subprocess.PIPE)
print(child.pid, flush=True)
child.wait()
"""


def names_of(lines):
    """Names of the requirements that hold here, without extras."""
    needed = (Requirement(line) for line in lines)
    return {canonicalize_name(r.name) for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})}


def test_requirements_are_pinned_and_without_the_flows():
    lines = requirements()
    assert all("==" in line for line in lines)
    assert "bentoml" in names_of(lines)
    assert not {"mlflow", "prefect", "pytest"} & names_of(lines)


def test_the_serve_extra_covers_what_the_bundle_imports():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = names_of(project["dependencies"] + project["optional-dependencies"]["serve"])
    covered = set()
    while waiting:
        covered |= waiting
        waiting = {n for name in waiting for n in names_of(requires(name) or ())} - covered
    files = [f for package in PACKAGES for f in (ROOT / package).rglob("*.py")]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    found = packages_distributions()
    imported = {m: found[top] for m in modules if (top := m.split(".")[0]) in found and top not in PACKAGES}
    assert len(imported) > 20
    missing = {m: d for m, d in imported.items() if not {canonicalize_name(one) for one in d} & covered}
    assert missing == {}


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
