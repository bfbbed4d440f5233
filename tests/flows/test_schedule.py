"""`optscale schedule` against a real Prefect server: planned, run, and one at a time."""

import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from flows.config import Config
from flows.orchestration import prefect_server
from flows.schedule import announce, planned_runs, serve_schedule
from predictor.errors import ConfigError, OrchestrationError
from tests.servers import free_port, running

pytestmark = pytest.mark.slow


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
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
    url = f"http://127.0.0.1:{port}/api"
    with running(command, f"{url}/health", folder / "log", environment), httpx.Client(base_url=url) as api:
        yield api


def test_the_cron_makes_runs_and_one_runs_at_a_time(server, tmp_path):
    """A run fails at once, on a question set that is not there: that it ran is what matters."""
    (tmp_path / "c.yaml").write_text(f"home: {tmp_path / 'home'}\ncollect: {{questions: [nowhere.jsonl]}}\n")
    environment = {**os.environ, "PREFECT_API_URL": str(server.base_url).rstrip("/")}
    environment |= {"PREFECT_HOME": str(tmp_path / "prefect"), "OPTSCALE_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "flows.cli", "schedule", "--cron", "* * * * *"]
    command += ["--timezone", "Asia/Kathmandu", "-c", str(tmp_path / "c.yaml")]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def runs():
        return server.post("/flow_runs/filter", json={"sort": "EXPECTED_START_TIME_ASC"}).json()

    try:
        wait_for(lambda: "next runs (Asia/Kathmandu): " in (tmp_path / "log").read_text())
        (deployment,) = server.post("/deployments/filter", json={}).json()
        assert deployment["name"] == "retrain"
        soon = datetime.now(UTC) + timedelta(seconds=10)
        made = next(r for r in runs() if datetime.fromisoformat(r["expected_start_time"]) > soon)
        assert made["auto_scheduled"]
        shown = datetime.fromisoformat(runs()[0]["expected_start_time"]) + timedelta(hours=5, minutes=45)
        assert f"{shown:%Y-%m-%d %H:%M}" in (tmp_path / "log").read_text()
        # Another is due at the same moment: one of the two has to give way.
        order = {
            "state": {"type": "SCHEDULED", "state_details": {"scheduled_time": made["expected_start_time"]}}
        }
        start = f"/deployments/{deployment['id']}/create_flow_run"
        posted = wait_for(
            lambda: (a := server.post(start, json=order)).is_success and a.json()
        )  # 503: locked

        def ended():
            final = {"FAILED", "CANCELLED", "CRASHED", "COMPLETED"}
            states = [r["state"] for r in runs() if r["id"] in (made["id"], posted["id"])]
            return states if {s["type"] for s in states} <= final else None

        messages = {state["type"]: state["message"] for state in wait_for(ended)}
        assert set(messages) == {"FAILED", "CANCELLED"}
        assert "nowhere.jsonl" in messages["FAILED"]
        assert "concurrency limit" in messages["CANCELLED"]
    finally:
        process.terminate()
        process.wait()


def test_a_server_that_plans_nothing_is_said_loudly(server, capsys):
    """Here because the deployment has no schedule."""
    with temporary_settings({PREFECT_API_URL: str(server.base_url)}), get_client(sync_client=True) as client:
        flow = client.create_flow_from_name("nobody's")
        deployment = client.create_deployment(flow, "never")
        assert planned_runs(client, deployment, patience=1) == []
        announce([], "0 3 * * 0", "UTC", client)
    told = capsys.readouterr()
    assert not told.out
    assert "has planned NO run of '0 3 * * 0' (UTC)" in told.err


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/api", "nonsense"])
def test_a_prefect_server_that_is_away_is_one_line(url):
    away = pytest.raises(OrchestrationError, match="no Prefect server answers at PREFECT_API_URL")
    with temporary_settings({PREFECT_API_URL: url}), away, prefect_server():
        pass


def test_a_server_that_wants_a_key_is_told_before_anything_is_computed(tmp_path):
    """Its health route is open; all others are not."""
    port = free_port()
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    environment["PREFECT_SERVER_API_AUTH_STRING"] = "admin:pass"
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
    url = f"http://127.0.0.1:{port}/api"
    with running(command, f"{url}/health", tmp_path / "log", environment):
        refused = pytest.raises(OrchestrationError, match="answered 401: set PREFECT_API_AUTH_STRING")
        with temporary_settings({PREFECT_API_URL: url}), refused, prefect_server():
            pass
        with (
            temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: "admin:pass"}),
            prefect_server(),
        ):
            pass


def test_scheduling_without_a_server_says_what_to_start():
    none = pytest.raises(OrchestrationError, match="prefect server start")
    with temporary_settings(restore_defaults={PREFECT_API_URL}), none:
        serve_schedule(Config(), "0 3 * * 0")


@pytest.mark.parametrize(
    ("cron", "zone", "named"), [("nonsense", "UTC", "--cron"), ("* * * * *", "Mars", "--timezone")]
)
def test_what_is_no_schedule_is_named(cron, zone, named):
    with pytest.raises(ConfigError, match=named):
        serve_schedule(Config(), cron, zone)
