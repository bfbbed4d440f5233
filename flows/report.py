"""The page that `validate` and `replay` write: one self-contained HTML file, its plots inside."""

import base64
import io
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from data.pool import Pool
from flows.config import Config
from flows.pages import render
from flows.verdict import verdict
from predictor.assessment import SHIPPED, VOTE_OF, Assessment
from predictor.certificate import describe
from predictor.comparison import Row
from predictor.contenders import FIXED, SCHEDULE
from predictor.design import REFERENCE
from predictor.forecast import forecast_of
from predictor.learned.unread import describe_left_out
from predictor.replay import Interval, bootstrap, pick, replay, round_ends

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
        figures = {"frontier": frontier(assessment), "effort": effort_by_difficulty(assessment)}
        if assessment.population is not None:
            figures["priors"] = priors_against_scores(assessment)
        if assessment.reliability:
            figures["reliability"] = reliability(assessment)
        figures["frontier"].savefig(folder / "frontier.png", dpi=130)
        plots = {name: _embed(figure) for name, figure in figures.items()}
    plt.close("all")
    level, certificate = config.gate.level(max(len(assessment.refuted), 1)), assessment.certificate
    page = render(
        "report.html.j2",
        plots=plots,
        config=config,
        manifest=pool.manifest,
        assessment=assessment,
        certificate=certificate,
        metrics=metrics,
        prior_value=prior_value,
        verdict=verdict(certificate, assessment.rows, assessment.refuted, level),
        level=level,
        left_out=describe_left_out(assessment.left_out),
        shipped=assessment.row(SHIPPED),
        full=assessment.row(REFERENCE),
        reference=describe(certificate.fallback),
        money=money(config, assessment),
        rows=shown_rows(assessment),
        forecasts=forecast_of(assessment.design, assessment.certificate.questions),
        examples=examples(assessment),
        groups=by_group(assessment),
    )
    (folder / "report.html").write_text(page, encoding="utf-8")


def shown_rows(assessment: Assessment) -> list[Row]:
    """Those of the report's table: the shipped policy's selection, and plain votes at equal tokens."""
    rows = [row for row in alike(assessment) if row.chosen or row.policy == FIXED or not row.setting]
    return [*rows, *(row for row in assessment.rows if VOTE_OF in row.policy and row not in rows)]


def alike(assessment: Assessment) -> list[Row]:
    """The rows with the shipped policy's selection."""
    selection = assessment.row(SHIPPED).selection
    return [row for row in assessment.rows if row.selection == selection]


def frontier(assessment: Assessment) -> Figure:
    """Right answers, or where no verdict is known unchanged ones, against generated tokens."""
    known = assessment.row(SHIPPED).accuracy is not None
    figure, axis = plt.subplots(figsize=(5.2, 4.6), layout="constrained")
    axis.set(xlabel="tokens a question", ylabel="right answers" if known else "answers as the full cap's")
    shown = [row for row in alike(assessment) if row.setting and not row.chosen]
    families = dict.fromkeys(row.policy for row in shown)
    for number, name in enumerate(families):
        rows = [row for row in shown if row.policy == name]
        points = sorted((r.tokens, 1 - r.changed if r.accuracy is None else r.accuracy) for r in rows)
        if name == FIXED:
            axis.plot(*zip(*points, strict=True), "o-", color=GREY, ms=4, label=name)
        else:
            style = {"ls": "" if name == SCHEDULE else "-", "marker": ".", "ms": 4, "lw": 0.8}
            axis.plot(*zip(*points, strict=True), **style, color=f"C{1 + number % 9}", label=name)
    us = assessment.row(SHIPPED)
    axis.plot(
        us.tokens,
        1 - us.changed if us.accuracy is None else us.accuracy,
        "*",
        ms=16,
        color=BLUE,
        label=SHIPPED,
    )
    axis.legend(fontsize=7, loc="lower right")
    return figure


