"""The page that `validate` writes: tables in Markdown, two plots."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from data.pool import Pool
from data.scores import ScoreTable
from flows.config import Config
from predictor.prior import Prior

Row = dict[str, Any]


def write(
    folder: Path,
    config: Config,
    pool: Pool,
    table: ScoreTable,
    priors: list[Prior],
    metrics: dict[str, float],
    rows: list[Row],
    version: str,
) -> None:
    """Write ``report.md`` and its plots into ``folder``."""
    frontier(rows).savefig(folder / "frontier.png", dpi=130)
    priors_against_scores(table, priors).savefig(folder / "priors.png", dpi=130)
    plt.close("all")
    contract = pool.manifest.contract
    policy = config.policy.model_dump_json()
    unknown = int(np.isnan(table.correct).all(axis=1).sum())
    text = f"""# Validation of predictor version {version}

{len(table)} test questions, {int(table.drawn.sum())} candidates; data digest
`{pool.manifest.digest}`, score contract `{contract.fingerprint}`
({contract.generator}, {contract.reward_model}, {contract.aggregation} over steps).
Nothing on this page was fitted or chosen on these questions.

## Priors against the scores

The skill is 1 - MSE / MSE of the population's prior; above 0 the question's text told something.

{table_of([{"measure": k, "value": v} for k, v in metrics.items()])}

![priors](priors.png)

## Policies

Means a question, candidates taken in the order they were drawn. A hit is a best score of at least
{config.policy.target:g}. *Promised* is the confidence, *realised* the share of hits among the questions
whose target the policy called feasible, with the chance of so few hits if the promise held
(one-sided binomial). Questions without a known answer: {unknown}; they count as wrong.

{table_of(rows)}

![frontier](frontier.png)

Shipped policy: `{policy}`
"""
    (folder / "report.md").write_text(text)


def frontier(rows: list[Row]) -> Figure:
    """Hits and accuracy against generated tokens, for every policy."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    fixed = [r for r in rows if r["policy"].startswith("fixed")]
    others = [r for r in rows if not r["policy"].startswith("fixed")]
    for axis, key in zip(axes, ("hits", "accuracy"), strict=True):
        axis.plot([r["generator tokens"] for r in fixed], [r[key] for r in fixed], "o-", color="0.6")
        for row in fixed:
            place = (row["generator tokens"], row[key])
            label = row["policy"].removeprefix("fixed ")
            axis.annotate(label, place, (4, -11), textcoords="offset points", color="0.4", fontsize=8)
        for number, row in enumerate(others):
            marker = "*" if number == 0 else "Ds^v"[number % 4]
            size = 15 if number == 0 else 7
            axis.plot(row["generator tokens"], row[key], marker, ms=size, label=row["policy"])
        axis.set_xlabel("generated tokens a question")
        axis.set_ylabel(f"{key} (share of test questions)")
        axis.grid(alpha=0.25)
    axes[0].legend(fontsize=8, loc="lower right")
    return figure


def priors_against_scores(table: ScoreTable, priors: list[Prior]) -> Figure:
    """What the priors said of mean and standard deviation, against what was observed."""
    told = np.array([p.moments() for p in priors])
    seen = (np.nanmean(table.scores, axis=1), np.nanstd(table.scores, axis=1, ddof=1))
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
    for axis, place, name in zip(axes, (0, 1), ("mean", "standard deviation"), strict=True):
        axis.scatter(told[:, place], seen[place], s=14, alpha=0.7)
        top = 1.0 if place == 0 else 0.5
        axis.plot([0, top], [0, top], color="0.6", lw=1)
        axis.set_xlabel(f"{name} of the scores: prior")
        axis.set_ylabel(f"{name} of the scores: observed")
    return figure


def table_of(rows: list[Row]) -> str:
    """A Markdown table; the first row's keys are the heading."""
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(_cell(row[key]) for key in head) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)
