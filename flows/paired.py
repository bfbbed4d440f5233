"""The challenger beside the champion on what was served: both on the same candidates, all of the cap."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.arrays import Array
from data.decision_log import read_rows, written
from data.log_import import contract_of, fate
from flows.champion import manifest
from flows.config import Config
from flows.examine import PriorSource
from predictor.assessment import Assessment
from predictor.goal import Loss
from predictor.replay import Interval, bootstrap, replay
from predictor.usual import judge_of, loss_at
from serving.bundle import Bundle
from serving.champion import Champion

UNPAIRED = "the challenger was not held against the champion on what was served"


class Paired(NamedTuple):
    """In a sentence, and as metrics; none where nothing can be compared."""

    says: str
    metrics: dict[str, float]


def pair(config: Config, priors: PriorSource, assessment: Assessment) -> Paired:
    """What both spend and lose on requests that were explored since the champion was certified.

    Only on questions of the calibration and test folds, on which neither rules nor predictors were fitted,
    and which came into the pool from the log (`retrain` begins with that).

    Raises
    ------
    PoolError, BundleError
        If the log, or the champion's bundle where it is here, cannot be read.
    """
    champion = manifest(config).champion
    folder = None if config.gateway is None else config.gateway.log.location()
    if champion is None or folder is None or not any(folder.glob("*.parquet")):
        lacks = "champion" if champion is None else "decision log"
        return Paired(f"{UNPAIRED}: there is no {lacks}", {})
    if not Path(champion.bundle).is_dir():
        return Paired(f"{UNPAIRED}: its bundle {champion.bundle} is not here", {})
    policy, certificate = Bundle.open(champion.bundle).card.policy, assessment.certificate
    explored = {
        row["question_id"]: row
        for file in sorted(folder.glob("*.parquet"))
        for row in _explored(file, champion)
        if row["policy"] == policy.model_dump_json()
    }
    held = priors.questions.full(certificate.cap).fold("calibration", "test")
    shown = held.candidates(certificate.cap)
    rows = [
        place
        for place, question in enumerate(held.table.questions)
        if (row := explored.get(question.id))
        # Else the pool had the question before, with other candidates.
        and [c["tokens"] for c in row["candidates"][: certificate.cap]] == shown.tokens[place].tolist()
    ]
    if not rows:
        return Paired(
            f"{UNPAIRED}: no calibration or test question of the pool was explored since "
            f"{champion.certified or champion.since:%Y-%m-%d %H:%M} UTC",
            {},
        )
    shown, asked = shown.select(np.array(rows)), None if held.priors is None else held.priors[rows]
    drawn = {
        "champion": np.array([explored[held.table.questions[place].id]["seen"] for place in rows]),
        "challenger": replay(
            assessment.policy, shown.scores, asked, shown.tokens, answers=shown.answers
        ).drawn,
    }
    own = {"champion": policy, "challenger": assessment.policy}
    spent = {who: shown.tokens.cumsum(axis=1)[np.arange(len(rows)), drawn[who] - 1] for who in own}
    losses: tuple[Loss, ...] = tuple(dict.fromkeys(("changed", certificate.goal.loss)))
    found: dict[str, dict[str, Array]] = {"tokens": spent} | {
        loss: {who: loss_at(judge_of(certificate, loss), own[who], shown, drawn[who]) for who in own}
        for loss in losses
    }
    told, metrics = [], {"paired_questions": float(len(rows))}
    for name, of in found.items():
        less = bootstrap(of["challenger"] - of["champion"])
        if np.isnan(less.mean):
            continue
        metrics[f"paired_{name}"] = less.mean
        told.append(_say(name.replace("_", " "), of, less))
    says = (
        f"on {len(rows)} questions that were served and explored, challenger and champion: {'; '.join(told)}"
    )
    return Paired(says, metrics)


def _say(name: str, of: dict[str, Array], less: Interval) -> str:
    digits = 0 if name == "tokens" else 3
    mine, theirs = (f"{np.nanmean(of[who]):.{digits}f}" for who in ("challenger", "champion"))
    low, high = (f"{end:+.{digits}f}" for end in (less.low, less.high))
    return f"{name} {mine} and {theirs} (difference {low} to {high})"


def _explored(file: Path, champion: Champion) -> list[dict[str, Any]]:
    """Rows of one file that the champion drew to the full cap since its certificate was made."""
    since = champion.certified or champion.since
    if (written(file) or 0) < since.timestamp() * 1e9:
        return []
    return [
        row
        for row in read_rows(file)
        if row["model_version"] == champion.version
        and row["time"] >= since
        and fate(row) is None
        and contract_of(row, file.parent).fingerprint == champion.contract
    ]
