"""Policies that stop by what the answers say; a verifier's scores, where there are any, weigh the votes."""

from typing import ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from data.arrays import Array, BoolArray
from predictor.policy_base import PolicyBase, Proposal, Reason
from predictor.selection import Selection
from predictor.state import State
from predictor.stopping import GROWTH, RuleText, load_rule, totals
from predictor.value_rule import ValueRule, features_at
from predictor.votes import Votes, agreement, vote_features


class VotePolicy(PolicyBase):
    """Stop by the vote, asked at the totals of rounds that grow; it reads no prior."""

    stop_on_hit: bool = False
    """Stop at the first round with a score of at least the target."""
    selection: Selection = Selection(kind="majority")
    """Which of the candidates drawn is the answer, and how votes are weighed."""
    growth: float = Field(GROWTH, ge=1)
    """Candidates in all after a round, over those after the one before."""
    reasons: ClassVar[tuple[Reason, Reason]] = (Reason.VOTES_OPEN, Reason.VOTES_SETTLED)
    rule_reads_prior: ClassVar[bool] = False

    @property
    def reads_answers(self) -> bool:
        """It goes by them."""
        return True

    def stops(self, state: State, votes: Votes) -> BoolArray:
        """(questions,) whether the rule stops; votes (questions, 1) are of those drawn, at least one each."""
        raise NotImplementedError

    def evidence(self, state: State) -> dict[str, float]:
        """See `PolicyBase`."""
        if not state.drawn[0]:
            return {}
        votes = state.count(self.selection)[1].at(state.drawn[:, None] - 1)
        told = {"votes of the leader": votes.first, "of the second": votes.second}
        told["chance that it leads for good"] = agreement(votes)
        return {name: float(value[0, 0]) for name, value in told.items()} | self.weighed(state, votes)

    def weighed(self, state: State, votes: Votes) -> dict[str, float]:
        """Further numbers that the rule of one question goes by; see `stops`."""
        return {}

    def propose(self, state: State) -> Proposal:
        """The next total of the rounds, unless the rule stops."""
        at = totals(self.cap, growth=self.growth)
        following = at[np.minimum(np.searchsorted(at, state.drawn, side="right"), len(at) - 1)]
        stops = np.zeros(len(state), bool)
        if (asked := np.flatnonzero(state.drawn)).size:
            seen = state if asked.size == len(state) else state.select(asked)
            stops[asked] = self.stops(seen, seen.count(self.selection)[1].at(seen.drawn[:, None] - 1))
        total = np.where(stops, state.drawn, following)
        return Proposal(total, total, np.ones(len(state), bool))


class Agreement(VotePolicy):
    """Adaptive consistency: stop where the leading answer is ahead for good with a high enough chance."""

    kind: Literal["agreement"] = "agreement"
    confidence: float = Field(0.95, ge=0.5, lt=1)
    """Chance that the leading answer is more frequent than the second."""

    def stops(self, state: State, votes: Votes) -> BoolArray:
        """See `VotePolicy`."""
        return np.asarray(agreement(votes)[:, 0] >= self.confidence)


class Lead(VotePolicy):
    """Stop where the leader is ahead by a share of the draws that are left."""

    kind: Literal["lead"] = "lead"
    share: float = Field(0.35, gt=0, le=1)
    """At 1 the leader cannot be overtaken."""

    def stops(self, state: State, votes: Votes) -> BoolArray:
        """See `VotePolicy`."""
        left = np.maximum(self.cap - state.drawn, 1)
        return np.asarray((votes.first - votes.second)[:, 0] >= self.share * left)


class Learned(VotePolicy):
    """Stop where the accuracy still to be gained, as learned on other pools, is below its price."""

    kind: Literal["learned"] = "learned"
    rule: RuleText = "public-1"
    """A rule that comes with the product, its file, or its JSON."""
    price: float = Field(0.02, ge=0)
    """Price of drawing the full cap, in questions answered right."""

    def stops(self, state: State, votes: Votes) -> BoolArray:
        """See `VotePolicy`."""
        gain, price = self._gain_and_price(state, votes)
        return np.asarray(gain <= price)

    def weighed(self, state: State, votes: Votes) -> dict[str, float]:
        """See `VotePolicy`."""
        gain, price = self._gain_and_price(state, votes)
        return {"accuracy still to be gained": float(gain[0]), "its price": float(price[0])}

    def _gain_and_price(self, state: State, votes: Votes) -> tuple[Array, Array]:
        gain = load_rule(self.rule).gain(vote_features(votes, self.cap, state.drawn[:, None]))[:, 0]
        return gain, self.price * np.maximum(self.cap - state.drawn, 0) / self.cap


class OwnRule(VotePolicy):
    """Stop where going on is worth nothing, as learned on one's own train questions."""

    kind: Literal["own_rule"] = "own_rule"
    rule: RuleText = "public-1"
    """The rule whose expectation is among the features; see `Learned`."""
    value: ValueRule
    """What going on is worth at each total; the last is the cap."""

    @model_validator(mode="after")
    def _cap_is_that_of_the_rule(self) -> Self:
        if self.value.totals[-1] != self.cap:
            raise ValueError(f"its rule was learned up to {self.value.totals[-1]} candidates, not {self.cap}")
        return self

    def stops(self, state: State, votes: Votes) -> BoolArray:
        """See `VotePolicy`."""
        return np.asarray(self._worth(state) <= 0)

    def weighed(self, state: State, votes: Votes) -> dict[str, float]:
        """See `VotePolicy`."""
        return {"worth of going on": float(self._worth(state)[0])}

    def _worth(self, state: State) -> Array:
        (answers, counted), rule = state.count(self.selection), load_rule(self.rule)
        at = state.drawn[:, None] - 1
        features = features_at(answers, state.scores, counted, self.selection, rule, self.cap, at)[:, 0]
        place = np.minimum(np.searchsorted(self.value.totals, state.drawn), len(self.value.intercept) - 1)
        worth = [self.value.worth(features, k) for k in range(len(self.value.intercept))]
        return np.asarray(np.choose(place, worth))
