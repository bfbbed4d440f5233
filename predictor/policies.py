"""Policies: when to draw how many more candidates, and when to stop.

Every policy is a rule for the plan, and the same four parts around it compose with any rule: a first
look, a stop on the first hit, giving up, and the size of a round. policies.md says what each
promises and when to choose it.
"""

from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from data.arrays import Array, BoolArray, IntArray
from data.errors import ConfigError
from data.validation import parse
from predictor import truncnorm
from predictor.bound import log_miss_of, required_from_log_miss
from predictor.families import BINS
from predictor.policy_base import PolicyBase, Proposal, Reason
from predictor.prior import PriorBatch
from predictor.state import State
from predictor.stopping import fixed_sizes
from predictor.vote_policies import Agreement, Lead, Learned, OwnRule


class FixedN(PolicyBase):
    """Plain Best-of-N: draw the cap. With ``stop_on_hit`` and a ``batch`` it ends at the first hit."""

    kind: Literal["fixed"] = "fixed"
    stop_on_hit: bool = False
    """Stop at the first round with a score of at least the target; off in plain Best-of-N."""

    rule_reads_prior: ClassVar[bool] = False

    @property
    def draws_all(self) -> bool:
        """Whether the cap is drawn whatever is seen."""
        return not self.stop_on_hit and self.give_up == 0

    def propose(self, state: State) -> Proposal:
        """All of the cap."""
        total = np.full(len(state), self.cap)
        return Proposal(total, total, np.ones(len(state), bool))


class Schedule(PolicyBase):
    """A fixed schedule: rounds that grow by a factor up to the cap or the first hit; it reads no prior.

    It is the line that any cleverer rule has to beat.
    """

    kind: Literal["schedule"] = "schedule"
    start: int = Field(1, ge=1)
    """Candidates of the first round."""
    factor: float = Field(2.0, ge=1)
    """Each round is this many times the one before."""

    rule_reads_prior: ClassVar[bool] = False

    def propose(self, state: State) -> Proposal:
        """The first total of the schedule that lies beyond what is drawn."""
        totals = self.totals()
        place = np.searchsorted(totals, state.drawn, side="right")
        total = totals[np.minimum(place, len(totals) - 1)]
        return Proposal(total, np.full(len(state), self.cap), np.ones(len(state), bool))

    def totals(self) -> IntArray:
        """Candidates in all after each round."""
        found, size = [0], float(self.start)
        while found[-1] < self.cap:
            found.append(min(found[-1] + max(round(size), 1), self.cap))
            size *= self.factor
        return np.array(found[1:])


class _Bound(PolicyBase):
    """A policy that plans for a hit with a confidence."""

    confidence: float = Field(0.95, gt=0, lt=1)
    """Alpha: the chance that the best of the planned samples is a hit."""
    has_confidence: ClassVar[bool] = True


class OptScale(_Bound):
    """The paper's policy: estimate (mu, sigma) of a truncated normal, draw until n >= N*.

    Without priors the estimate is by maximum likelihood (OptScale-0), with them it is the MAP
    estimate around the predictor's (mu0, sigma0) (OptScale-t). As in the paper it does not look at
    hits, draws one by one, and plugs the estimate into the bound as if it were known.
    """

    kind: Literal["optscale"] = "optscale"
    floor: int = Field(3, ge=0)
    """Scores drawn before the first estimate; with a prior it can be 0."""
    batch: int | None = Field(1, ge=1)
    """Samples a round after the first; 1 is the paper's."""
    stop_on_hit: bool = False
    """Stop at the first round with a score of at least the target; the paper does not."""
    one_shot: bool = False
    """Estimate once after the floor and draw all of N* in one round, as the authors' code does."""
    prior: bool = True
    """Use the question's prior (OptScale-t); false gives OptScale-0."""
    prior_width: float = Field(0.1, gt=0)
    """Tau: standard deviation of the priors on mu and sigma (paper: 0.1), over sqrt(strength)."""
    reasons: ClassVar[tuple[Reason, Reason]] = (Reason.BOUND_NOT_REACHED, Reason.BOUND_REACHED)

    @property
    def reads_prior(self) -> bool:
        """OptScale-0 does not."""
        return self.prior

    def round_size(self) -> int | None:
        """See `PolicyBase`; one-shot asks for all of N* together."""
        return None if self.one_shot else self.batch

    def propose(self, state: State) -> Proposal:
        """N* of the scores so far; one-shot: of the first ``floor`` scores."""
        if self.one_shot:
            state = state.at(np.minimum(state.drawn, self.floor))
        n = np.maximum(state.drawn, 1)
        first, second = state.scores.sum(axis=1) / n, (state.scores**2).sum(axis=1) / n
        if self.prior:
            priors = state.require_priors()
            precision = priors.strength[priors.index] / self.prior_width**2
            mu, sigma = truncnorm.fit(first, second, state.drawn, *centres(priors), precision)
        else:
            mu, sigma = truncnorm.fit(first, second, state.drawn)
        log_miss = log_miss_of(mu, sigma, self.target)
        required, feasible = required_from_log_miss(log_miss, self.confidence, self.cap)
        return Proposal(required, required, feasible)


