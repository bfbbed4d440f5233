"""The model card of a predictor, written from the run that made it or validated it."""

from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from typing import get_args

from data.folds import Fold
from data.pool import Manifest
from data.scores import ScoreTable
from flows.config import Config
from flows.pages import render
from predictor.learned.card import PredictorCard
from predictor.learned.settings import KINDS


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
    counts = Counter(table.folds.tolist())
    return render(
        "model-card.md.j2",
        config=config,
        card=card,
        settings=card.settings,
        kind=KINDS[card.kind],
        contract=manifest.contract,
        table=table,
        folds={name: counts[name] for name in get_args(Fold)},
        metrics=metrics,
        value=value,
        release=version("optscale"),
    )
