"""Policies: fixed N, and the paper's OptScale in its sequential and its one-shot form."""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from predictor import truncnorm
from predictor.bound import is_feasible, required_samples
from predictor.decision import Array, IntArray, Plan, Policy, Reason
from predictor.errors import ConfigError
from predictor.prior import Prior, mean_dispersion
from predictor.settings import Settings


class FixedN(Settings):
    """Draw N candidates in one round, whatever they score: plain Best-of-N."""

    kind: Literal["fixed"] = "fixed"
    n: int = Field(ge=1)
    """Candidates to draw."""
    target: float = Field(0.95, gt=0, le=1)
    """Score that counts as a hit in reports; it does not steer the policy."""

    @property
    def cap(self) -> int:
        return self.n

    def plan(self, scores: Array, drawn: IntArray, priors: Sequence[Prior] | None) -> Plan:
        """See `Policy`."""
        more = np.maximum(self.n - drawn, 0)
        reason = np.where(more > 0, Reason.PLAN_NOT_DONE, Reason.PLAN_DONE)
        return Plan(more, reason, np.full_like(drawn, self.n), np.ones(len(drawn), bool))


class OptScale(Settings):
    """The paper's policy: estimate (mu, sigma) of a truncated normal, draw until n >= N*.

    Without priors the estimate is by maximum likelihood (OptScale-0), with them it is the MAP
    estimate around the predictor's (mu0, sigma0) (OptScale-t).
    """

    kind: Literal["optscale"] = "optscale"
    target: float = Field(0.95, gt=0, le=1)
    """Target score s; a score of at least s is a hit."""
    confidence: float = Field(0.95, gt=0, lt=1)
    """Alpha: the chance that the best of N* scores is a hit."""
    cap: int = Field(64, ge=1)
    """N_max, samples at most."""
    floor: int = Field(3, ge=0)
    """Scores drawn before the first estimate; 0 lets the prior alone size the first round."""
    batch: int = Field(1, ge=1)
    """Samples a round after the first; 1 is the paper's, larger trades tokens for latency."""
    one_shot: bool = False
    """Estimate once after the floor and draw all of N* in one round, as the authors' code does."""
    prior: bool = True
    """Use the question's prior (OptScale-t); false gives OptScale-0."""
    prior_width: float = Field(0.1, gt=0)
    """Tau: standard deviation of the priors on mu and sigma (paper: 0.1), over sqrt(strength)."""

    def plan(self, scores: Array, drawn: IntArray, priors: Sequence[Prior] | None) -> Plan:
        """See `Policy`. Candidates without a score enter the fit as scores of 0: a miss."""
        if self.prior and priors is None:
            raise ConfigError("this policy reads a prior a question, and none was given")
        if self.one_shot:
            return self._one_shot(scores, drawn, priors)
        required, feasible = self._required(scores, drawn, priors)
        first = drawn < min(self.floor, self.cap)
        wanted = np.where(first, self.floor - drawn, np.minimum(self.batch, required - drawn))
        more = np.clip(np.minimum(wanted, self.cap - drawn), 0, None)
        reason = np.select(
            [first, drawn >= self.cap, more > 0],
            [Reason.FIRST_LOOK, Reason.CAP_REACHED, Reason.BOUND_NOT_REACHED],
            Reason.BOUND_REACHED,
        )
        return Plan(more, reason, required, feasible)

    def _one_shot(self, scores: Array, drawn: IntArray, priors: Sequence[Prior] | None) -> Plan:
        look = min(self.floor, self.cap)
        required, feasible = self._required(scores, np.minimum(drawn, look), priors)
        first = drawn < look
        more = np.where(first, look - drawn, np.maximum(required - drawn, 0))
        reason = np.select([first, more > 0], [Reason.FIRST_LOOK, Reason.PLAN_NOT_DONE], Reason.PLAN_DONE)
        return Plan(more, reason, required, feasible)

    def _required(
        self, scores: Array, drawn: IntArray, priors: Sequence[Prior] | None
    ) -> tuple[IntArray, NDArray[np.bool_]]:
        columns = np.arange(scores.shape[1])
        seen = np.where(columns < drawn[:, None], np.nan_to_num(scores), 0.0)
        n = np.maximum(drawn, 1)
        first, second = seen.sum(axis=1) / n, (seen**2).sum(axis=1) / n
        if self.prior and priors is not None:
            centre_mu, centre_sigma = centres(priors)
            strength = np.array([p.strength for p in priors])
            precision = strength / self.prior_width**2
            mu, sigma = truncnorm.fit(first, second, drawn, centre_mu, centre_sigma, precision)
        else:
            mu, sigma = truncnorm.fit(first, second, drawn)
        required = np.asarray(required_samples(mu, sigma, self.target, self.confidence, self.cap))
        return required, np.asarray(is_feasible(mu, sigma, self.target, self.confidence, self.cap))


def centres(priors: Sequence[Prior]) -> tuple[Array, Array]:
    """(mu0, sigma0) of the truncated normals with the mean and deviation at each prior's centre."""
    mean, std = mean_dispersion([p.location for p in priors])
    return truncnorm.fit(mean, std**2 + mean**2)


AnyPolicy = Annotated[FixedN | OptScale, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[FixedN | OptScale] = TypeAdapter(AnyPolicy)


def load_policy(document: str | bytes) -> Policy:
    """A policy from its JSON text.

    Raises
    ------
    ConfigError
        If a knob is unknown, missing, or out of its range; names it.
    """
    try:
        return _ADAPTER.validate_json(document)
    except ValidationError as error:
        raise ConfigError(f"not a policy: {error}") from error
