"""Deployments for Prefect workers: what `prefect.yaml` declares, and what ends runs that stopped unheard."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectAlreadyExists

from data.errors import OrchestrationError
from flows.config import ROOT, Config
from flows.monitor import resource
from flows.orchestration import prefect_server
from flows.schedule import replaced, require_schedule

COMPOSED = "COMPOSED_CONFIG"
"""Environment variable by which `prefect deploy` hands the config on."""
HOURLY = "7 * * * *"
"""Of a monitor that is switched off."""
POOL = "optscale"
"""Work pool whose workers run the deployments."""
SILENT = timedelta(minutes=5)
"""Without a sign of life for so long a run is dead: longer than a server or its database is restarted in."""
UNBEGUN = timedelta(minutes=10)
"""A run that a worker has taken begins within that."""
ENDED = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}


def deploy(config: Config, cron: str, timezone: str) -> list[str]:
    """Deploy what ``prefect.yaml`` declares, with its work pool; which they are, in words.

    ``retrain`` is due by ``cron`` in ``timezone``, ``monitor`` by ``monitor.cron`` there.

    Raises
    ------
    ConfigError
        If they are no schedule.
    OrchestrationError
        If no server is named, or it does not take them.
    """
    require_schedule(cron, timezone)
    looks = config.monitor.cron
    require_schedule(looks or HOURLY, timezone, "monitor.cron")
    with prefect_server(), get_client(sync_client=True) as client:
        with suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        for automation in watchdogs():
            _put(client, automation)
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    own = {
        "RETRAIN_CRON": cron,
        "RETRAIN_TIMEZONE": timezone,
        "MONITOR_CRON": looks or HOURLY,
        "MONITORS": str(looks is not None).lower(),
        "ALARM_RETRAINS": str(config.monitor.retrain).lower(),
        "CHAMPION": resource(config),
        # A worker elsewhere may have its interpreter at another place.
        "RUN_WITH": f"sh -c 'exec $(command -v {sys.executable} || command -v python) -m flows.engine'",
        COMPOSED: config.model_dump_json(),
    }
    done = subprocess.run(command, cwd=ROOT, env=os.environ | own, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise OrchestrationError(f"prefect deploy failed; its last words:\n{done.stdout[-2000:]}")
    return [f"deployed: {name}" for name in re.findall(r"Deployment '(\S+)' successfully", done.stdout)]


def compose(deployment: str, schedules: Sequence[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Step of ``prefect.yaml``: the config as a parameter; says what of the server's deployment it replaces.

    Without ``schedules``, those that were made on the server stay.
    """
    parameters = {"config": json.loads(os.environ[COMPOSED])}
    mine = None if schedules is None else [require_schedule(s["cron"], s["timezone"]) for s in schedules]
    with get_client(sync_client=True) as client:
        for line in replaced(client, deployment, mine, parameters):
            print(f"{deployment}: {line}", file=sys.stderr, flush=True)
    return parameters


def watchdogs() -> list[AutomationCore]:
    """Automations that end runs whose process, machine or worker was killed: their slot is free then."""
    alive = {"prefect.flow-run.heartbeat"}
    return [
        _watchdog("silent runs", alive, alive | ENDED, SILENT, "it gave no sign of life for {}"),
        _watchdog(
            "runs that never began",
            {"prefect.flow-run.Pending"},
            {"prefect.flow-run.Running"} | ENDED,
            UNBEGUN,
            "a worker took it {} ago, and it never began",
        ),
    ]


def _watchdog(name: str, after: set[str], expect: set[str], within: timedelta, why: str) -> AutomationCore:
    said = f"{within.total_seconds() / 60:g} minutes"
    return AutomationCore(
        name=f"optscale: {name}",
        trigger=EventTrigger(
            match={"prefect.resource.id": ["prefect.flow-run.*"]},
            after=after,
            expect=expect,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            within=within,
        ),
        actions=[
            ChangeFlowRunState(state=StateType.CRASHED, message=f"{why.format(said)}. Its slot is free.")
        ],
    )


def _put(client: SyncPrefectClient, automation: AutomationCore) -> None:
    """Create an automation, or set the one of its name anew."""
    if found := client.read_automations_by_name(automation.name):
        client.update_automation(found[0].id, automation)
    else:
        client.create_automation(automation)
