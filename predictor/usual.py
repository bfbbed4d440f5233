"""What is watched of served requests, and what it was on the pool's held-out questions."""

import numpy as np
from pydantic import RootModel

from data.arrays import Array, IntArray
from data.candidates import Candidates
from data.score_map import ScoreMap
from predictor.certificate import Certificate
from predictor.goal import Judge, Loss
from predictor.measured import ORDERS
from predictor.policies import AnyPolicy
from predictor.replay import replay
from predictor.scored_questions import ScoredQuestions
from predictor.settings import Margins
from predictor.watch import Detector, Usual, Worse

USUAL = "usual.json"
"""File beside a bundle's card: what was usual."""
KNOTS = np.linspace(0, 1, 101)


WORSE: dict[str, Worse] = {
    **dict.fromkeys(("lost", "changed", "failures"), "higher"),
    **dict.fromkeys(("scores", "score_spread", "tokens", "length", "difficulty"), "either"),
    "hits": "lower",
}
"""On which side of its usual mean each statistic is watched; see `Margins`."""


class UsualStatistics(RootModel[dict[str, Usual]]):
    """What is in that file."""


def usual(questions: ScoredQuestions, policy: AnyPolicy, certificate: Certificate) -> dict[str, Usual]:
    """What each statistic was on calibration and test questions, as far as the pool tells.

    Parameters
    ----------
    questions : the pool's, with the priors that the policy will have.
    policy : what is served.
    """
    train, tune = questions.fold("train").table, questions.fold("tune")
    held = questions.full(certificate.cap).fold("calibration", "test")
    shown, table = held.candidates(certificate.cap), held.table
    raw: dict[str, tuple[Array, Array]] = {"length": (train.prompt_tokens, table.prompt_tokens)}
    if table.has_tokens:
        raw["tokens"] = np.where(train.status == "", np.nan, train.tokens), shown.tokens
    if table.has_scores:
        raw["scores"] = raw["score_spread"] = train.scores, shown.scores
    if tune.priors is not None and held.priors is not None:  # LoRA has learnt train questions by heart
        raw["difficulty"] = tune.priors.moments[0], held.priors.moments[0]
    found = {"failures": Usual.of((table.status[:, : certificate.cap] != "complete").mean(axis=1))}
    for name, (seen, values) in raw.items():
        if len(np.unique(seen[~np.isnan(seen)])) > 1:
            ranks = ScoreMap.fit(np.nanquantile(seen, KNOTS))
            found[name] = Usual.of(read(name, values, ranks).reshape(len(values), -1).mean(axis=1), ranks)
    hits, changed = np.zeros((2, ORDERS, len(table)))
    for order in range(ORDERS):
        mixed = shown.shuffled(order)
        ran = replay(policy, mixed.scores, held.priors, mixed.tokens, answers=mixed.answers)
        hits[order] = ran.best >= certificate.target
        changed[order] = loss_at(judge_of(certificate, "changed"), policy, mixed, ran.drawn)
    if table.has_scores:
        found["hits"] = Usual.of(hits.mean(axis=0))
    if not (shown.answers < 0).all():
        found["changed"] = Usual.of(changed.mean(axis=0))
    return found


def read(name: str, values: Array, ranks: ScoreMap | None) -> Array:
    """Values in [0, 1] of a statistic as they are watched."""
    if ranks is None:
        return values
    found = ranks.apply(values)
    return np.abs(2 * found - 1) if name == "score_spread" else found


def judge_of(certificate: Certificate, loss: Loss | None = None) -> Judge:
    """Counts losses as the certificate does, or another loss against the same reference."""
    reference, loss = certificate.fallback, loss or certificate.goal.loss
    return Judge(loss=loss, n=reference.cap, selection=reference.selection, target=certificate.target)


def loss_at(judge: Judge, policy: AnyPolicy, shown: Candidates, drawn: IntArray) -> Array:
    """(questions,) the reference's success less the policy's, which stopped after ``drawn`` candidates.

    NaN where no verdict is known.
    """
    right, reference = judge.judge(shown, policy.selection.count(shown.answers, shown.scores))
    found: Array = reference - right[np.arange(len(drawn)), drawn - 1]
    return found


def detectors(certificate: Certificate, before: dict[str, Usual], margins: Margins) -> dict[str, Detector]:
    """One for each statistic whose usual mean is known, and one of the promise."""
    found = {name: known.within(getattr(margins, name), WORSE[name]) for name, known in before.items()}
    if certificate.certified:
        risk = next(iter(certificate.epsilon.values()))
        found["lost"] = Detector(above=risk + margins.lost, below=None)
        if certificate.goal.loss == "changed":
            found.pop("changed", None)  # the promise is of it
    return found
