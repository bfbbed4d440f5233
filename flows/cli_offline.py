"""Commands on scores that are on disk: no flow, no server, no record of a run."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from data.errors import ConfigError, ScoreError
from flows.command import PredictorOption, Questions, Report, command, make_folder
from flows.config import Config
from flows.output import PLAN_COLUMNS, Answer, compared, goals, policies, table


@command(pool=True)
def replay(
    config: Config,
    policy: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True, dir_okay=False, help="Policy or certificate as JSON, to show beside the others."
        ),
    ] = None,
    predictor: PredictorOption = None,
    output: Report = None,
) -> Answer:
    """What policies would have drawn, hit and answered on the pool's test questions.

    Example: optscale replay --pool my-pool -s goal.change=0.1 --output report
    """
    from flows import report
    from flows.examine import examine, read_policies
    from predictor.learned.unread import describe_left_out

    beside = read_policies(policy or ())
    if output:
        make_folder(output)
    pool, found = examine(config, predictor, beside)
    if output:
        report.write(output, config, pool, found, {})
    _warn(describe_left_out(found.left_out))
    return Answer(found.rows, policies(config, found.certificate, found.rows, found.refuted))


@command(pool=True)
def certify(
    config: Config,
    predictor: PredictorOption = None,
    output: Annotated[Path | None, typer.Option(dir_okay=False, help="Write the certificate here.")] = None,
) -> Answer:
    """The cheapest policy that keeps its promise on calibration questions, and its certificate.

    Example: optscale certify --pool my-pool -s goal.lose=0.05 --output certificate.json
    """
    from flows.examine import examine
    from predictor.learned.unread import describe_left_out

    if output:
        make_folder(output.parent)
    _, found = examine(config, predictor)
    if output:
        output.write_text(found.certificate.model_dump_json(indent=1) + "\n")
    _warn(describe_left_out(found.left_out))
    return Answer(found.certificate, policies(config, found.certificate, found.rows, found.refuted))


@command(pool=True)
def plan(
    config: Config,
    questions: Annotated[
        Path | None, typer.Option(help="JSON lines with question or problem; default: tell of goals instead.")
    ] = None,
    predictor: PredictorOption = None,
    target: Annotated[
        list[float] | None, typer.Option(help="Target scores; default: around the policy's.")
    ] = None,
    confidence: Annotated[list[float] | None, typer.Option(help="Default: .8, .9 and .95.")] = None,
) -> Answer:
    """What a set of questions will cost, before anything is generated: means and 95 % ranges.

    Without questions: for several goals, how many calibration questions they need and what they would save.

    Example: optscale plan --questions new.jsonl --pool my-pool
    """
    import flows.plan

    if questions is None:
        from flows.examine import forecast_goals

        promised = forecast_goals(config)
        return Answer(promised, [goals(promised)])

    given = confidence or flows.plan.CONFIDENCES
    rows = flows.plan.plan(config, questions, predictor, target or (), given)
    priced = [key for key in rows[0] if key == "GPU hours" or key.startswith("cost")]
    known = {key: key for key in priced if any(row[key] and row[key]["mean"] for row in rows)}
    return Answer(rows, [table(rows, PLAN_COLUMNS | known)])


@command()
def predict(
    config: Config,
    questions: Questions,
    predictor: Annotated[Path, typer.Option(help="Directory that `train --output` wrote.")],
) -> Answer:
    """Mean and standard deviation of each question's scores, and with --json its prior.

    Where training left one that was fitted on the whole pool, it answers (`refit/` of the directory).

    Example: optscale predict --questions new.jsonl --predictor predictor
    """
    from data.questions import read_questions
    from predictor.learned.card import REFIT
    from predictor.learned.store import load_predictor

    asked = read_questions(questions)
    whole = predictor / REFIT
    priors = load_predictor(whole if whole.exists() else predictor).predict(asked)
    rows = []
    for question, prior in zip(asked, priors, strict=True):
        mean, std = prior.moments()
        rows.append({"id": question.id, "question": question.text, "mean": mean, "std": std, "prior": prior})
    return Answer(rows, [table(rows, {"question": "question", "mean": "mean", "std": "std"})])


@command(state=False)
def decide(
    config: Config,
    scores: Annotated[str, typer.Argument(help="Scores so far as JSON.")] = "[]",
    policy: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Policy as JSON; default: the config's."),
    ] = None,
    prior: Annotated[
        str | None, typer.Option(help="The question's prior as JSON, as `predict --json` prints it.")
    ] = None,
) -> Any:
    """Decide for one question: sample m more, accept, or give up.

    Example, of a policy that needs no prior: optscale decide '[0.3, 0.4]' -s 'policy={kind: schedule}'
    """
    from pydantic import ValidationError

    import predictor.decision
    from data.validation import explain
    from predictor.policies import load_policy
    from predictor.prior import Prior

    chosen = load_policy(policy.read_bytes()) if policy else config.policy
    try:
        values = json.loads(scores)
    except (ValueError, RecursionError) as error:
        raise ScoreError(f"scores are not JSON: {error}") from error
    try:
        known = Prior.model_validate_json(prior) if prior else None
    except ValidationError as error:
        raise ConfigError(f"not a prior: {explain(error.errors(), Prior, 'prior')}") from error
    return predictor.decision.decide(chosen, values, known).model_dump()


def _warn(line: str) -> None:
    if line:
        typer.secho(line, fg="yellow", err=True)


@command(state=False)
def compare(
    config: Config,
    pool: Annotated[str, typer.Option(help="Pool to fit and choose on, a path or URI.")],
    report_on: Annotated[
        str | None, typer.Option(help="Pool to measure on; default: the same, what is fitted kept apart.")
    ] = None,
    cap: Annotated[
        int | None, typer.Option(min=2, help="Candidates a question; default: what 95 % have, at most 32.")
    ] = None,
    rule: Annotated[
        str, typer.Option(help="Stopping rule that comes with the product, or its file.")
    ] = "public-1",
    seed: Annotated[int, typer.Option(min=0, help="Of folds and orders.")] = 0,
    target: Annotated[
        float | None, typer.Option(help="Target score: adds OptScale, BEACON and stop on hit.")
    ] = None,
    policy: Annotated[
        list[Path] | None,
        typer.Option(exists=True, dir_okay=False, help="Policy or certificate as JSON, to show beside."),
    ] = None,
    predictor: Annotated[
        Path | None, typer.Option(help="Directory that `train --output` wrote: adds what reads its priors.")
    ] = None,
    by_group: Annotated[bool, typer.Option(help="Also of each group of questions alone.")] = False,
) -> Answer:
    """Lay out the honest table of a pool: every selection with every stopping rule, on held-out questions.

    Example: optscale compare --pool my-pool
    """
    from flows import compare as module
    from flows.examine import read_policies

    beside = read_policies(policy or ())
    found = module.compare_pools(
        pool, report_on, cap, rule, seed, target, beside, predictor, by_group, config.folds
    )
    return Answer(found.rows, [*module.summarise(found), *compared(found.rows)])


@command()
def learn_rule(
    pools: Annotated[Path, typer.Argument(help="List of pools, as predictor/rules/public-1.yaml.")],
    output: Annotated[Path, typer.Option(help="Where the rule is written, as JSON.")],
    leave_out: Annotated[
        list[str] | None, typer.Option(help="Family of pools to leave out, to measure the rule on.")
    ] = None,
) -> Any:
    """Learn a stopping rule from pools of several families of questions.

    Example: optscale learn-rule pools.yaml --output rule.json --leave-out GSM8K
    """
    from flows import learn_rule as module

    rule = module.learn_rule(pools, leave_out or ())
    output.write_text(rule.model_dump_json() + "\n")
    return {
        "rule": rule.name,
        "pools": len(rule.sources),
        "trees": len(rule.trees.feature),
        "file": str(output),
    }
