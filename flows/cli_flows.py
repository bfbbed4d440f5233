"""Commands that run flows, serve what they shipped, and show the config; each imports what it needs."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from data.errors import ConfigError
from flows.command import Json, Report, Version, command, make_folder, run_with_progress
from flows.config import Config, load_config
from flows.output import Answer, as_table, goals, print_answer

Uncertified = Annotated[
    bool,
    typer.Option(
        "--uncertified",
        help="Where nothing is certified, ship what kept the goal on train and tune questions.",
    ),
]
LOOP = ("collect", "train", "validate", "ship")
"""Stages of the whole loop."""


@command()
def run(config: Config) -> Answer:
    """The whole loop: seed the pool, collect fresh questions, train, validate, ship, ask.

    Example: optscale run -s home=/tmp/try
    """
    from flows.output import loop

    found = run_with_progress("demo:run_demo", config, stages=LOOP)
    return Answer(found, loop(config, found))


@command(pool=True)
def collect(
    config: Config,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what it would take.")] = False,
) -> Any:
    """Sample and score candidates of new questions into the pool.

    Questions that the pool holds are skipped, so a run that was killed goes on where it was.

    Example: optscale collect -c config.yaml --dry-run
    """
    if dry_run:
        from flows.collect import estimate
        from flows.examine import forecast_goals

        takes, promised = estimate(config), forecast_goals(config)
        return Answer(takes | {"goals": promised}, [as_table(takes), goals(promised)])
    return run_with_progress("collect:collect", config)


@command(pool=True)
def train(
    config: Config,
    output: Annotated[
        Path | None, typer.Option(file_okay=False, help="Also write the predictor here.")
    ] = None,
) -> Any:
    """Fit predictors on the pool and register the one that tune questions recommend as the challenger.

    Example: optscale train --pool my-pool --output predictor
    """
    return run_with_progress("train:train", config, output)


@command(pool=True)
def validate(config: Config, output: Report = None, version: Version = None) -> Answer:
    """Hold a version against test questions; exits with 1 where the gate refuses it.

    Example: optscale validate -c config.yaml --version 3
    """
    from flows.output import validated

    if output:
        make_folder(output)
    found = run_with_progress("validate:validate", config, output, version)
    report = (output or config.home.resolve() / "report") / "report.html"
    return Answer(found, validated(config, found, report))


@command(pool=True)
def ship(config: Config, version: Version = None, uncertified: Uncertified = False) -> Answer:
    """Build the serving bundle of a validated version, start it, ask it, promote it.

    Example: optscale ship -c config.yaml --version 3
    """
    from flows.output import shipped

    config = _ship_uncertified(config, uncertified)
    found = run_with_progress("ship:ship", config, version, version is not None)
    return Answer(found, shipped(found))


@command(pool=True)
def retrain(config: Config, uncertified: Uncertified = False) -> Answer:
    """Collect, train, validate and ship, in this order.

    Example: optscale retrain -c config.yaml
    """
    from flows.output import loop

    config = _ship_uncertified(config, uncertified)
    found = run_with_progress("retrain:retrain", config, stages=LOOP)
    return Answer(found, loop(config, found))


def _ship_uncertified(config: Config, uncertified: bool) -> Config:
    certify = config.certify.model_copy(update={"uncertified": config.certify.uncertified or uncertified})
    return config.model_copy(update={"certify": certify})


@command()
def init(
    output: Annotated[Path, typer.Option(dir_okay=False, help="Config file to write.")],
    generator: Annotated[str | None, typer.Option(help="URL of the server that answers.")] = None,
    model: Annotated[str | None, typer.Option(help="Its model, where it has several.")] = None,
    reward: Annotated[str | None, typer.Option(help="URL of a process reward model; default: none.")] = None,
    reward_model: Annotated[str | None, typer.Option(help="Its model, where it has several.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Its tokenizer, a hub id or a directory; default: the model's name.")
    ] = None,
) -> Any:
    """Try your servers and write a config for them; on a terminal it asks for what is missing.

    Example: optscale init --generator http://127.0.0.1:8000 --output config.yaml
    """
    from flows import init as module

    return module.init(output, generator, model, reward, reward_model, tokenizer)


@command(pool=True)
def pilot(
    config: Config,
    questions: Annotated[
        Path | None, typer.Option(help="Questions to sample from; default: look at the pool as it is.")
    ] = None,
    budget: Annotated[int | None, typer.Option(min=1, help="Generated tokens at most.")] = None,
) -> Answer:
    """Find out on some questions what adaptive N is worth for yours: one page, ending in go or no go.

    Example: optscale pilot -c config.yaml --questions questions.jsonl --budget 2000000
    """
    from flows import pilot as module

    if (questions is None) != (budget is None):
        raise ConfigError("give --questions and --budget together, or neither to look at a pool")
    if questions is not None and budget is not None:
        config = module.sample(config, questions, budget)
    found = module.look(config)
    return Answer(found, [module.page(found)])


@command()
def schedule(
    config: Config,
    cron: Annotated[str, typer.Option(help="When, e.g. '0 3 * * 0' for Sundays at three.")],
    timezone: Annotated[str, typer.Option(help="Time zone of --cron, e.g. Europe/Berlin.")] = "UTC",
    as_json: Json = False,
) -> None:
    """Serve `retrain` on a schedule against a Prefect server, one run at a time.

    Example: optscale schedule -c config.yaml --cron '0 3 * * 0' --timezone Europe/Berlin
    """
    from flows.schedule import serve_schedule

    serve_schedule(config, cron, timezone, lambda answer: print_answer(answer, as_json))


@command()
def deploy(
    config: Config,
    cron: Annotated[str, typer.Option(help="When to retrain, e.g. '0 3 * * 0'.")] = "0 3 * * 0",
    timezone: Annotated[str, typer.Option(help="Time zone of --cron, e.g. Europe/Berlin.")] = "UTC",
) -> Answer:
    """Deploy the flows to a Prefect server, for workers on the work pool `optscale` (prefect.yaml).

    Example: optscale deploy -c config.yaml --cron '0 3 * * 0' --timezone Europe/Berlin
    """
    from flows import deploy as module

    found = module.deploy(config, cron, timezone)
    return Answer(found, found)


@command()
def serve(
    config: Config,
    with_models: Annotated[
        bool, typer.Option("--with-models", help="Also serve the config's models, for the gateway to ask.")
    ] = False,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    certificate: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Serve the policy that `certify` wrote here."),
    ] = None,
    open_to_all: Annotated[
        bool, typer.Option("--open", help="Serve other machines without API keys: anybody there may ask.")
    ] = False,
    also: Annotated[
        list[Path] | None,
        typer.Option(exists=True, dir_okay=False, help="Config of another bundle to serve, by its model."),
    ] = None,
) -> None:
    """Serve the champion's bundle over HTTP until interrupted.

    Where nothing was shipped yet: the config's gateway, which draws the full cap.

    Example: optscale serve --with-models
    """
    from flows.serve import serve_bundle

    others = [load_config(file) for file in also or ()]
    serve_bundle(config, with_models, host, certificate, open_to_all, others)


@command("serve-models")
def serve_models(
    config: Config,
    output: Annotated[Path, typer.Option(dir_okay=False, help="File for gateway settings that fit.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
) -> None:
    """Serve the config's own generator and reward model over HTTP, as vLLM would, until interrupted.

    Example: optscale serve-models --output models.yaml
    """
    from flows import serve as module

    module.serve_models(config, port, output, host)


@command()
def relocate(config: Config) -> Any:
    """Mend a state folder that was moved or copied: let its MLflow records name the place it is in now.

    Example: optscale relocate -s home=/new/place
    """
    import flows.relocate

    return flows.relocate.relocate(config)


@command("config", state=False)
def show_config(
    config: Config,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema.")] = False,
) -> Answer:
    """Print the composed config, as it could be written in a file, or the schema of every setting.

    Example: optscale config -c config.yaml
    """
    import yaml

    if schema:
        found = Config.model_json_schema()
        return Answer(found, [json.dumps(found, indent=2)])
    found = config.model_dump(mode="json")
    return Answer(found, [yaml.safe_dump(found, sort_keys=False, allow_unicode=True)])
