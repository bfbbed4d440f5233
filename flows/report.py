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
from predictor.baseline_comparison import SCHEDULE, SHIPPED, Row
from predictor.learned.unread import told as left_out
from predictor.replay import pick, replay, round_ends

EXAMPLES = 10
GREY, BLUE, ORANGE = "#9aa5b1", "#2563eb", "#ea7317"
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
    found: Assessment,
    metrics: dict[str, float],
    worth: str | None = None,
) -> None:
    """Write ``report.html`` and the plot ``frontier.png`` into ``folder``.

    ``worth`` says what the predictor's priors are worth in decisions.
    """
    with plt.rc_context(PLOT_STYLE):
        front = frontier(found)
        plots = {
            "frontier": front,
            "effort": effort_by_difficulty(config, found),
            "priors": priors_against_scores(found),
            "reliability": reliability(found) if found.reliability else None,
        }
        front.savefig(folder / "frontier.png", dpi=130)
        drawn = {name: None if figure is None else _embed(figure) for name, figure in plots.items()}
    plt.close("all")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": _number, "percent": _percent}
    page = environment.get_template("report.html.j2").render(
        plots=drawn,
        config=config,
        contract=pool.manifest.contract,
        digest=pool.manifest.digest,
        found=found,
        metrics=metrics,
        worth=worth,
        verdict=verdict(
            found.certificate, found.rows, found.refuted, config.gate.level(max(len(found.refuted), 1))
        ),
        left_out=left_out(found.left_out),
        rows={row["policy"]: row for row in found.rows},
        shipped=SHIPPED,
        schedule=SCHEDULE,
        full=f"fixed N = {config.policy.cap}",
        examples=examples(config, found),
        groups=by_group(found),
        planned_size=PLANNED,
        plan=plan_like_pool(config, found.train, found.population),
    )
    (folder / "report.html").write_text(page, encoding="utf-8")


def frontier(found: Assessment) -> Figure:
    """Hits and accuracy against generated tokens, and rounds against tokens, for every policy."""
    known = bool(np.isfinite(found.rows[0]["accuracy"]))
    keys = ["hits", "accuracy", "rounds"] if known else ["hits", "rounds"]
    figure, axes = plt.subplots(1, len(keys), figsize=(4.6 * len(keys), 4.3), layout="constrained")
    fixed = [r for r in found.rows if r["policy"].startswith("fixed") and "equal" not in r["policy"]]
    others = [r for r in found.rows if r not in fixed]
    for axis, key in zip(axes, keys, strict=True):
        if key != "rounds":
            axis.plot([r["generator tokens"] for r in fixed], [r[key] for r in fixed], "o-", color=GREY, ms=4)
        for r in fixed:
            place = (r["generator tokens"], r[key])
            label = r["policy"].removeprefix("fixed ")
            axis.annotate(label, place, (3, -10), textcoords="offset points", color=GREY, fontsize=7)
        for number, r in enumerate(others):
            star = r["policy"] == SHIPPED
            colour = BLUE if star else f"C{1 + number % 9}"
            marker = "*" if star else "Ds^vPX"[number % 6]
            axis.plot(
                r["generator tokens"], r[key], marker, ms=15 if star else 6, color=colour, label=r["policy"]
            )
            if star and key != "rounds":
                low, high = r[f"{key} low"], r[f"{key} high"]
                axis.plot([r["generator tokens"]] * 2, [low, high], color=BLUE, lw=1)
        axis.set_xlabel("generated tokens a question")
        axis.set_ylabel(key if key == "rounds" else f"{key} (share of test questions)")
    axes[-1].legend(fontsize=6.5, loc="best")
    return figure


