"""`optscale deploy` against a real Prefect server: what it makes, what it says, and what ends dead runs."""

import shlex
import sys

import pytest
from prefect.client.orchestration import get_client
from prefect.events.schemas.automations import Posture

from flows.config import Config
from flows.deploy import POOL, deploy

pytestmark = [pytest.mark.slow, pytest.mark.suite]


def test_deployments_are_made_and_what_was_changed_on_the_server_is_told(
    prefect_server, tmp_path, monkeypatch, capfd
):
    from tests.flows.conftest import KEY

    monkeypatch.setenv("PREFECT_API_URL", prefect_server)  # `prefect deploy` is another process
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", KEY)
    config = Config(home=tmp_path)
    made = deploy(config, "0 3 * * 0", "Europe/Berlin")
    assert made == [f"deployed: {name}/{name}" for name in ("retrain", "monitor", "collect")]
    with get_client(sync_client=True) as client:
        assert client.read_work_pool(POOL).type == "process"
        made = client.read_deployment_by_name("retrain/retrain")
        (schedule,) = made.schedules
        assert (schedule.schedule.cron, schedule.schedule.timezone) == ("0 3 * * 0", "Europe/Berlin")
        assert made.parameters == {"config": config.model_dump(mode="json")}
        assert made.work_pool_name == POOL
        command = shlex.split(made.job_variables["command"])
        assert command[:2] == ["sh", "-c"]
        assert sys.executable in command[2]
        assert command[2].endswith(" -m flows.engine")
        assert client.read_deployment_by_name("collect/collect").schedules == []
        (hourly,) = client.read_deployment_by_name("monitor/monitor").schedules
        assert (hourly.schedule.cron, hourly.active) == (config.monitor.cron, True)
        names = [one.name for one in client.read_automations()]
        assert sum("retrain" in name for name in names) == 1  # what an alarm starts
        (silent,) = client.read_automations_by_name("optscale: silent runs")
        assert silent.trigger.posture is Posture.Proactive
        client.update_deployment_schedule(made.id, schedule.id, active=False)
        capfd.readouterr()
        deploy(config, "0 4 * * 0", "Europe/Berlin")
        told = capfd.readouterr().err
        assert (
            "retrain/retrain: the server's schedule, 0 3 * * 0 (Europe/Berlin), is replaced by this one"
            in told
        )
        assert "retrain/retrain: the schedule was paused on the server, and runs again" in told
        assert "collect/collect" not in told
        assert [one.id for one in client.read_automations_by_name("optscale: silent runs")] == [silent.id]
