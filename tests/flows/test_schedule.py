"""`optscale schedule` against a real Prefect server: planned, run, and one at a time."""

import asyncio
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.schedules import Cron
from prefect.server.schemas.schedules import CronSchedule
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.states import Pending

from data.errors import ConfigError, OrchestrationError
from flows.config import Config, _profile
from flows.orchestration import prefect_server as ask_server
from flows.schedule import announce, free_slots, planned_runs, replaced, require_schedule, serve_schedule
from tests.flows.conftest import KEY

pytestmark = pytest.mark.slow


def wait_for(found, seconds=180):
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, "nothing came in time"
        time.sleep(0.5)
    return value


@pytest.fixture(scope="session")
def server(prefect_server):
    """A client of its API."""
    with httpx.Client(base_url=prefect_server, auth=tuple(KEY.split(":"))) as api:
        yield api


@pytest.fixture(scope="session")
def scheduled(prefect_server, tmp_path_factory):
    """`optscale schedule` at every minute, and where it prints; its runs fail at once, on a question set
    that is not there: that they ran is what matters."""
    folder = tmp_path_factory.mktemp("scheduled")
    config = f"home: {folder / 'home'}\ncollect: {{questions: [nowhere.jsonl]}}\n"
    config += "gateway: {generator: {base_url: 'http://127.0.0.1:9/v1', model: m}, reward: null}\n"
    config += "monitor: {cron: '0 0 1 1 *'}\n"
    (folder / "c.yaml").write_text(config)
    environment = {**os.environ, "PREFECT_API_URL": prefect_server, "PREFECT_API_AUTH_STRING": KEY}
    environment |= {"PREFECT_HOME": str(folder / "prefect"), "OPTSCALE_HOME": str(folder / "home")}
    command = [sys.executable, "-m", "flows.cli", "schedule", "--cron", "* * * * *"]
    command += ["--timezone", "Asia/Kathmandu", "-c", str(folder / "c.yaml")]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    yield process, folder / "log"
    process.terminate()
    process.wait()


@pytest.fixture(scope="session")
def due(server, scheduled):
    """Ids of two runs due at the same moment: one that the cron made, and one of ours."""
    printed = wait_for(lambda: "(Asia/Kathmandu); next runs: " in (log := scheduled[1].read_text()) and log)
    deployments = {found["name"]: found for found in server.post("/deployments/filter", json={}).json()}
    assert set(deployments) == {"retrain", "monitor"}
    deployment = deployments["retrain"]
    soon, runs = datetime.now(UTC) + timedelta(seconds=10), all_runs(server)
    made = next(r for r in runs if datetime.fromisoformat(r["expected_start_time"]) > soon)
    assert made["auto_scheduled"]
    shown = datetime.fromisoformat(runs[0]["expected_start_time"]) + timedelta(hours=5, minutes=45)
    assert f"{shown:%Y-%m-%d %H:%M}" in printed
    order = {"state": {"type": "SCHEDULED", "state_details": {"scheduled_time": made["expected_start_time"]}}}
    start = f"/deployments/{deployment['id']}/create_flow_run"
    posted = wait_for(lambda: (a := server.post(start, json=order)).is_success and a.json())  # 503: locked
    return made["id"], posted["id"]


def all_runs(server):
    """Of deployments: other tests have runs of their own here."""
    asked = {"sort": "EXPECTED_START_TIME_ASC", "flow_runs": {"deployment_id": {"is_null_": False}}}
    return server.post("/flow_runs/filter", json=asked).json()


def test_a_server_that_wants_a_key_is_told_before_anything_is_computed(due):
    """Its health route is open; all others are not. The moment of ``due`` comes while other tests run."""
    refused = pytest.raises(OrchestrationError, match="answered 401: set PREFECT_API_AUTH_STRING")
    with temporary_settings({PREFECT_API_AUTH_STRING: None}), refused, ask_server():
        pass
    with ask_server():
        pass


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/api", "nonsense"])
def test_a_prefect_server_that_is_away_is_one_line(url):
    away = pytest.raises(OrchestrationError, match="no Prefect server answers at PREFECT_API_URL")
    with temporary_settings({PREFECT_API_URL: url}), away, ask_server():
        pass


def test_scheduling_without_a_server_says_what_to_start():
    none = pytest.raises(OrchestrationError, match="prefect server start")
    with temporary_settings(restore_defaults={PREFECT_API_URL}), none:
        serve_schedule(Config(), "0 3 * * 0", "UTC", print)


@pytest.mark.parametrize(
    ("cron", "zone", "named"), [("nonsense", "UTC", "--cron"), ("* * * * *", "Mars", "--timezone")]
)
def test_what_is_no_schedule_is_named(cron, zone, named):
    with pytest.raises(ConfigError, match=named):
        serve_schedule(Config(), cron, zone, print)


