"""The command ``optscale``. Heavy libraries are imported by the commands that need them."""

import sys
import warnings
from importlib.metadata import version as version_of
from io import TextIOWrapper
from typing import Annotated

import typer

from data.errors import OptScaleError
from flows import cli_audit, cli_champion, cli_flows, cli_offline, cli_pool  # noqa: F401  # their commands
from flows.command import app


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"optscale {version_of('optscale')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Best-of-N that stops when it should: collect scores, train, validate, ship, serve."""


def main() -> None:
    """Run the command line; the project's own errors are one line and exit status 1."""
    warnings.simplefilter("ignore", FutureWarning)  # of libraries, to each other
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a locale without ± or ≥ still gets the rest
    try:
        app()
    except OptScaleError as error:
        typer.secho(f"{type(error).__name__}: {error}", fg="red", err=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
