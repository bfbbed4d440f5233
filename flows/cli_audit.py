"""Commands that show and judge single decisions."""

from pathlib import Path
from typing import Annotated, Any

import typer

from data.errors import ConfigError
from flows.command import command
from flows.config import Config
from flows.output import Answer
from flows.pages import render


@command(pool=True, state=False)
def explain(
    config: Config,
    request_id: Annotated[
        str | None, typer.Argument(help="Request of a gateway, as its log names it.")
    ] = None,
    log: Annotated[Path | None, typer.Option(help="Folder of the gateway's decision log.")] = None,
    question: Annotated[str | None, typer.Option(help="Instead: id of a question of the pool.")] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Policy or certificate; default: the config's policy."
        ),
    ] = None,
    predictor: Annotated[
        Path | None, typer.Option(help="Bundle or predictor that the prior is of; default: the population's.")
    ] = None,
    questions: Annotated[
        Path | None, typer.Option(help="Questions with answers, to judge what a log delivered.")
    ] = None,
) -> Answer:
    """Tell why a question was decided as it was: every round's numbers, and what fixed N would have answered.

    Example: optscale explain req-1 --log .optscale/decisions
    """
    from flows import explain as module

    if request_id is not None and log is not None and question is None:
        found = module.explain_request(log, request_id, questions, predictor)
    elif question is not None and request_id is None and log is None:
        found = module.explain_question(config, question, policy, predictor)
    else:
        raise ConfigError("give a request's id and --log, or --question and --pool")
    return Answer(found, [render("explain.md.j2", **found)])


@command()
def review(
    log: Annotated[Path, typer.Option(help="Folder of the gateway's decision log.")],
    n: Annotated[int, typer.Option("--n", min=1, help="Decisions to judge.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    output: Annotated[
        Path | None, typer.Option(dir_okay=False, help="File to fill in, Markdown, or JSON where it ends so.")
    ] = None,
    read: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Instead: keep this file's verdicts.")
    ] = None,
    who: Annotated[str | None, typer.Option(help="Who judged; default: the user's name.")] = None,
) -> Any:
    """Lay early stops and give-ups before a person, and keep the verdicts beside the log.

    Example: optscale review --log .optscale/decisions --n 20 --output review.md
    """
    from flows import review as module

    if read is not None:
        return module.read(read, log, who)
    found = module.sample(log, n, seed)
    if output is None:
        return Answer(found, [render("review.md.j2", **found)])
    module.write(found, output)
    return {"items": len(found["items"]), "file": str(output), "not_stored": found["not_stored"]}
