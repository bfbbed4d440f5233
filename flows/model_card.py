"""The model card of a predictor, written from the run that made it or validated it."""

from collections.abc import Mapping
from importlib.metadata import version

import numpy as np

from data.pool import Manifest
from data.scores import ScoreTable
from flows.config import Config
from predictor.learned.card import PredictorCard
from predictor.learned.settings import KINDS

UNFAMILIAR = (
    "- A question unlike those it was fitted on gets a wider prior. How unlike, it learnt from groups of its "
    "own pool; a kind that is new in another way may be foretold with too much confidence."
)


def model_card(
    config: Config,
    card: PredictorCard,
    manifest: Manifest,
    table: ScoreTable,
    metrics: Mapping[str, tuple[float, float, float]] | None = None,
    value: str | None = None,
) -> str:
    """Markdown: what it is, what it was made of, how it did, where it ends.

    ``metrics`` are those of test questions with their 95 % intervals, ``value`` the account of its worth in
    decisions; both are known after validation.
    """
    contract, names = manifest.contract, ("train", "tune", "calibration", "test")
    folds = ", ".join(f"{name} {int(np.sum(table.folds == name))}" for name in names)
    settings, trained = card.settings, int(np.sum(table.folds == "train"))
    lines = [
        "---",
        "library_name: optscale",
        f"base_model: {settings.backbone}" if KINDS[card.kind].reads else "tags: [optscale]",
        "---",
        "# What scores will a question's answers get?",
        "",
        f"Reads a question and gives a prior on the law of its reward-model scores, made by OptScale "
        f"{version('optscale')}. Behind it: {KINDS[card.kind].description} (kind `{card.kind}`).",
        "",
        "## Data",
        "",
        f"Pool `{card.data_digest}`: {len(table)} questions, {int(table.drawn.sum())} candidates. Folds by "
        f"{config.folds.by}: {folds}. It was fitted on {card.questions} questions"
        + (" of the train fold." if card.questions <= trained else " of the train and tune folds."),
        "",
        f"Score contract `{contract.fingerprint}`: generator {contract.generator} "
        f"({contract.generator_revision}), reward model {contract.reward_model} "
        f"({contract.reward_revision}), {contract.aggregation} over steps. It says nothing of other scores.",
        "",
        "## How it was chosen",
        "",
        f"Every kind was fitted on train questions and held against tune questions (target score "
        f"{config.policy.target:g}, score family {settings.family}); the cheapest within one standard error "
        "of the best is recommended. Nats; ± is one standard error, paired by question.",
        "",
        "| kind | behind the best, evidence a question | behind the best, hit or miss a score |",
        "| --- | --- | --- |",
        *(
            f"| {r.kind}{' (this one)' if r.kind == card.kind else ''} "
            f"| {r.behind:.3f} ± {r.behind_error:.3f} "
            f"| {r.hit_behind:.4f} ± {r.hit_behind_error:.4f} |"
            for r in card.compared
        ),
    ]
    if metrics:
        lines += [
            "",
            "## On test questions",
            "",
            "| measure | value | 95 % interval |",
            "| --- | --- | --- |",
        ]
        lines += [f"| {n} | {m:.3f} | {low:.3f} to {high:.3f} |" for n, (m, low, high) in metrics.items()]
    if value:
        lines += ["", "## What it is worth in decisions", "", value]
    lines += [
        "",
        "## Limits",
        "",
        "- It speaks of one generator and one reward model; after a change of either, train again.",
        f"- Of a question of more than {settings.max_length} tokens it reads the beginning and the end.",
        *([] if card.kind == "population" else [UNFAMILIAR]),
        "- Intervals are over questions of one pool: they say nothing of questions from elsewhere.",
        "- A high score is not a right answer.",
    ]
    return "\n".join(lines) + "\n"