class Predictive(_Bound):
    """The fewest samples whose predictive chance of a hit is at least the confidence.

    The plan is made once, from the prior and the first ``floor`` scores, and is run to its end: so the
    mean miss probability over the questions that it calls feasible is at most 1 - confidence if the
    prior is right, giving up included, and a question where it is not feasible gets the cap.
    """

    kind: Literal["predictive"] = "predictive"

    @model_validator(mode="after")
    def _give_up_within_promise(self) -> Self:
        if self.confidence + self.give_up > 1 - 1e-12:  # 1 - .95 is a hair above .05
            raise ValueError(
                f"giving up at a chance of {self.give_up:g} alone breaks a confidence of "
                f"{self.confidence:g}; it must be below {1 - self.confidence:g}"
            )
        return self

    def propose(self, state: State) -> Proposal:
        """Number drawn at the look, and the fewest more that keep the promise."""
        look = np.minimum(state.drawn, self.floor)
        then = state.at(look)
        allowed = 1 - self.confidence - self.give_up
        misses = then.no_hit(self.target, self.cap)
        more = np.where(then.hit(self.target), 0, (misses > allowed).sum(axis=1))
        feasible = look + more <= self.cap
        required = np.where(feasible, np.maximum(look + more, 1), self.cap)
        return Proposal(required, required, feasible)


class Quantile(_Bound):
    """The paper's bound at a low quantile of what the exceedance probability may be.

    With a chance of at least 1 - ``risk`` (over questions and scores, if the prior is right), the
    question's own law reaches the target within N* with the confidence: it bounds the *share of
    questions* that fall short, where `Predictive` bounds their average.
    """

    kind: Literal["quantile"] = "quantile"
    risk: float = Field(0.05, gt=0, lt=1)
    """Gamma: the share of questions whose N* may be too small."""
    reasons: ClassVar[tuple[Reason, Reason]] = (Reason.BOUND_NOT_REACHED, Reason.BOUND_REACHED)

    def propose(self, state: State) -> Proposal:
        """N* at that quantile, from the prior and the first ``floor`` scores."""
        then = state.at(np.minimum(state.drawn, self.floor))
        log_miss = then.miss_quantile(self.target, 1 - self.risk)
        required, feasible = required_from_log_miss(log_miss, self.confidence, self.cap)
        return Proposal(required, required, feasible)


