"""Commands by which a person looks at the champion, and changes it by hand."""

from typing import Annotated, Any, Literal

import typer

from flows.command import command, run_with_progress
from flows.config import Config
from flows.output import Answer


@command()
def status(config: Config) -> Any:
    """Tell who is champion since when, what is promised of it, and what is held, waits or is switched.

    Example: optscale status -c config.yaml
    """
    from flows import champion

    return champion.status(config)


@command()
def monitor(
    config: Config,
    clear: Annotated[
        str | None, typer.Option(help="Take the alarms back, and why: all is watched as from the first day.")
    ] = None,
) -> Answer:
    """Hold what was served since the last look against what was promised and usual; tells alarms.

    Example: optscale monitor -c config.yaml
    """
    found = run_with_progress("monitor:monitor", config, clear)
    alarms = [f"ALARM since {a.since:%Y-%m-%d %H:%M} UTC: {a.says}" for a in found.standing]
    watched = (
        f"{found.requests} requests of version {found.version}, {found.explored} of them explored, watched "
    )
    return Answer(
        found, [*alarms, watched + f"for {', '.join(found.statistics)}" if found.version else "no champion"]
    )


@command()
def rollback(
    config: Config,
    to: Annotated[str | None, typer.Option(help="Version; default: the champion before this one.")] = None,
) -> Any:
    """Serve a former champion again, at once where gateways run.

    Example: optscale rollback --to 3
    """
    from flows import champion

    return champion.rollback(config, to)


@command()
def approve(config: Config) -> Any:
    """Let the version that passed the gate and waits be served (`serve.approval`).

    Example: optscale approve -c config.yaml
    """
    from flows import champion

    return champion.approve(config)


@command()
def hold(
    config: Config,
    why: Annotated[str, typer.Option(help="Told to whom it keeps from promoting.")] = "by hand",
) -> Any:
    """Hold promotions: retraining goes on, and the champion stays.

    Example: optscale hold --why 'new reward model on Monday'
    """
    from flows import champion

    return champion.hold(config, why)


@command()
def release(config: Config) -> Any:
    """Let what passes the gate be promoted again.

    Example: optscale release
    """
    from flows import champion

    return champion.release(config)


@command("full-cap")
def full_cap(
    config: Config, switch: Annotated[Literal["on", "off"], typer.Argument(help="on or off")]
) -> Any:
    """Have every gateway draw the reference at once, or follow its policy again.

    Example: optscale full-cap on
    """
    from flows import champion

    return champion.full_cap(config, switch == "on")


@command()
def clean(
    config: Config,
    keep: Annotated[int, typer.Option(min=0, help="Former champions whose bundles stay.")] = 3,
    hours: Annotated[float, typer.Option(min=0, help="Age from which other bundles go.")] = 24.0,
) -> Any:
    """Delete bundles that nobody goes back to, and what killed runs have left.

    Example: optscale clean --keep 3
    """
    from flows import clean as module

    return module.clean(config, keep, hours)
