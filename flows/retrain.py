"""Retrain: collect, train, validate, ship, in that order; and its schedule."""

import os

from prefect import flow

from flows.collect import collect
from flows.config import Config
from flows.ship import Shipped, ship
from flows.train import train
from flows.validate import validate
from predictor.errors import ConfigError


@flow(name="retrain")
def retrain(config: Config) -> Shipped:
    """The whole loop; a challenger that misses the gate ends it, and the champion stays."""
    collect(config)
    train(config)
    validate(config)
    return ship(config)


def serve_schedule(config: Config, cron: str) -> None:
    """Serve ``retrain`` on a cron schedule, one run at a time; blocks.

    Raises
    ------
    ConfigError
        If ``cron`` is none, or no Prefect server is named or it does not answer: schedules fire on a
        server alone.
    """
    import httpx
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.client.schemas.schedules import CronSchedule

    try:
        CronSchedule(cron=cron)
    except ValueError as error:
        raise ConfigError(f"--cron {cron!r} is no schedule; write one as '0 3 * * 0'") from error
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        raise ConfigError(
            "schedules need a Prefect server: start one (prefect server start) and set "
            "PREFECT_API_URL=http://HOST:4200/api"
        )
    try:
        httpx.get(f"{url.rstrip('/')}/health", timeout=10).raise_for_status()
    except httpx.HTTPError as error:
        raise ConfigError(f"no Prefect server answers at PREFECT_API_URL={url}: {error}") from error
    one_at_a_time = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    retrain.serve(
        name="retrain",
        cron=cron,
        parameters={"config": config.model_dump(mode="json")},
        global_limit=one_at_a_time,
    )