class Value(PolicyBase):
    """Value of information: draw while what a round is expected to gain exceeds its price.

    By default a hit has a value of 1. The rounds to come are planned together: the policy finds the
    sequence of round sizes with the best expected value along the path on which no hit comes, takes
    its first round, and plans anew with the scores that came. A price per round trades tokens for
    latency; the price per token decides when a question is given up.
    """

    kind: Literal["value"] = "value"
    token_price: float = Field(0.001, ge=0)
    """Price of a token, in hits."""
    candidate_tokens: float = Field(1.0, gt=0)
    """Expected tokens of a candidate before any is seen; 1 makes the price one per candidate."""
    round_price: float = Field(0.0, ge=0)
    """Price of a round, in hits."""
    utility: tuple[float, ...] | None = None
    """Value of a best score at equal steps from 0 to 1, rising, e.g. its chance of being right; then
    the gain is that of the best score and one round is planned at a time. Null: a hit has a value of 1."""
    reasons: ClassVar[tuple[Reason, Reason]] = (Reason.WORTH_MORE, Reason.NOT_WORTH_MORE)

    @model_validator(mode="after")
    def _utility_rises(self) -> Self:
        if self.utility is not None and (len(self.utility) < 2 or np.any(np.diff(self.utility) < 0)):
            raise ValueError("utility needs at least two values, none below the one before")
        return self

    def propose(self, state: State) -> Proposal:
        """The first round of the plan with the best expected value."""
        sizes = np.minimum([0, *fixed_sizes(self.cap)], np.maximum(self.cap - state.drawn, 0)[:, None])
        price = (self.token_price * self._tokens(state))[:, None]
        if self.utility is None:
            more, chance = self._plan_rounds(state, sizes, price)
            return Proposal(state.drawn + more, state.drawn + more, (more > 0) | chance)
        gain = self._gain(state, sizes) - price * sizes - self.round_price * (sizes > 0)
        best = gain.argmax(axis=1)
        more = sizes[np.arange(len(state)), best]
        return Proposal(state.drawn + more, state.drawn + more, (more > 0) | state.hit(self.target))

    def _tokens(self, state: State) -> Array:
        """(questions,) expected tokens of a candidate; the first guess counts as much as four are seen."""
        if state.tokens is None:
            return np.full(len(state), self.candidate_tokens)
        spent = np.where(state.seen, state.tokens, 0.0).sum(axis=1)
        return (4 * self.candidate_tokens + spent) / (4 + state.drawn)

    def _plan_rounds(self, state: State, sizes: IntArray, price: Array) -> tuple[IntArray, BoolArray]:
        """Dynamic programme over totals on the path without a hit; backwards from the cap."""
        rows = np.arange(len(sizes))
        miss = state.no_hit(self.target, self.cap)[rows[:, None], sizes]
        # Expected gain of a round from each total to each, weighted by the chance to get there.
        asked = (sizes[:, None] - sizes[:, :, None]) * price[:, :, None] + self.round_price
        gain = miss[:, :, None] * (1 - asked) - miss[:, None]
        going_on = np.zeros_like(miss)  # value of going on from this total
        for place in range(sizes.shape[1] - 2, -1, -1):
            values = gain[:, place, place + 1 :] + going_on[:, place + 1 :]
            values.max(axis=1, out=going_on[:, place], initial=0.0)
        more = np.where(going_on[:, 0] > 0, sizes[rows, 1 + values.argmax(axis=1)], 0)
        hit = state.hit(self.target)
        return np.where(hit, 0, more), hit  # the value of a hit is there: nothing is left to gain

    def _gain(self, state: State, sizes: IntArray) -> Array:
        """(questions, sizes) expected rise of the best score's utility."""
        assert self.utility is not None
        # A score of 1 shares the last bin, and other steps are rounded to the scores' bins.
        steps = np.clip(np.round(np.linspace(0, 1, len(self.utility)) * BINS), 1, BINS - 1) / BINS
        gain = np.zeros(sizes.shape)
        for level, rise in zip(steps[1:], np.diff(self.utility), strict=True):
            if rise:
                miss = np.take_along_axis(state.no_hit(float(level), self.cap), sizes, axis=1)
                gain += np.where(state.best >= level, 0.0, rise)[:, None] * (1 - miss)
        return gain


def centres(priors: PriorBatch) -> tuple[Array, Array]:
    """(mu0, sigma0) of the truncated normals with each prior's expected mean and standard deviation."""
    mean, std = priors.moments
    return truncnorm.fit(mean, std**2 + mean**2)


AnyPolicy = Annotated[
    FixedN | Schedule | OptScale | Predictive | Quantile | Value | Agreement | Lead | Learned | OwnRule,
    Field(discriminator="kind"),
]


def load_policy(document: str | bytes) -> AnyPolicy:
    """A policy from its JSON text.

    Raises
    ------
    ConfigError
        If a knob is unknown, missing, or out of its range; names it.

    Examples
    --------
    >>> load_policy('{"kind": "fixed", "target": 0.9, "cap": 4}').cap
    4
    """
    return parse(document, AnyPolicy, ConfigError, "not a policy", "policy")
