"""The stack of `serving/deploy/compose.yaml` under a name and on ports of its own, for tests.

``ENGINE`` and ``COMPOSE`` are the programs, ``IMAGE_OPTIONS`` are of the image's build. Where ``BASE`` is a
Debian image, Postgres and Prometheus are built on it too, of Debian's packages; else the public images are
pulled.
"""

import os
import shlex
import subprocess
import time

import httpx

from tests.conftest import ROOT
from tests.servers import free_port

DEPLOY, HERE, PROJECT = ROOT / "serving" / "deploy", ROOT / "tests" / "stack", "optscale-test"
ENGINE = os.environ.get("ENGINE", "docker")
COMPOSE = shlex.split(os.environ.get("COMPOSE", f"{ENGINE} compose"))
BASE = os.environ.get("BASE", "docker.io/library/python:3.11-slim-bookworm")
SERVICES = ("postgres", "mlflow", "prefect", "worker", "models", "gateway", "prometheus")
FAR = f"0 3 * * {(time.gmtime().tm_wday + 4) % 7}"
"""Three days from now: a run that is due meanwhile would take the slot."""
PUBLISHED = ("MLFLOW", "PREFECT", "GATEWAY", "PROMETHEUS")


def run(*command, **more):
    done = subprocess.run(command, cwd=DEPLOY, text=True, capture_output=True, **more)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def wait_for(found, seconds=300):
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, "nothing came in time"
        time.sleep(1)
    return value


def secret(name):
    return (DEPLOY / "secrets" / name).read_text().strip()


class Stack:
    """What runs, and clients of it."""

    def __init__(self, config):
        self.config = config
        self.ports = {name: free_port() for name in PUBLISHED}
        self.environment = os.environ | {f"{name}_PORT": str(port) for name, port in self.ports.items()}
        self.environment |= {"STACK_CONFIG": str(config), "RETRAIN_CRON": FAR}
        if BASE != "docker.io/library/python:3.11-slim-bookworm":
            for name in ("postgres", "prometheus"):
                image = f"localhost/optscale-test-{name}"
                file = str(HERE / f"{name}.Containerfile")
                run(ENGINE, "build", "-q", "-f", file, "--build-arg", f"BASE={BASE}", "-t", image, str(HERE))
                self.environment[f"{name.upper()}_IMAGE"] = image

    def compose(self, *command, **more):
        return run(*COMPOSE, "-p", PROJECT, "-f", "compose.yaml", *command, env=self.environment, **more)

    def containers(self, service):
        """Their names, in order."""
        labels = {"project": PROJECT, "service": service}
        chosen = [f"--filter=label=com.docker.compose.{key}={value}" for key, value in labels.items()]
        return sorted(run(ENGINE, "ps", "--all", "--format", "{{.Names}}", *chosen).split())

    def container(self, service):
        return self.containers(service)[0]

    def healthy(self, service):
        """By the health check that the compose file has; podman runs none by itself without systemd."""
        name = self.container(service)
        if "podman" in ENGINE:
            return subprocess.run([ENGINE, "healthcheck", "run", name], capture_output=True).returncode == 0
        return run(ENGINE, "inspect", "--format", "{{.State.Health.Status}}", name).strip() == "healthy"

    def wait(self, *services):
        for service in services or SERVICES:
            wait_for(lambda service=service: self.healthy(service))

    def kill(self, service, away=1.0):
        """As a machine that goes away would, and start again after seconds."""
        name = self.container(service)
        deadline = time.monotonic() + away
        while True:  # an engine may start it again by itself
            subprocess.run([ENGINE, "kill", "--signal=KILL", name], capture_output=True)
            if time.monotonic() > deadline:
                break
            time.sleep(1)
        run(ENGINE, "start", name)

    def optscale(self, *command):
        """A command of the project, in a container of its own beside the worker's state."""
        return self.compose("run", "--rm", "-T", "--no-deps", "worker", "optscale", *command)

    def url(self, name, path=""):
        return f"http://127.0.0.1:{self.ports[name.upper()]}{path}"

    def prefect(self, method, path, **body):
        auth = ("admin", secret("prefect_password"))
        answer = httpx.request(method, self.url("prefect", f"/api{path}"), auth=auth, timeout=60, **body)
        return answer.raise_for_status().content and answer.json()

    def start(self, name, limit=1):
        """Start a run of a deployment by hand, with so many questions to collect; its id."""
        deployment = self.prefect("GET", f"/deployments/name/{name}")
        config = deployment["parameters"]["config"]
        config["collect"]["limit"] = limit
        path = f"/deployments/{deployment['id']}/create_flow_run"
        return self.prefect("POST", path, json={"parameters": {"config": config}})["id"]

    def cancel(self, run_id):
        """As Prefect's UI does."""
        state = {"state": {"type": "CANCELLING"}}
        self.prefect("POST", f"/flow_runs/{run_id}/set_state", json=state)

    def comes(self, run_id, *types, seconds=300):
        """Wait for a run to come into one of the states, of a server that may be away; the state."""

        def state():
            try:
                now = self.state(run_id)
            except httpx.HTTPError:
                return None
            return now if now["type"] in types else None

        return wait_for(state, seconds)

    def state(self, run_id):
        return self.prefect("GET", f"/flow_runs/{run_id}")["state"]

    def ended(self, run_id, seconds=900):
        """The state in which a run has ended."""
        return self.comes(run_id, "COMPLETED", "FAILED", "CRASHED", "CANCELLED", seconds=seconds)

    def versions(self):
        """Numbers of the registered versions."""
        asked = {"filter": "name='optscale-predictor'"}
        url = self.url("mlflow", "/api/2.0/mlflow/model-versions/search")
        found = httpx.get(url, params=asked, timeout=60).raise_for_status().json()
        return sorted(one["version"] for one in found.get("model_versions", []))

    def served(self):
        """Version of the bundle that the gateway answers by."""
        key = {"authorization": f"Bearer {secret('api_key')}"}
        found = httpx.post(self.url("gateway", "/describe"), headers=key, json={}, timeout=60)
        return found.raise_for_status().json()["model_version"]

    def query(self, expression):
        """What Prometheus has of an expression now."""
        asked = {"query": expression}
        return (
            httpx.get(self.url("prometheus", "/api/v1/query"), params=asked)
            .raise_for_status()
            .json()["data"]["result"]
        )

    def python(self, service, program):
        """What a program prints in the service's container."""
        return run(ENGINE, "exec", self.container(service), "python", "-c", program).strip()

    def logged(self):
        """Rows in the decision log."""
        count = "import pyarrow.parquet as p, pathlib as l; print(sum(p.read_metadata(f).num_rows for f in "
        return int(self.python("gateway", count + "l.Path('/var/lib/gateway/decisions').glob('*.parquet')))"))

    def pooled(self):
        """Ids of the pool's questions."""
        program = "from data.pool import Pool; print(*Pool.open('/var/lib/optscale/pool').question_ids)"
        return set(self.python("worker", program).split())

    def bundles(self):
        """Tags of the bundles that the worker has."""
        program = "import bentoml; print(*(one.tag for one in bentoml.list('optscale')))"
        return set(self.python("worker", program).split())

    def log_of(self, run_id):
        """What a run has logged, in Prefect."""
        asked = {"logs": {"flow_run_id": {"any_": [run_id]}}, "sort": "TIMESTAMP_ASC"}
        return [one["message"] for one in self.prefect("POST", "/logs/filter", json=asked)]
