"""Retraining on a schedule, on a Prefect server."""

import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.exceptions import TerminationSignal
from prefect.runner import Runner
from prefect.schedules import Cron

from data.errors import ConfigError
from flows.config import Config
from flows.orchestration import prefect_server
from flows.output import Answer
from flows.retrain import retrain

SHOWN = 3  # planned runs that are told


def serve_schedule(
    config: Config, cron: str, timezone: str, show: Callable[[Answer], None], patience: float = 90.0
) -> None:
    """Serve ``retrain`` on a cron schedule, one run at a time; blocks.

    Shows the next times that the server has planned; where it plans none within ``patience`` seconds,
    says so on standard error.

    Raises
    ------
    ConfigError
        If ``cron`` or ``timezone`` (an IANA name) is none.
    OrchestrationError
        If no Prefect server is named, or it does not answer: schedules fire on a server alone.
    """
    try:
        zone = ZoneInfo(timezone)
    except (ValueError, OSError, LookupError) as error:
        raise ConfigError(
            f"--timezone {timezone!r} is no time zone; write one as Europe/Berlin or UTC"
        ) from error
    try:
        schedule = Cron(cron, timezone=timezone)
    except ValueError as error:
        raise ConfigError(f"--cron {cron!r} is no schedule; write one as '0 3 * * 0'") from error
    one_at_a_time = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    with prefect_server():
        runner = Runner(name="retrain")
        deployment: Any = runner.add_flow(
            retrain,
            name="retrain",
            schedules=[schedule],
            parameters={"config": config.model_dump(mode="json")},
            concurrency_limit=one_at_a_time,
        )
        with get_client(sync_client=True) as client:
            times = [time.astimezone(zone) for time in planned_runs(client, deployment, patience)]
            show(announce(times, f"{cron!r} ({timezone})", client))
        with suppress(KeyboardInterrupt, TerminationSignal):
            asyncio.run(runner.start())


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
