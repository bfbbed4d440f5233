"""`optscale schedule` against a real Prefect server: registered, run, and one at a time."""

import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from tests.servers import free_port, running

pytestmark = pytest.mark.slow
BIN = os.path.dirname(sys.executable)


def wait_for(found, seconds=180):
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, "nothing came in time"
        time.sleep(0.5)
    return value


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    port = free_port()
    environment = {**os.environ, "PREFECT_HOME": str(folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    command = [f"{BIN}/prefect", "server", "start", "--port", str(port)]
    url = f"http://127.0.0.1:{port}/api"
    with running(command, f"{url}/health", folder / "log", environment), httpx.Client(base_url=url) as api:
        yield api


def test_retrain_is_scheduled_and_runs_one_at_a_time(server, tmp_path):
    """The run fails at once, on a question set that is not there: that it ran is what matters."""
    (tmp_path / "c.yaml").write_text(f"home: {tmp_path / 'home'}\ncollect: {{questions: [nowhere.jsonl]}}\n")
    environment = {**os.environ, "PREFECT_API_URL": str(server.base_url).rstrip("/")}
    environment |= {"PREFECT_HOME": str(tmp_path / "prefect"), "OPTSCALE_HOME": str(tmp_path / "home")}
    command = [f"{BIN}/optscale", "schedule", "--cron", "0 3 * * 0", "-c", str(tmp_path / "c.yaml")]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        (deployment,) = wait_for(lambda: server.post("/deployments/filter", json={}).json())
        assert deployment["name"] == "retrain"
        assert deployment["schedules"][0]["schedule"]["cron"] == "0 3 * * 0"
        wait_for(lambda: "being served" in (tmp_path / "log").read_text())
        # Both are due at one moment later on, so that neither is over before the other is seen.
        due = (datetime.now(UTC) + timedelta(seconds=20)).isoformat()
        order = {"state": {"type": "SCHEDULED", "state_details": {"scheduled_time": due}}}
        for _ in range(2):  # SQLite is locked at times, and the server says 503 then
            start = f"/deployments/{deployment['id']}/create_flow_run"
            wait_for(lambda start=start: server.post(start, json=order).is_success)

        def ended():
            query = {"flow_runs": {"deployment_id": {"any_": [deployment["id"]]}}}
            runs = server.post("/flow_runs/filter", json=query).json()
            states = [r["state"] for r in runs if r["state_type"] != "SCHEDULED"]
            final = [s for s in states if s["type"] in {"FAILED", "CANCELLED", "CRASHED", "COMPLETED"}]
            return final if len(final) == 2 else None

        messages = {state["type"]: state["message"] for state in wait_for(ended)}
        assert set(messages) == {"FAILED", "CANCELLED"}
        assert "nowhere.jsonl" in messages["FAILED"]
        assert "concurrency limit" in messages["CANCELLED"]
    finally:
        process.terminate()
        process.wait()
