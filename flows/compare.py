"""The honest table of a pool: every selection with every stopping rule, on questions held out."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from data.candidates import Candidates
from data.contract import require_same_contract
from data.errors import ModelError, PoolError
from data.folds import FoldSettings
from data.pool import Pool
from data.scores import ScoreTable, load_scores
from predictor.comparison import PRODUCT, Row, compare
from predictor.policies import AnyPolicy
from predictor.prior import PriorBatch
from predictor.stopping import load_rule

if TYPE_CHECKING:  # a network is imported when one is named
    from predictor.learned.base import Predictor

FOLDS = 5
MOST = 32
"""Candidates a question, unless another cap is asked for."""
RULE = "public-1"


class Compared(NamedTuple):
    """The rows, and what they are of."""

    rows: list[Row]
    questions: int
    left_out: int
    """Questions with fewer candidates than the cap."""
    cap: int
    selection: str
    """The one that was most accurate at the cap on the questions that may be looked at."""
    tokens_known: bool


def compare_pools(
    pool: str,
    report_on: str | None = None,
    cap: int | None = None,
    rule: str = RULE,
    seed: int = 0,
    target: float | None = None,
    policies: Mapping[str, AnyPolicy] | None = None,
    predictor: Path | None = None,
    by_group: bool = False,
    folds: FoldSettings | None = None,
) -> Compared:
    """Compare on a pool, cross-fitted, or fit on it and measure on all of another.

    Parameters
    ----------
    cap : candidates a question; None takes what 95 % of the questions have, at most `MOST`.
    rule : a stopping rule that comes with the product, or its file.
    seed : of folds and orders.
    target : score that is a hit, for what the papers have.
    policies : to show beside, as they are.
    predictor : directory that `train` wrote; questions that it has read are left out.
    by_group : rows of each of the questions' groups, too.
    folds : by which the pool was collected: its train questions may have few candidates.

    Raises
    ------
    PoolError, ConfigError, ScoreError, ContractError, ModelError
        If a pool cannot be read, has too few questions, or neither answers nor scores; if there is no such
        rule; if the predictor cannot be loaded, or is of another contract.
    """
    known, folds = None if predictor is None else _Priors.load(predictor), folds or FoldSettings()
    score_map = known and known.predictor.card.score_map
    own = load_scores(Pool.open(pool), folds, score_map)
    other = None
    if report_on is not None:
        other = load_scores(Pool.open(report_on), folds, own.score_map)
    measured = own if other is None else other
    size = cap or measured.usual_cap(MOST)
    if known is not None:
        own, other = known.unread(own, pool), other and known.unread(other, report_on or pool)
    shown, seen = (own if other is None else other).full(size), own.full(size)
    candidates, learned = _require_answers(shown, size, pool), load_rule(rule)
    settings: dict[str, Any] = {"target": target, "shown_too": policies, "seed": seed}
    if by_group:
        settings["groups"] = shown.groups
    if known is not None:
        settings |= {"priors": known.of(shown), "fit_priors": None if other is None else known.of(seen)}
    if other is None:
        if len(shown) < 4 * FOLDS:
            raise PoolError(f"{len(shown)} questions with {size} candidates are too few to cross-fit on")
        sides = np.array([_side(question.id, seed) for question in shown.questions])
        found = compare(candidates, learned, folds=sides, **settings)
    else:
        found = compare(candidates, learned, fit=_require_answers(seen, size, pool), **settings)
    return Compared(
        found.rows, len(shown), len(measured) - len(shown), size, found.selection, measured.has_tokens
    )


class _Priors(NamedTuple):
    """A predictor's priors of the questions that it has not read."""

    predictor: "Predictor"

    @classmethod
    def load(cls, folder: Path) -> Self:
        from predictor.learned.store import load_predictor

        return cls(load_predictor(folder))

    def unread(self, table: ScoreTable, pool: str) -> ScoreTable:
        contract = Pool.open(pool).manifest.contract.fingerprint
        require_same_contract(self.predictor.card.contract, contract, f"pool {pool}")
        read = set(self.predictor.card.read)
        left = table.select(np.array([question.id not in read for question in table.questions]))
        if not len(left):
            raise ModelError(f"the predictor has read every question of pool {pool}: measure on other ones")
        return left

    def of(self, table: ScoreTable) -> PriorBatch:
        return PriorBatch.of(self.predictor.predict(table.questions))


def _require_answers(table: ScoreTable, cap: int, pool: str) -> Candidates:
    candidates = table.candidates(cap)
    if not table.has_scores and (candidates.answers < 0).all():
        raise PoolError(
            f"pool {pool} has neither scores nor answers: there is nothing to select a candidate by"
        )
    return candidates


def _side(question_id: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{question_id}".encode()).digest()[:8]) % FOLDS


def summarise(compared: Compared) -> list[str]:
    """The verdict, in three sentences."""
    all_rows = [row for row in compared.rows if row.group is None]
    rows = [row for row in all_rows if row.selection == compared.selection]
    singles = next(row for row in rows if row.policy == "fixed N" and row.setting == "1")
    fulls = [row for row in all_rows if row.policy == "fixed N" and row.setting == str(compared.cap)]
    unit = "tokens" if compared.tokens_known else "candidates"
    lines = [f"{compared.questions} questions with {compared.cap} candidates each."]
    if singles.accuracy is None:
        return [*lines, "No verdict is known: nothing is said of accuracy, only of how often answers change."]
    by_selection = ", ".join(f"{row.selection.replace('_', ' ')} {row.accuracy:.3f}" for row in fulls)
    lines.append(
        f"One candidate is right on {singles.accuracy:.3f} of them; all {compared.cap}: {by_selection}."
    )
    product = next(row for row in rows if row.policy == PRODUCT)
    full = next(row for row in fulls if row.selection == compared.selection)
    chosen, share = compared.selection.replace("_", " "), product.tokens / full.tokens
    lines.append(
        f"With {chosen} the product spends {share:.0%} of the full cap's {unit} in {product.rounds:.1f} "
        f"rounds and is right on {product.accuracy:.3f}: {_gain(product, unit)}."
    )
    return lines


def _gain(row: Row, unit: str) -> str:
    if row.gain is None:
        return "no fixed N or schedule is as accurate"
    interval = f"{row.gain.tokens:.0%} of the {unit} (95 %: {row.gain.low:.0%} to {row.gain.high:.0%})"
    if row.gain.low > 0:
        return f"it saves {interval} of the best fixed N and schedule at equal accuracy"
    return f"no saving is shown over the best fixed N and schedule at equal accuracy: {interval}"
