"""What all commands share: options, the config that they compose, how a flow is run and an answer printed."""

import inspect
import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from data.errors import ConfigError
from flows.config import Config, enter_home, load_config
from flows.output import print_answer

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)

ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", envvar="OPTSCALE_CONFIG", help="YAML config file.")
]
Set = Annotated[list[str] | None, typer.Option("--set", "-s", help="Override a setting: section.key=value.")]
PoolOption = Annotated[str | None, typer.Option("--pool", help="Pool location, a path or URI.")]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
JSON = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json)
PredictorOption = Annotated[
    Path | None, typer.Option(help="Directory that `train --output` wrote; default: the population's prior.")
]
Version = Annotated[
    str | None, typer.Option(help="Version of the model, also one of before; default: the challenger.")
]
Questions = Annotated[Path, typer.Option(help="JSON lines with question or problem.")]
Report = Annotated[Path | None, typer.Option(file_okay=False, help="Folder for the report.")]


def command(
    name: str | None = None, *, pool: bool = False, state: bool = True
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a command, with the options that are the same everywhere.

    Where its function takes ``config``, that is composed of ``--config``, ``--set`` and, if the command is
    about a ``pool``, ``--pool``; with ``state``, the state folder is made. Where it returns something, that
    is printed, with ``--json`` as JSON.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function)
        own, answers = dict(signature.parameters), signature.return_annotation is not None
        composing = dict(inspect.signature(_compose).parameters) if own.pop("config", None) else {}
        if not pool:
            composing.pop("pool", None)

        @wraps(function)
        def run(**given: Any) -> None:
            as_json = answers and given.pop("as_json")
            if composing:
                config = _compose(**{name: given.pop(name) for name in composing})
                if state:
                    enter_home(config)  # libraries look for their place when they are imported
                given["config"] = config
            answer = function(**given)
            if answers:
                print_answer(answer, as_json)

        options = [*own.values(), *composing.values(), *([JSON] if answers else [])]
        run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]  # typer reads these two
        run.__annotations__ = {option.name: option.annotation for option in options}
        app.command(name)(run)
        return function

    return register


def _compose(file: ConfigFile = None, overrides: Set = None, pool: PoolOption = None) -> Config:
    more = (f"pool={json.dumps(pool)}",) if pool else ()  # whatever it looks like, it is text
    return load_config(file, (*(overrides or ()), *more))


def run_with_progress(name: str, config: Config, *arguments: Any, stages: tuple[str, ...] = ()) -> Any:
    """Run a flow, ``module:function`` in ``flows``, and show how far it is."""
    from flows.orchestration import run_flow
    from flows.progress import shown

    short = name.partition(":")[0]
    with shown(config.home.resolve() / "logs", short, stages or (short,)):
        return run_flow(f"flows.{name}", config, *arguments)


def make_folder(folder: Path) -> None:
    """Before the computation whose result goes there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output: folder {folder} cannot be made: {error}") from error
