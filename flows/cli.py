"""The command ``optscale``. Heavy libraries are imported by the commands that need them."""

import json
import sys
import warnings
from enum import StrEnum
from importlib.metadata import version as version_of
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic_core import to_jsonable_python

from data.errors import ConfigError, OptScaleError
from flows.config import Config, enter_home, load_config

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", envvar="OPTSCALE_CONFIG", help="YAML config file.")
]
Set = Annotated[list[str] | None, typer.Option("--set", "-s", help="Override a setting: section.key=value.")]
PoolOption = Annotated[str | None, typer.Option("--pool", help="Pool location, a path or URI.")]


PredictorOption = Annotated[
    Path | None, typer.Option(help="Directory that `train --output` wrote; default: the population's prior.")
]


class Format(StrEnum):
    """Forms of scores that `import-pool` reads."""

    optscale = "optscale"
    scores = "scores"


class HowAggregated(StrEnum):
    """Names of `data.contract.Aggregation`, and ``given``."""

    mean = "mean"
    min = "min"
    last = "last"
    product = "product"
    given = "given"


def _load(file: Path | None, overrides: list[str] | None, pool: str | None = None) -> Config:
    """The config, before anything that keeps state is imported: libraries look for its place at import."""
    more = (f"pool={json.dumps(pool)}",) if pool else ()  # whatever it looks like, it is text
    config = load_config(file, (*(overrides or ()), *more))
    enter_home(config)
    return config


def _make_folder(folder: Path) -> None:
    """Before the computation whose result goes there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output: folder {folder} cannot be made: {error}") from error


def _run(flow: Any, *arguments: Any) -> Any:
    """Run a flow; a Prefect server that fails is one line."""
    from flows.orchestration import prefect_server

    with prefect_server():
        return flow(*arguments)


def _print(value: Any) -> None:
    """As JSON: records as objects, and what is no number (NaN) as null."""
    plain = to_jsonable_python(value, inf_nan_mode="null", fallback=lambda number: number.item())
    typer.echo(json.dumps(plain, indent=2, allow_nan=False))


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"optscale {version_of('optscale')}")
        raise typer.Exit


def _warn(line: str) -> None:
    if line:
        typer.secho(line, fg="yellow", err=True)


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Best-of-N that stops when it should: collect scores, train, validate, ship, serve."""


@app.command()
def run(config: ConfigFile = None, set_: Set = None) -> None:
    """The whole loop: seed the pool, collect fresh questions, train, validate, ship, ask.

    Example: optscale run -s home=/tmp/try
    """
    loaded = _load(config, set_)
    from flows.demo import run_demo

    _run(run_demo, loaded)


@app.command()
def collect(
    config: ConfigFile = None,
    set_: Set = None,
    pool: PoolOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what it would take.")] = False,
) -> None:
    """Sample and score candidates of new questions into the pool.

    Questions that the pool holds are skipped, so a run that was killed goes on where it was.

    Example: optscale collect -c config.yaml --dry-run
    """
    loaded = _load(config, set_, pool)
    from flows.collect import collect as flow
    from flows.collect import estimate

    _print(estimate(loaded) if dry_run else _run(flow, loaded)._asdict())


