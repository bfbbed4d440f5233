"""The page that `validate` and `replay` write: one self-contained HTML file, its plots inside."""

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from data.pool import Pool
from flows.config import Config
from flows.plan import plan_like_pool
from flows.verdict import verdict
from predictor.assessment import PLANNED, Assessment
from predictor.baseline_comparison import SCHEDULE, SHIPPED
from predictor.learned.unread import describe_left_out
from predictor.replay import Outcome, pick, replay, round_ends, summarise

EXAMPLES = 10
GREY, BLUE = "#9aa5b1", "#2563eb"
PLOT_STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "font.size": 9,
}


def write(
    folder: Path,
    config: Config,
    pool: Pool,
    assessment: Assessment,
    metrics: dict[str, float],
    prior_value: str | None = None,
) -> None:
    """Write ``report.html`` and the plot ``frontier.png`` into ``folder``.

    ``prior_value`` states the value of the predictor's priors in decisions.
    """
    with plt.rc_context(PLOT_STYLE):
        figures = {"frontier": frontier(assessment), "effort": effort_by_difficulty(config, assessment)}
        figures["priors"] = priors_against_scores(assessment)
        if assessment.reliability:
            figures["reliability"] = reliability(assessment)
        figures["frontier"].savefig(folder / "frontier.png", dpi=130)
        plots = {name: _embed(figure) for name, figure in figures.items()}
    plt.close("all")
    level = config.gate.level(max(len(assessment.refuted), 1))
    page = (
        environment()
        .get_template("report.html.j2")
        .render(
            plots=plots,
            config=config,
            manifest=pool.manifest,
            assessment=assessment,
            certificate=assessment.certificate,
            metrics=metrics,
            prior_value=prior_value,
            verdict=verdict(assessment.certificate, assessment.rows, assessment.refuted, level),
            level=level,
            left_out=describe_left_out(assessment.left_out),
            rows={row.policy: row for row in assessment.rows},
            shipped=SHIPPED,
            schedule=SCHEDULE,
            examples=examples(config, assessment),
            groups=by_group(assessment),
            planned_size=PLANNED,
            plan=plan_like_pool(config, assessment.train, assessment.population),
        )
    )
    (folder / "report.html").write_text(page, encoding="utf-8")


