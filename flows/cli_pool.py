"""Commands on what a pool holds: imported, judged, forgotten."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from data.contract import Aggregation
from data.errors import ConfigError
from flows.command import command
from flows.config import Config


@command()
def import_pool(
    input_: Annotated[
        Path, typer.Option("--input", help="JSON lines, a JSON list or Parquet; may be gzipped.")
    ],
    pool: Annotated[str, typer.Option(help="Pool to make or to add to, a path or URI.")],
    format_: Annotated[
        Literal["optscale", "scores"] | None,
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
        Literal[Aggregation, "given"],
        typer.Option(help="How step scores become scores; given: by another rule."),
    ] = "mean",
    scores_key: Annotated[
        str, typer.Option(help="Key of the scores, e.g. last_scores or step_scores.")
    ] = "scores",
) -> Any:
    """Make a pool of candidates that are on disk already, or add them to one.

    Scores, verdicts, answers, tokens and texts are taken where there are any. Questions that the pool holds
    are skipped, so an import that stopped goes on where it was.

    Example: optscale import-pool --input candidates.jsonl --pool my-pool --where model=mine
    """
    from data import importers
    from data.scored import ScoredFile

    file = ScoredFile(input_, scores_key, where or (), format_, prompts)
    return importers.import_pool(file, pool, generator, reward_model, aggregation)


@command()
def grade(
    answer: Annotated[str | None, typer.Option(help="An answer, or a completion that ends with one.")] = None,
    reference: Annotated[str | None, typer.Option(help="The right answer.")] = None,
    input_: Annotated[
        Path | None, typer.Option("--input", help="Instead: lines with question, answer, completions.")
    ] = None,
) -> Any:
    """Show how answers are judged: what is extracted, the keys that are compared, whether they are equal.

    Example: optscale grade --answer 'So the answer is 50%.' --reference '50'
    """
    from data import answers, grading

    if input_ is None and answer is not None and reference is not None:
        return answers.grade(answer, reference, whole=True)._asdict()
    if input_ is not None and answer is reference is None:
        return list(grading.grade_file(input_))
    raise ConfigError("give --answer and --reference, or --input alone")


@command()
def import_log(
    log: Annotated[Path, typer.Option(help="Folder of the gateway's decision log.")],
    pool: Annotated[str, typer.Option(help="Pool to make or to add to, a path or URI.")],
    questions: Annotated[
        Path | None, typer.Option(help="JSON lines with the questions, for a log without text.")
    ] = None,
) -> Any:
    """Add what the gateway drew to the full cap to a pool; what it stopped early is censored and left out.

    Example: optscale import-log --log decisions --pool my-pool
    """
    from data import log_import
    from data.questions import read_questions

    texts = read_questions(questions) if questions else ()
    return log_import.import_log(log, pool, texts)


@command(pool=True)
def forget(
    config: Config,
    question: Annotated[list[str] | None, typer.Option(help="Id of a question; may be repeated.")] = None,
    before: Annotated[
        datetime | None, typer.Option(help="Everything drawn or logged before this day (UTC).")
    ] = None,
    grace: Annotated[
        float, typer.Option(min=0, help="Hours that the pool's old parts stay for who reads them.")
    ] = 0.0,
) -> Any:
    """Take questions, or all before a day, out of pool, decision log, feedback and caches.

    Example: optscale forget --before 2026-01-01 --pool my-pool
    """
    from flows import forget as module

    return module.forget(config, question or (), before and before.replace(tzinfo=UTC), grace)
