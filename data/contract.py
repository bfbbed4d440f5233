"""The score contract: everything that gives a score its meaning.

Scores of two contracts are never mixed: a threshold learnt under one says nothing under another.
"""

import json
from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from data.errors import ContractError, ScoreError
from data.files import short_digest
from data.record import Record

Aggregation = Literal["mean", "min", "last", "product"]
Rule = Aggregation | Literal["given"]
Span = Literal["all", "answer", "reasoning"]
Scale = Literal["unit", "raw"]
_RULES: dict[str, Callable[[np.ndarray], float]] = {
    "mean": np.mean,
    "min": np.min,
    "last": lambda steps: steps[-1],
    "product": np.prod,
}

UNSCORED: dict[str, Any] = {
    **{"reward_model": None, "reward_revision": "none", "markup": "none", "span": "all"},
    **{"aggregation": "given", "decimals": 4, "scale": "unit"},
}
"""What a contract says of scores where nothing scores the candidates."""


class Sampling(Record):
    """How the generator samples a candidate."""

    temperature: float = Field(0.7, ge=0, le=2)
    """Softmax temperature; 0 gives one and the same candidate every time."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Share of the probability mass that is sampled from."""
    max_tokens: int = Field(2048, ge=1)
    """Tokens after which a candidate is cut."""
    stop: tuple[str, ...] = ()
    """Strings that end a candidate, besides the end token."""


class ScoreContract(Record):
    """Who answers, who scores, and how step scores become one score."""

    generator: str
    """Name of the model that answers."""
    generator_revision: str
    """Digest or revision of its weights."""
    prompt_template: str
    """Digest of the chat template, or the server's name for it."""
    sampling: Sampling
    reward_model: str | None
    """Name of the process reward model; None where nothing scores the candidates."""
    reward_revision: str
    """Digest or revision of its weights."""
    markup: str
    """Convention by which steps are split and marked, e.g. ``lines`` or ``qwen``."""
    span: Span = "all"
    """Which part of a completion is scored: after ``</think>``, before it, or both."""
    aggregation: Rule
    """How step scores become the candidate's score; ``given``: it came as it is, from another rule or from
    a model that scores no steps."""
    decimals: int = Field(4, ge=1, le=9)
    """Decimals to which scores in [0, 1] are rounded; finer differences are numerical noise."""
    scale: Scale = "unit"
    """``unit``: scores lie in [0, 1]; ``raw``: they are any finite numbers, which a policy maps there."""

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that name this contract in every pool part, prior and bundle."""
        later = {"scale"} if self.scale == "unit" else set()  # contracts of before had none
        return short_digest(json.dumps(self.model_dump(mode="json", exclude=later), sort_keys=True))

    def unscored(self) -> Self:
        """The contract of the same candidates where nothing scores them."""
        # A copy would keep the cached fingerprint of the original.
        return self.model_validate(self.model_dump() | UNSCORED)

    def score(self, steps: ArrayLike) -> float:
        """Aggregate step scores, and round those in [0, 1].

        Raises
        ------
        ScoreError
            If there is no step, or one is not a number of the contract's scale.
        """
        values = require_scores(steps, "step scores", self.scale)
        if values.size == 0:
            raise ScoreError("a candidate without steps has no score")
        return self.rounded(aggregate(values, self.aggregation))

    def rounded(self, score: float) -> float:
        """A score as the pool keeps it: a raw one as it is."""
        return round(score, self.decimals) if self.scale == "unit" else score


def aggregate(steps: np.ndarray, how: Rule) -> float:
    """One score from the step scores (steps,).

    Raises
    ------
    ScoreError
        If no rule is known.
    """
    if how == "given":
        raise ScoreError("the contract's scores were given: no rule is known that makes one of step scores")
    return float(_RULES[how](steps))


def require_scores(scores: ArrayLike, where: str, scale: Scale = "unit") -> np.ndarray:
    """Scores as a float array.

    Raises
    ------
    ScoreError
        If one is not a finite number, in [0, 1] unless they are raw; says which.
    """
    try:
        values = np.asarray(scores, dtype=float)
    except (TypeError, ValueError) as error:
        raise ScoreError(f"{where}: not numbers: {scores!r}"[:200]) from error
    good, rule = np.isfinite(values), "be finite"
    if scale == "unit":
        good, rule = (values >= 0) & (values <= 1), "lie in [0, 1]"
    bad = np.flatnonzero(~good)
    if bad.size:
        raise ScoreError(f"{where}: score {bad[0]} is {values.flat[bad[0]]}; every score must {rule}")
    return values


def require_same_contract(expected: str, found: str, where: str) -> None:
    """Raise ContractError unless the fingerprints agree."""
    if expected != found:
        raise ContractError(
            f"{where}: scores of contract {found} met contract {expected}; their generator, reward "
            "model, sampling or aggregation differ, so they cannot be compared. Collect a pool under "
            "the contract you serve, or use the predictor made for this one"
        )
