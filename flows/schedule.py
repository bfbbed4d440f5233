"""Retraining on a schedule and on an alarm, and looking for alarms, on a Prefect server."""

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.events import DeploymentEventTrigger
from prefect.exceptions import ObjectNotFound, TerminationSignal
from prefect.runner import Runner
from prefect.schedules import Cron, Schedule
from prefect.states import Crashed

from data.errors import ConfigError
from flows.config import Config
from flows.monitor import EVENT, monitor, resource
from flows.orchestration import prefect_server
from flows.output import Answer
from flows.retrain import retrain

SHOWN = 3  # planned runs that are told
STALE = 120.0  # seconds that no run is pending for, unless its process is gone


def serve_schedule(
    config: Config, cron: str, timezone: str, show: Callable[[Answer], None], patience: float = 90.0
) -> None:
    """Serve ``retrain`` on a cron schedule, one run at a time; blocks.

    Where a gateway logs, serves ``monitor`` too, and an alarm of it starts ``retrain`` (``config.monitor``).
    Shows the next times that the server has planned; where it plans none within ``patience`` seconds,
    says so on standard error.

    Raises
    ------
    ConfigError
        If ``cron`` or ``timezone`` (an IANA name) is none.
    OrchestrationError
        If no Prefect server is named, or it does not answer: schedules fire on a server alone.
    """
    schedule, zone = require_schedule(cron, timezone), ZoneInfo(timezone)
    looks = config.monitor.cron
    looking = looks and config.gateway and require_schedule(looks, timezone, "monitor.cron")
    alarm = DeploymentEventTrigger(
        name="retrain on an alarm", expect={EVENT}, match={"prefect.resource.id": [resource(config)]}
    )
    one_at_a_time = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    with prefect_server():
        runner, parameters = Runner(name="retrain"), {"config": config.model_dump(mode="json")}
        with get_client(sync_client=True) as client:
            for line in replaced(client, "retrain/retrain", [schedule], parameters):
                print(line, file=sys.stderr, flush=True)
        common: dict[str, Any] = {"parameters": parameters, "concurrency_limit": one_at_a_time}
        triggers: list[Any] = [alarm] if config.monitor.retrain else []
        deployment: Any = runner.add_flow(
            retrain, name="retrain", schedules=[schedule], triggers=triggers, **common
        )
        served = [deployment]
        if looking:
            served.append(runner.add_flow(monitor, name="monitor", schedules=[looking], **common))
        with get_client(sync_client=True) as client:
            free_slots(client, deployment)
            times = [time.astimezone(zone) for time in planned_runs(client, deployment, patience)]
            show(announce(times, f"{cron!r} ({timezone})", client))
        with suppress(KeyboardInterrupt, TerminationSignal):
            asyncio.run(_serve(runner, served))


def require_schedule(cron: str, timezone: str, where: str = "--cron") -> Schedule:
    """The schedule of a cron expression in a time zone; raises ConfigError where either is none."""
    try:
        ZoneInfo(timezone)
    except (ValueError, OSError, LookupError) as error:
        raise ConfigError(
            f"--timezone {timezone!r} is no time zone; write one as Europe/Berlin or UTC"
        ) from error
    try:
        return Cron(cron, timezone=timezone)
    except ValueError as error:
        raise ConfigError(f"{where} {cron!r} is no schedule; write one as '0 3 * * 0'") from error


async def _serve(runner: Runner, served: Sequence[UUID]) -> None:
    """Run what is due, and free slots that a run which never began has taken."""

    def free() -> None:
        with (
            suppress(Exception),
            get_client(sync_client=True) as client,
        ):  # the server may be away for a while
            for deployment in served:
                free_slots(client, deployment)

    async def watch() -> None:
        while True:
            await asyncio.sleep(STALE)
            await asyncio.to_thread(free)

    watching = asyncio.create_task(watch())
    try:
        await runner.start()
    finally:
        watching.cancel()


def free_slots(client: SyncPrefectClient, deployment: UUID, stale: float = STALE) -> list[str]:
    """End runs that have been pending for ``stale`` seconds: they hold the one slot, and no other runs.

    They were about to start when their process, or the server, was stopped. Says which on standard error.
    """
    of_it = DeploymentFilter.model_validate({"id": {"any_": [deployment]}})
    pending = FlowRunFilter.model_validate({"state": {"type": {"any_": ["PENDING", "CANCELLING"]}}})
    freed = []
    for run in client.read_flow_runs(deployment_filter=of_it, flow_run_filter=pending):
        since: Any = run.state and run.state.timestamp
        if since is not None and (datetime.now(since.tzinfo) - since).total_seconds() >= stale:
            why = f"it was {run.state_name} since {since:%Y-%m-%d %H:%M} UTC and never began"
            client.set_flow_run_state(run.id, Crashed(message=why), force=True)
            print(f"WARNING: run {run.name} was ended: {why}. Its slot is free.", file=sys.stderr, flush=True)
            freed.append(run.name)
    return freed


def replaced(
    client: SyncPrefectClient, name: str, schedules: Sequence[Schedule] | None, parameters: dict[str, Any]
) -> list[str]:
    """What of a deployment on the server, perhaps changed by hand there, this start sets anew, in words.

    ``schedules`` are None where those on the server stay.
    """
    try:
        found = client.read_deployment_by_name(name)
    except ObjectNotFound:
        return []
    told = []
    if schedules is not None:
        mine = [(one.cron, one.timezone) for one in schedules]
        other = [(s.schedule, s.active) for s in found.schedules]
        crons = [f"{getattr(s, 'cron', s)} ({getattr(s, 'timezone', None) or 'UTC'})" for s, _ in other]
        if [(getattr(s, "cron", None), getattr(s, "timezone", None)) for s, _ in other] != mine:
            told.append(f"the server's schedule, {', '.join(crons) or 'none'}, is replaced by this one")
        if found.paused or not all(active for _, active in other):
            told.append("the schedule was paused on the server, and runs again")
    if found.parameters != parameters:
        told.append("the parameters on the server differ, and are replaced by this config")
    return told


def planned_runs(client: SyncPrefectClient, deployment: UUID, patience: float) -> list[datetime]:
    """Times of a deployment's planned runs, earliest first; none if the server plans none in time."""
    deadline = time.monotonic() + patience
    of_it = DeploymentFilter.model_validate({"id": {"any_": [deployment]}})
    planned = FlowRunFilter.model_validate({"state": {"type": {"any_": ["SCHEDULED"]}}})
    while True:
        runs = client.read_flow_runs(deployment_filter=of_it, flow_run_filter=planned)
        times: list[datetime] = sorted(r.expected_start_time for r in runs if r.expected_start_time)
        if times or time.monotonic() > deadline:
            return times[:SHOWN]
        time.sleep(1)


def announce(times: list[datetime], schedule: str, client: SyncPrefectClient) -> Answer:
    """When the next runs are; that there are none is said on standard error."""
    if not times:
        print(
            f"WARNING: the Prefect server {client.api_url} (version {client.api_version()}) has planned NO "
            f"run of {schedule}. If its next time is not more than 100 days away, the server's scheduler "
            "does not work: look for errors in the server's log. retrain is being served all the same.",
            file=sys.stderr,
            flush=True,
        )
    shown = ", ".join(f"{moment:%a %Y-%m-%d %H:%M}" for moment in times)
    return Answer(
        {"schedule": schedule, "next_runs": times},
        [f"retrain is being served at {schedule}; next runs: {shown or 'none is planned'}"],
    )
