"""Retraining on a schedule, on a Prefect server."""

import sys
import time
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID
from zoneinfo import ZoneInfo

from data.errors import ConfigError
from flows.config import Config
from flows.orchestration import prefect_server
from flows.retrain import retrain

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

SHOWN = 3  # planned runs that are printed


def serve_schedule(config: Config, cron: str, timezone: str = "UTC", patience: float = 90.0) -> None:
    """Serve ``retrain`` on a cron schedule, one run at a time; blocks.

    Prints the next times that the server has planned; where it plans none within ``patience`` seconds,
    says so on standard error.

    Raises
    ------
    ConfigError
        If ``cron`` or ``timezone`` (an IANA name) is none.
    OrchestrationError
        If no Prefect server is named, or it does not answer: schedules fire on a server alone.
    """
    import asyncio

    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.exceptions import TerminationSignal
    from prefect.runner import Runner
    from prefect.schedules import Cron

    try:
        ZoneInfo(timezone)
    except (ValueError, OSError, LookupError) as error:
        raise ConfigError(
            f"--timezone {timezone!r} is no time zone; write one as Europe/Berlin or UTC"
        ) from error
    try:
        schedule = Cron(cron, timezone=timezone)
    except ValueError as error:
        raise ConfigError(f"--cron {cron!r} is no schedule; write one as '0 3 * * 0'") from error
    one_at_a_time = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    with prefect_server(required=True):
        runner = Runner(name="retrain")
        deployment: Any = runner.add_flow(
            retrain,
            name="retrain",
            schedules=[schedule],
            parameters={"config": config.model_dump(mode="json")},
            concurrency_limit=one_at_a_time,
        )
        with get_client(sync_client=True) as client:
            announce(planned_runs(client, deployment, patience), cron, timezone, client)
        with suppress(KeyboardInterrupt, TerminationSignal):
            asyncio.run(runner.start())


def planned_runs(client: "SyncPrefectClient", deployment: UUID, patience: float) -> list[datetime]:
    """Times of a deployment's planned runs, earliest first; none if the server plans none in time."""
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterId,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort

    deadline = time.monotonic() + patience
    while True:
        found = client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment])),
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
            ),
            sort=FlowRunSort.EXPECTED_START_TIME_ASC,
            limit=SHOWN,
        )
        times: list[datetime] = [
            run.expected_start_time for run in found if run.expected_start_time is not None
        ]
        if times or time.monotonic() > deadline:
            return times
        time.sleep(1)


def announce(times: list[datetime], cron: str, timezone: str, client: "SyncPrefectClient") -> None:
    """Print when the next runs are; on standard error that there are none."""
    if times:
        zone = ZoneInfo(timezone)
        shown = ", ".join(f"{moment.astimezone(zone):%a %Y-%m-%d %H:%M}" for moment in times)
        print(f"retrain is being served; next runs ({timezone}): {shown}", flush=True)
        return
    print(
        f"WARNING: the Prefect server {client.api_url} (version {client.api_version()}) has planned NO run "
        f"of {cron!r} ({timezone}). If its next time is not more than 100 days away, the server's scheduler "
        "does not work: look for errors in the server's log. retrain is being served all the same.",
        file=sys.stderr,
        flush=True,
    )