def test_the_cron_makes_runs_and_one_runs_at_a_time(server, scheduled, due):
    """After other tests (conftest.py), and it ends the schedule, which would start a run every minute."""

    def ended():
        final = {"FAILED", "CANCELLED", "CRASHED", "COMPLETED"}
        states = [r["state"] for r in all_runs(server) if r["id"] in due]
        return states if {s["type"] for s in states} <= final else None

    def ran():
        made = [r["state"] for r in all_runs(server) if r["auto_scheduled"]]
        return [state["message"] for state in made if state["type"] == "FAILED"]

    states = wait_for(ended)
    cancelled = [state["message"] for state in states if state["type"] == "CANCELLED"]
    assert len(cancelled) >= 1  # both, where the run of a minute before is still under way
    assert all("concurrency limit" in message for message in cancelled)
    assert "nowhere.jsonl" in wait_for(ran)[0]
    scheduled[0].terminate()


def test_an_alarm_starts_a_retrain(server, due):
    """The server does it; here its process has ended, so that the run takes no place from others."""
    from prefect.events import emit_event

    from flows.monitor import EVENT, resource

    def started():
        return [r for r in all_runs(server) if (r["created_by"] or {}).get("type") == "AUTOMATION"]

    assert not started()
    emit_event(EVENT, {"prefect.resource.id": "optscale.champion.another"})
    emit_event(EVENT, {"prefect.resource.id": resource(Config())})
    (run,) = wait_for(started)
    assert run["flow_id"] == next(r for r in all_runs(server) if r["id"] in due)["flow_id"]


def test_a_server_that_plans_nothing_is_said_loudly(prefect_server, capsys):
    """Here because the deployment has no schedule."""
    with get_client(sync_client=True) as client:
        flow = client.create_flow_from_name("nobody's")
        deployment = client.create_deployment(flow, "never")
        assert planned_runs(client, deployment, patience=1) == []
        answer = announce([], "'0 3 * * 0' (UTC)", client)
    told = capsys.readouterr()
    assert not told.out
    assert answer.data["next_runs"] == []
    assert "has planned NO run of '0 3 * * 0' (UTC)" in told.err


def test_a_run_that_never_began_gives_its_slot_back(prefect_server, capsys):
    with get_client(sync_client=True) as client:
        flow = client.create_flow_from_name("stopped")
        deployment = client.create_deployment(flow, "stopped")
        run = client.create_flow_run_from_deployment(deployment)
        client.set_flow_run_state(run.id, Pending(name="Submitting"), force=True)
        assert free_slots(client, deployment, stale=60) == []  # it may be about to begin
        assert free_slots(client, deployment, stale=0) == [run.name]
        assert client.read_flow_run(run.id).state_type.value == "CRASHED"
        assert free_slots(client, deployment, stale=0) == []
    assert f"run {run.name} was ended: it was Submitting since" in capsys.readouterr().err


def test_what_a_start_sets_anew_is_told(prefect_server, scheduled):
    with get_client(sync_client=True) as client:
        found = wait_for(lambda: client.read_deployment_by_name("retrain/retrain"))
        same = Cron("* * * * *", timezone="Asia/Kathmandu")
        assert replaced(client, "retrain/retrain", [same], found.parameters) == []
        told = replaced(client, "retrain/retrain", [Cron("0 3 * * 0", timezone="UTC")], {})
    assert "* * * * * (Asia/Kathmandu), is replaced by this one" in told[0]
    assert "the parameters on the server differ" in told[1]


@pytest.mark.parametrize("change", ["2027-03-28", "2027-10-31"])
@pytest.mark.parametrize("cron", ["0 3 * * *", "30 2 * * *"])
def test_a_change_of_clocks_costs_no_run_and_doubles_none(cron, change):
    """In spring there is no 02:30, in autumn there are two; at 03:00 it is three by the clock on the wall."""
    berlin, day = ZoneInfo("Europe/Berlin"), datetime.fromisoformat(change)
    schedule = CronSchedule(cron=cron, timezone=require_schedule(cron, "Europe/Berlin").timezone)
    start = (day - timedelta(days=2)).replace(tzinfo=berlin)
    times = [t.astimezone(berlin) for t in asyncio.run(schedule.get_dates(5, start=start))]
    assert [t.date() for t in times] == [(start + timedelta(days=n)).date() for n in range(5)]
    walls = {f"{t:%H:%M}" for t in times if t.date() != day.date()}
    assert walls == {"03:00" if cron.startswith("0") else "02:30"}


def test_the_users_profile_names_the_server(tmp_path, monkeypatch):
    """It stands in Prefect's own home, not in the state folder."""
    profile = 'active = "work"\n[profiles.work]\nPREFECT_API_URL = "http://there/api"\n'
    (tmp_path / "profiles.toml").write_text(profile + 'PREFECT_LOGGING_LEVEL = "DEBUG"\n')
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    assert _profile() == {"PREFECT_API_URL": "http://there/api"}
    monkeypatch.setenv("PREFECT_PROFILE", "other")
    assert _profile() == {}
