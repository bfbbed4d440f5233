"""What a policy is, and what every one has around its rule: a first look, a stop on a hit, giving up."""

from enum import IntEnum
from typing import ClassVar, NamedTuple, Protocol, Self

import numpy as np
from pydantic import Field, model_validator

from data.arrays import BoolArray, IntArray
from data.record import Record
from predictor.selection import Selection
from predictor.state import State


class Reason(IntEnum):
    """Why a policy samples on or stops; ``words`` says it to a user."""

    words: str

    def __new__(cls, number: int, words: str) -> "Reason":
        member = int.__new__(cls, number)
        member._value_ = number
        member.words = words
        return member

    FIRST_LOOK = 0, "too few scores for a first estimate"
    BOUND_NOT_REACHED = 1, "fewer samples than the bound asks for"
    BOUND_REACHED = 2, "as many samples as the bound asks for"
    CAP_REACHED = 3, "the cap is reached"
    PLAN_DONE = 4, "the planned number of samples is reached"
    PLAN_NOT_DONE = 5, "the planned number of samples is not reached"
    HIT = 6, "a score has reached the target"
    HOPELESS = 7, "a score at the target is too unlikely within the cap"
    WORTH_MORE = 8, "what more samples are expected to gain exceeds their price"
    NOT_WORTH_MORE = 9, "what more samples are expected to gain is below their price"
    VOTES_OPEN = 10, "the answers do not settle it yet"
    VOTES_SETTLED = 11, "more answers are not worth their price"


class Plan(NamedTuple):
    """The next round of many questions; every field (questions,)."""

    more: IntArray
    """Samples to ask for in the next round; 0 stops."""
    reason: IntArray
    """A `Reason`."""
    required: IntArray
    """Samples in all that the policy's estimate asks for; the cap where not feasible."""
    feasible: BoolArray
    """Whether the policy held the target to be within reach of the cap."""


class Policy(Protocol):
    """From a state to a plan. A policy is a small frozen value that is JSON in and out."""

    @property
    def target(self) -> float: ...

    @property
    def cap(self) -> int: ...

    @property
    def selection(self) -> Selection: ...

    def plan(self, state: State) -> Plan:
        """Plan the next round of each question."""


class Proposal(NamedTuple):
    """The plan of a rule alone; every field (questions,)."""

    total: IntArray
    """Candidates to have after the next rounds; the number drawn, or less, where it would stop."""
    required: IntArray
    feasible: BoolArray


class PolicyBase(Record):
    """The parts that every policy has around its rule."""

    target: float = Field(0.95, gt=0, le=1)
    """Target score s; a score of at least s is a hit."""
    cap: int = Field(64, ge=1, le=100_000)
    """N_max, samples at most."""
    floor: int = Field(0, ge=0)
    """Candidates drawn before the rule is asked, in one round."""
    batch: int | None = Field(None, ge=1)
    """Samples a round at most; null asks for all that the rule wants at once."""
    stop_on_hit: bool = True
    """Stop at the first round with a score of at least the target."""
    give_up: float = Field(0.0, ge=0, lt=1)
    """Stop where the chance of a hit within the cap is at most this; 0 leaves giving up to the rule."""
    selection: Selection = Selection()
    """Which of the candidates drawn is the answer."""

    @model_validator(mode="after")
    def _floor_within_cap(self) -> Self:
        if self.floor > self.cap:
            raise ValueError(f"the floor of {self.floor} samples is above the cap of {self.cap}")
        return self

    reasons: ClassVar[tuple[Reason, Reason]] = (Reason.PLAN_NOT_DONE, Reason.PLAN_DONE)
    """Why the rule goes on, and why it stops."""
    has_confidence: ClassVar[bool] = False
    """Whether it plans for a hit with a stated chance, its confidence."""
    rule_reads_prior: ClassVar[bool] = True

    @property
    def reads_prior(self) -> bool:
        """Whether it decides by the question's prior, which someone had to pay for."""
        return self.rule_reads_prior

    @property
    def reads_scores(self) -> bool:
        """Whether it decides or selects by scores: without a verifier only those that do not can be used."""
        by_score = self.stop_on_hit or self.give_up > 0 or self.rule_reads_prior
        return by_score or self.selection.reads_scores

    @property
    def reads_answers(self) -> bool:
        """Whether it decides or selects by the candidates' answers."""
        return self.selection.kind != "best_score"

    def propose(self, state: State) -> Proposal:
        """Ask the rule alone."""
        raise NotImplementedError

    def evidence(self, state: State) -> dict[str, float]:
        """What the rule goes by at a state of one question: numbers by names that a person reads."""
        if not self.reads_prior or state.priors is None:
            return {}
        rest = max(self.cap - int(state.drawn[0]), 0)
        return {"chance of a hit within the cap": float(1 - state.no_hit(self.target, self.cap)[0, rest])}

    def round_size(self) -> int | None:
        """Samples a round at most."""
        return self.batch

    def plan(self, state: State) -> Plan:
        """See `Policy`."""
        drawn, proposal = state.drawn, self.propose(state)
        first, hit, full = drawn < self.floor, state.hit(self.target), drawn >= self.cap
        more = np.clip(np.where(first, self.floor, np.minimum(proposal.total, self.cap)) - drawn, 0, None)
        if (size := self.round_size()) is not None:
            more = np.where(first, more, np.minimum(more, size))
        stopped, hopeless = hit & self.stop_on_hit, np.zeros(len(state), bool)
        if self.give_up:
            rest, curve = np.maximum(self.cap - drawn, 0), state.no_hit(self.target, self.cap)
            hopeless = ~hit & ~full & (1 - curve[np.arange(len(rest)), rest] <= self.give_up)
        more = np.where(stopped | hopeless, 0, more)
        start = (drawn == 0) & (more == 0)  # at least one candidate is drawn, however little it promises
        more = np.where(start, 1, more)
        reason = np.select(
            [stopped, full, hopeless & ~start, first | start, more > 0],
            [Reason.HIT, Reason.CAP_REACHED, Reason.HOPELESS, Reason.FIRST_LOOK, self.reasons[0]],
            self.reasons[1],
        )
        return Plan(more, reason, proposal.required, proposal.feasible)