def environment() -> jinja2.Environment:
    """The templates of this folder; a name that is not there is an error."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    templates = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    templates.filters |= {"number": _number, "percent": _percent}
    return templates


def frontier(assessment: Assessment) -> Figure:
    """Hits, right answers and rounds against generated tokens, for every policy."""
    panels = {"hit": "hits (share of test questions)", "correct": "right answers", "rounds": "rounds"}
    if np.isnan(assessment.rows[0].means.correct.mean):
        del panels["correct"]
    figure, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 4.3), layout="constrained")
    for axis, (field, label) in zip(axes, panels.items(), strict=True):
        axis.set(xlabel="generated tokens a question", ylabel=label)
        fixed = []
        for number, row in enumerate(assessment.rows):
            tokens, value = row.means.tokens.mean, getattr(row.means, field)
            if row.policy.startswith("fixed") and "equal" not in row.policy:
                fixed.append((tokens, value.mean))
                name = row.policy.removeprefix("fixed ")
                axis.annotate(name, fixed[-1], (3, -10), textcoords="offset points", color=GREY, fontsize=7)
            elif row.policy == SHIPPED:
                axis.plot(tokens, value.mean, "*", ms=15, color=BLUE, label=row.policy)
                axis.plot([tokens] * 2, [value.low, value.high], color=BLUE, lw=1)
            else:
                style = {"marker": "Ds^vPX"[number % 6], "color": f"C{1 + number % 9}"}
                axis.plot(tokens, value.mean, ls="", label=row.policy, **style)
        axis.plot(*zip(*fixed, strict=True), "o-", color=GREY, ms=4)
    axes[-1].legend(fontsize=6.5, loc="best")
    return figure


def effort_by_difficulty(config: Config, assessment: Assessment) -> Figure:
    """Candidates drawn and hits, by fifths of the questions' mean score."""
    mean = np.nanmean(assessment.test.table.scores, axis=1)
    fifth, places = np.minimum((mean.argsort().argsort() * 5) // len(mean), 4), np.arange(5)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    policies = {f"fixed N = {config.policy.cap}": GREY, SHIPPED: BLUE}
    for axis, field in zip(axes, ("draws", "hit"), strict=True):
        for shift, (name, colour) in zip((-0.2, 0.2), policies.items(), strict=True):
            values = getattr(assessment.outcomes[name], field)
            axis.bar(
                places + shift, [values[fifth == k].mean() for k in places], 0.38, color=colour, label=name
            )
        axis.set_xticks(places, ["hardest fifth", "", "middle", "", "easiest fifth"])
    axes[0].set_ylabel("candidates a question")
    axes[1].set_ylabel(f"hits (best score ≥ {config.policy.target:g})")
    axes[0].legend(fontsize=8)
    return figure


def priors_against_scores(assessment: Assessment) -> Figure:
    """Mean and standard deviation of the scores: by the prior, and observed."""
    scores = assessment.test.table.scores
    observed = (np.nanmean(scores, axis=1), np.nanstd(scores, axis=1, ddof=1))
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for axis, prior, seen, name, top in zip(
        axes,
        assessment.test.priors.moments,
        observed,
        ("mean", "standard deviation"),
        (1.0, 0.5),
        strict=True,
    ):
        axis.scatter(prior, seen, s=12, alpha=0.6, color=BLUE)
        axis.plot([0, top], [0, top], color=GREY, lw=1)
        axis.set(xlabel=f"{name} of the scores: prior", ylabel=f"{name} of the scores: observed")
    return figure


def reliability(assessment: Assessment) -> Figure:
    """How often the selected answer was right, against the predicted chance."""
    figure, axis = plt.subplots(figsize=(4.4, 3.8), layout="constrained")
    predicted, observed, number = np.array(assessment.reliability).T
    axis.plot([0, 1], [0, 1], color=GREY, lw=1)
    axis.scatter(predicted, observed, color=BLUE, s=8 + number)
    axis.set(xlabel="P(correct | selected maximum, n, prior)", ylabel="share that was right")
    return figure


def examples(config: Config, assessment: Assessment) -> list[dict[str, Any]]:
    """Questions from easy to hard, their scores in the order drawn, and the moment of each decision."""
    policy, target = assessment.policy, config.policy.target
    candidates = assessment.test.candidates(config.policy.cap)
    order = candidates.scores.mean(axis=1).argsort()[::-1]
    chosen = order[np.linspace(0, len(order) - 1, min(EXAMPLES, len(order))).astype(int)]
    shown, priors = candidates.select(chosen), assessment.test.priors[chosen]
    run = replay(policy, shown.scores, priors, shown.tokens, answers=shown.answers)
    right = pick(shown.correct, run.chosen)
    return [
        {
            "question": assessment.test.table.questions[place],
            "scores": shown.scores[k].tolist(),
            "drawn": int(run.drawn[k]),
            "ends": round_ends(policy, shown.scores[[k], : policy.cap], priors[[k]], shown.tokens[[k]]),
            "best": float(run.best[k]),
            "right": None if np.isnan(right[k]) else bool(right[k]),
            "lost": bool(shown.scores[k].max() >= target > run.best[k]),
        }
        for k, place in enumerate(chosen)
    ]


def by_group(assessment: Assessment) -> list[dict[str, Any]]:
    """Means of the shipped policy over each group of test questions, where there are several."""
    outcome, groups = assessment.outcomes[SHIPPED], assessment.test.table.groups
    rows = []
    for name in np.unique(groups):
        inside = groups == name
        means = summarise(Outcome(*(values[inside] for values in outcome)))
        rows.append({"group": name or "(none)", "questions": int(inside.sum()), "means": means})
    return rows if len(rows) > 1 else []


def _embed(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _number(value: Any) -> str:
    if value is None or np.isnan(value):
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "–" if value is None or np.isnan(value) else f"{100 * value:.1f} %"