def effort_by_difficulty(assessment: Assessment) -> Figure:
    """Tokens and what is lost, by fifths of how often a candidate is right, or of its mean score."""
    table, run = assessment.test.table, assessment.shipped
    known = ~np.isnan(table.correct).all(axis=1).any()
    ease = np.nanmean(table.correct if known else table.signal, axis=1)
    fifth, places = np.minimum((ease.argsort().argsort() * 5) // len(ease), 4), np.arange(5)
    figure, axes = plt.subplots(1, 2, figsize=(7, 3.2), layout="constrained")
    for axis, values, label in zip(
        axes,
        (run.tokens, run.loss),
        ("tokens a question", assessment.certificate.goal.loss.replace("_", " ")),
        strict=True,
    ):
        axis.bar(places, [np.nanmean(values[fifth == k]) for k in places], 0.6, color=BLUE)
        axis.set_xticks(places, ["hardest", "", "middle", "", "easiest"])
        axis.set_ylabel(label)
    return figure


def money(config: Config, assessment: Assessment) -> list[dict[str, Any]]:
    """What a thousand questions take before and after: millions of tokens, and money where prices are set."""
    table, prices = assessment.test.table, config.prices
    cap, shipped = assessment.certificate.cap, assessment.row(SHIPPED)
    candidates = table.candidates(cap)
    reward, prompt = float(candidates.reward_tokens.mean()), float(table.prompt_tokens.mean())
    rows = []
    for name, draws, tokens, rounds, read in (
        (describe(assessment.certificate.fallback), assessment.certificate.fallback.cap, None, 1.0, 0.0),
        (SHIPPED, shipped.draws, shipped.tokens, shipped.rounds, assessment.reading),
    ):
        generated = candidates.tokens[:, :draws].sum(axis=1).mean() if tokens is None else tokens
        used = {
            "generated": generated,
            "prompt": prompt * draws,
            "reward model": reward * draws,
            "predictor": read,
        }
        price = (
            prices.generator_per_million * generated
            + prices.prompt_per_million * prompt * draws
            + prices.reward_per_million * reward * draws
            + prices.predictor * read
        )
        cost = price / 1000 + 1000 * prices.per_round * rounds
        rows.append({"what": name, "cost": cost} | {key: value / 1000 for key, value in used.items()})
    return rows


def priors_against_scores(assessment: Assessment) -> Figure:
    """Mean and standard deviation of the scores: by the prior, and observed."""
    scores, priors = assessment.test.table.scores, assessment.test.require_priors()
    observed = (np.nanmean(scores, axis=1), np.nanstd(scores, axis=1, ddof=1))
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for axis, prior, seen, name, top in zip(
        axes,
        priors.moments,
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


def examples(assessment: Assessment) -> list[dict[str, Any]]:
    """Questions from easy to hard, their candidates in the order drawn, and the moment of each decision."""
    policy, test = assessment.policy, assessment.test
    candidates, signal = test.candidates(assessment.certificate.cap), test.table.signal
    order = np.nanmean(signal, axis=1).argsort()[::-1]
    chosen = order[np.linspace(0, len(order) - 1, min(EXAMPLES, len(order))).astype(int)]
    shown, priors = candidates.select(chosen), None if test.priors is None else test.priors[chosen]
    run = replay(policy, shown.scores, priors, shown.tokens, answers=shown.answers)
    right = pick(shown.correct, run.chosen)
    found = []
    for k, place in enumerate(chosen):
        one, prior = shown.select(np.array([k])), None if priors is None else priors[[k]]
        first = one.first(policy.cap)
        found.append(
            {
                "question": test.table.questions[place],
                "scores": signal[place, : candidates.scores.shape[1]].tolist(),
                "drawn": int(run.drawn[k]),
                "ends": round_ends(policy, first.scores, prior, first.tokens, first.answers),
                "chosen": int(run.chosen[k]),
                "right": None if np.isnan(right[k]) else bool(right[k]),
                "lost": bool(assessment.shipped.loss[place] > 0),
            }
        )
    return found


def by_group(assessment: Assessment) -> list[dict[str, Any]]:
    """Means of the shipped policy over each group of test questions, where there are several."""
    groups, run = assessment.test.table.groups, assessment.shipped
    rows = []
    for name in np.unique(groups):
        inside = groups == name
        lost = (
            Interval(np.nan, np.nan, np.nan)
            if np.isnan(run.loss[inside]).all()
            else bootstrap(run.loss[inside])
        )
        tokens, rounds = (float(values[inside].mean()) for values in (run.tokens, run.rounds))
        rows.append(
            {
                "group": name or "(none)",
                "questions": int(inside.sum()),
                "tokens": tokens,
                "rounds": rounds,
                "lost": lost,
            }
        )
    return rows if len(rows) > 1 else []


def _embed(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