def effort_by_difficulty(config: Config, found: Assessment) -> Figure:
    """Where the tokens went: candidates drawn and hits, by fifths of the questions' mean score."""
    mean = np.nanmean(found.test.table.scores, axis=1)
    fifth = np.minimum((mean.argsort().argsort() * 5) // len(mean), 4)
    shipped = found.outcomes[SHIPPED]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    places = np.arange(5)
    draws = [shipped.draws[fifth == k].mean() for k in places]
    axes[0].bar(places, [config.policy.cap] * 5, color=GREY, alpha=0.35, label="full cap")
    axes[0].bar(places, draws, color=BLUE, label="shipped policy")
    axes[0].set_ylabel("candidates a question")
    full = found.outcomes[f"fixed N = {config.policy.cap}"]
    for shift, outcome, colour in ((-0.2, full, GREY), (0.2, shipped, BLUE)):
        hits = [outcome.hit[fifth == k].mean() for k in places]
        axes[1].bar(places + shift, hits, 0.38, color=colour)
    axes[1].set_ylabel(f"hits (best score ≥ {config.policy.target:g})")
    for axis in axes:
        axis.set_xticks(places, ["hardest fifth", "", "middle", "", "easiest fifth"])
    axes[0].legend(fontsize=8)
    return figure


def priors_against_scores(found: Assessment) -> Figure:
    """What the priors said of mean and standard deviation, against what was observed."""
    seen = (np.nanmean(found.test.table.scores, axis=1), np.nanstd(found.test.table.scores, axis=1, ddof=1))
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for axis, told, observed, name in zip(
        axes, found.test.priors.moments, seen, ("mean", "standard deviation"), strict=True
    ):
        axis.scatter(told, observed, s=12, alpha=0.6, color=BLUE)
        top = 1.0 if name == "mean" else 0.5
        axis.plot([0, top], [0, top], color=GREY, lw=1)
        axis.set_xlabel(f"{name} of the scores: prior")
        axis.set_ylabel(f"{name} of the scores: observed")
    return figure


def reliability(found: Assessment) -> Figure:
    """How often the selected answer was right, against how often the model of it had said."""
    figure, axis = plt.subplots(figsize=(4.4, 3.8), layout="constrained")
    told = [r["predicted"] for r in found.reliability]
    axis.plot([0, 1], [0, 1], color=GREY, lw=1)
    axis.scatter(
        told,
        [r["observed"] for r in found.reliability],
        color=BLUE,
        s=[8 + r["number"] for r in found.reliability],
    )
    axis.set_xlabel("P(correct | selected maximum, n, prior)")
    axis.set_ylabel("share that was right")
    return figure


def examples(config: Config, found: Assessment) -> list[Row]:
    """Questions from easy to hard, their scores in the order drawn, and the moment of each decision."""
    shown = found.test.candidates(config.policy.cap)
    order = shown.scores.mean(axis=1).argsort()[::-1]
    chosen = order[np.linspace(0, len(order) - 1, min(EXAMPLES, len(order))).astype(int)]
    asked, believed = shown.select(chosen), found.test.priors[chosen]
    course = replay(found.policy, asked.scores, believed, asked.tokens)
    right = pick(asked.correct, course.chosen)
    return [
        {
            "question": found.test.table.questions[place].text,
            "group": found.test.table.questions[place].group or "",
            "scores": asked.scores[k].tolist(),
            "drawn": int(course.drawn[k]),
            "ends": round_ends(
                found.policy, asked.scores[[k], : found.policy.cap], believed[[k]], asked.tokens[[k]]
            ),
            "best": float(course.best[k]),
            "right": None if np.isnan(right[k]) else bool(right[k]),
            "lost": bool(asked.scores[k].max() >= config.policy.target > course.best[k]),
        }
        for k, place in enumerate(chosen)
    ]


def by_group(found: Assessment) -> list[Row]:
    """What the shipped policy did on each group of test questions."""
    shipped, groups = found.outcomes[SHIPPED], found.test.table.groups
    rows = []
    for name in np.unique(groups):
        inside = groups == name
        right = shipped.correct[inside]
        rows.append(
            {
                "group": name or "(none)",
                "questions": int(inside.sum()),
                "candidates": float(shipped.draws[inside].mean()),
                "hits": float(shipped.hit[inside].mean()),
                "lost hits": float(shipped.lost_hit[inside].mean()),
                "accuracy": float(np.nanmean(right)) if np.isfinite(right).any() else None,
            }
        )
    return rows if len(rows) > 1 else []


def _embed(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _number(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "–" if value is None or np.isnan(value) else f"{100 * value:.1f} %"