@app.command("import-pool")
def import_pool(
    input_: Annotated[
        Path, typer.Option("--input", help="JSON lines, a JSON list or Parquet; may be gzipped.")
    ],
    pool: Annotated[str, typer.Option(help="Pool to make or to add to, a path or URI.")],
    format_: Annotated[
        Format | None,
        typer.Option("--format", help="Records of candidates, or the paper's files; default: as it looks."),
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="Take only records with field=value, e.g. model=NAME.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="Questions of an optscale file, in its order.")] = None,
    generator: Annotated[
        str | None, typer.Option(help="Who answered; default: as the file says, or unknown.")
    ] = None,
    reward_model: Annotated[
        str | None, typer.Option(help="Who scored; default: as the file says, or unknown.")
    ] = None,
    aggregation: Annotated[
        HowAggregated, typer.Option(help="How step scores become scores; given: by another rule.")
    ] = HowAggregated.mean,
    scores_key: Annotated[
        str, typer.Option(help="Key of the scores, e.g. last_scores or step_scores.")
    ] = "scores",
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Make a pool of candidates that are on disk already, or add them to one.

    Scores, verdicts, answers, tokens and texts are taken where there are any. Questions that the pool holds
    are skipped, so an import that stopped goes on where it was.

    Example: optscale import-pool --input candidates.jsonl --pool my-pool --where model=mine
    """
    from data.importers import import_pool as import_
    from data.scored import ScoredFile

    file = ScoredFile(input_, scores_key, where or (), format_ and format_.value, prompts)
    done = import_(file, pool, generator, reward_model, aggregation.value)
    if as_json:
        _print(done)
        return
    for name, value in done.items():
        shown = ", ".join(f"{key} ({times})" for key, times in value.items()) if name == "not_read" else value
        typer.echo(f"{name.replace('_', ' ')}: {'none' if shown in (None, '') else shown}")


@app.command("import-log")
def import_log(
    log: Annotated[Path, typer.Option(help="Folder of the gateway's decision log.")],
    pool: Annotated[str, typer.Option(help="Pool to make or to add to, a path or URI.")],
    questions: Annotated[
        Path | None, typer.Option(help="JSON lines with the questions, for a log without text.")
    ] = None,
) -> None:
    """Add what the gateway drew to the full cap to a pool; what it stopped early is censored and left out.

    Example: optscale import-log --log decisions --pool my-pool
    """
    from data.decision_log import import_log as import_

    _print(import_(log, pool, questions))


@app.command()
def train(
    config: ConfigFile = None,
    set_: Set = None,
    pool: PoolOption = None,
    output: Annotated[
        Path | None, typer.Option(file_okay=False, help="Also write the predictor here.")
    ] = None,
) -> None:
    """Fit predictors on the pool and register the one that tune questions recommend as the challenger.

    Example: optscale train --pool my-pool --output predictor
    """
    loaded = _load(config, set_, pool)
    from flows.train import train as flow

    _print(_run(flow, loaded, output)._asdict())


@app.command()
def validate(
    config: ConfigFile = None,
    set_: Set = None,
    pool: PoolOption = None,
    output: Annotated[Path | None, typer.Option(file_okay=False, help="Where the report goes.")] = None,
    version: Annotated[
        str | None, typer.Option(help="Version of the model; default: the challenger.")
    ] = None,
) -> None:
    """Hold a version against test questions; exits with 1 where the gate refuses it.

    Example: optscale validate -c config.yaml --version 3
    """
    loaded = _load(config, set_, pool)
    from flows.validate import validate as flow

    if output:
        _make_folder(output)
    _print(_run(flow, loaded, output, version)._asdict())


@app.command()
def replay(
    config: ConfigFile = None,
    set_: Set = None,
    pool: PoolOption = None,
    policy: Annotated[
        list[Path] | None,
        typer.Option(exists=True, dir_okay=False, help="Policy as JSON, to show beside the others."),
    ] = None,
    predictor: PredictorOption = None,
    output: Annotated[
        Path | None, typer.Option(file_okay=False, help="Write report.html and its plot here.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """What policies would have drawn, hit and answered on the pool's test questions.

    Example: optscale replay --pool my-pool -s policy.target=0.95 --output report
    """
    loaded = _load(config, set_, pool)
    from flows import report
    from flows.demo import table, verdict_lines
    from flows.examine import examine
    from predictor.learned.unread import told
    from predictor.policies import load_policy

    shown = {p.stem: load_policy(p.read_bytes()) for p in policy or ()}
    if output:
        _make_folder(output)
    found_pool, found = examine(loaded, predictor, shown)
    if output:
        report.write(output, loaded, found_pool, found, {})
    if as_json:
        _print([row.flat() for row in found.rows])
    else:
        typer.echo("\n".join([*verdict_lines(loaded, found.certificate, found.rows, found.refuted), ""]))
        typer.echo("\n".join(table(found.rows)))
    _warn(told(found.left_out))


@app.command()
def certify(
    config: ConfigFile = None,
    set_: Set = None,
    pool: PoolOption = None,
    predictor: PredictorOption = None,
    output: Annotated[Path | None, typer.Option(dir_okay=False, help="Write the certificate here.")] = None,
) -> None:
    """The cheapest policy that keeps its promise on calibration questions, and the certificate as JSON.

    Example: optscale certify --pool my-pool -s policy.target=0.95 --output certificate.json
    """
    loaded = _load(config, set_, pool)
    from flows.examine import examine
    from predictor.learned.unread import told

    if output:
        _make_folder(output.parent)
    _, found = examine(loaded, predictor)
    document = found.certificate.model_dump_json(indent=1)
    if output:
        output.write_text(document + "\n")
    typer.echo(document)
    _warn(told(found.left_out))


@app.command()
def plan(
    questions: Annotated[Path, typer.Option(help="JSON lines with question or problem.")],
    config: ConfigFile = None,
    set_: Set = None,
    pool: PoolOption = None,
    predictor: PredictorOption = None,
    target: Annotated[
        list[float] | None, typer.Option(help="Target scores; default: around the policy's.")
    ] = None,
    confidence: Annotated[list[float] | None, typer.Option(help="Default: .8, .9 and .95.")] = None,
) -> None:
    """What a set of questions will cost, before anything is generated: means and 95 % ranges.

    Example: optscale plan --questions new.jsonl --pool my-pool
    """
    loaded = _load(config, set_, pool)
    from flows.plan import CONFIDENCES
    from flows.plan import plan as plan_

    _print(plan_(loaded, questions, predictor, target or (), confidence or CONFIDENCES))


@app.command()
def ship(
    config: ConfigFile = None,
    set_: Set = None,
    pool: PoolOption = None,
    version: Annotated[
        str | None,
        typer.Option(help="Version of the model, also one that was shipped before; default: the challenger."),
    ] = None,
) -> None:
    """Build the serving bundle of a validated version, start it, ask it, promote it.

    Example: optscale ship -c config.yaml --version 3
    """
    loaded = _load(config, set_, pool)
    from flows.ship import ship as flow

    _print(_run(flow, loaded, version, version is not None)._asdict())


@app.command()
def retrain(config: ConfigFile = None, set_: Set = None, pool: PoolOption = None) -> None:
    """Collect, train, validate and ship, in this order.

    Example: optscale retrain -c config.yaml
    """
    loaded = _load(config, set_, pool)
    from flows.retrain import retrain as flow

    _print({step: found._asdict() for step, found in _run(flow, loaded)._asdict().items()})


@app.command()
def schedule(
    cron: Annotated[str, typer.Option(help="When, e.g. '0 3 * * 0' for Sundays at three.")],
    timezone: Annotated[str, typer.Option(help="Time zone of --cron, e.g. Europe/Berlin.")] = "UTC",
    config: ConfigFile = None,
    set_: Set = None,
) -> None:
    """Serve `retrain` on a schedule against a Prefect server, one run at a time.

    Example: optscale schedule -c config.yaml --cron '0 3 * * 0' --timezone Europe/Berlin
    """
    loaded = _load(config, set_)
    from flows.schedule import serve_schedule

    serve_schedule(loaded, cron, timezone)


@app.command()
def serve(
    config: ConfigFile = None,
    set_: Set = None,
    with_models: Annotated[
        bool, typer.Option("--with-models", help="Also serve the config's models, for the gateway to ask.")
    ] = False,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
) -> None:
    """Serve the champion's bundle over HTTP until interrupted.

    Example: optscale serve --with-models
    """
    loaded = _load(config, set_)
    from flows.serve import serve_bundle

    serve_bundle(loaded, with_models, host)


@app.command()
def predict(
    questions: Annotated[Path, typer.Option(help="JSON lines with question or problem.")],
    predictor: Annotated[Path, typer.Option(help="Directory that `train --output` wrote.")],
) -> None:
    """Print mean, std and prior of each question, one JSON line each.

    Where training left one that was fitted on the whole pool, it answers: see `fit_all` in flows/train.py.

    Example: optscale predict --questions new.jsonl --predictor predictor
    """
    from data.questions import read_questions
    from predictor.learned.card import REFIT
    from predictor.learned.store import load_predictor

    _load(None, None)
    asked = read_questions(questions)
    whole = predictor / REFIT
    found = load_predictor(whole if whole.exists() else predictor).predict(asked)
    for question, prior in zip(asked, found, strict=True):
        mean, std = prior.moments()
        line = {"id": question.id, "mean": mean, "std": std, "prior": prior.model_dump(mode="json")}
        typer.echo(json.dumps(line))


@app.command()
def decide(
    scores: Annotated[str, typer.Argument(help="Scores so far as JSON.")] = "[]",
    policy: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Policy as JSON; default: the config's."),
    ] = None,
    prior: Annotated[
        str | None, typer.Option(help="The question's prior as JSON, as `predict` prints it.")
    ] = None,
    config: ConfigFile = None,
    set_: Set = None,
) -> None:
    """Decide for one question: sample m more, accept, or give up.

    Example, of a policy that needs no prior: optscale decide '[0.3, 0.4]' -s 'policy={kind: schedule}'
    """
    from pydantic import ValidationError

    from data.errors import ScoreError
    from data.validation import explain
    from predictor.decision import decide as decide_
    from predictor.policies import load_policy
    from predictor.prior import Prior

    loaded = load_config(config, tuple(set_ or ()))
    chosen = load_policy(policy.read_bytes()) if policy else loaded.policy
    try:
        values = json.loads(scores)
    except (ValueError, RecursionError) as error:
        raise ScoreError(f"scores are not JSON: {error}") from error
    try:
        believed = Prior.model_validate_json(prior) if prior else None
    except ValidationError as error:
        raise ConfigError(f"not a prior: {explain(error.errors(), Prior, 'prior')}") from error
    _print(decide_(chosen, values, believed).model_dump())


@app.command()
def grade(
    answer: Annotated[str | None, typer.Option(help="An answer, or a completion that ends with one.")] = None,
    reference: Annotated[str | None, typer.Option(help="The right answer.")] = None,
    input_: Annotated[
        Path | None, typer.Option("--input", help="Instead: lines with question, answer, completions.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """Show how answers are judged: what is extracted, the keys that are compared, whether they are equal.

    Example: optscale grade --answer 'So the answer is 50%.' --reference '50'
    """
    from data.answers import grade as grade_
    from data.grading import grade_file

    if input_ is None and answer is not None and reference is not None:
        found = iter([grade_(answer, reference, whole=True)._asdict()])
    elif input_ is not None and answer is reference is None:
        found = grade_file(input_)
    else:
        raise ConfigError("give --answer and --reference, or --input alone")
    for judged in found:
        lines = "\n".join(f"{name:<14} {value}" for name, value in judged.items())
        typer.echo(json.dumps(judged) if as_json else lines)


@app.command()
def relocate(config: ConfigFile = None, set_: Set = None) -> None:
    """Mend a state folder that was moved or copied: let its MLflow records name the place it is in now.

    Example: optscale relocate -s home=/new/place
    """
    from flows.relocate import relocate as relocate_

    _print(relocate_(_load(config, set_)))


@app.command("config")
def show_config(
    config: ConfigFile = None,
    set_: Set = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema.")] = False,
) -> None:
    """Print the composed config, or the schema that documents every setting.

    Example: optscale config -c config.yaml
    """
    if schema:
        _print(Config.model_json_schema())
    else:
        _print(load_config(config, tuple(set_ or ())).model_dump(mode="json"))


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
