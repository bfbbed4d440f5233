"""Settings of certificates, and the terms that policies are compared on."""

from typing import NamedTuple, Self, get_args

from pydantic import Field

from data.record import Record
from predictor.certificate import Loss
from predictor.decision import Policy


class CertifySettings(Record):
    """The promise, and the price that chooses among policies that keep it."""

    lost_hit: float | None = Field(0.02, gt=0, lt=1)
    """Epsilon: share of questions on which stopping early may miss a target score that the full cap
    reaches; null promises nothing of hits."""
    lost_answer: float | None = Field(None, gt=0, lt=1)
    """Epsilon: share of questions on which it may answer wrongly where the best of the full cap is right;
    null promises nothing of them."""
    lost_accuracy: float | None = Field(0.05, gt=0, lt=1)
    """Epsilon: how much smaller its share of right answers may be than the full cap's, answers lost less
    answers won; null promises nothing of it."""
    delta: float = Field(0.1, gt=0, lt=1)
    """Chance that the promise is wrong all the same."""
    choose: bool = True
    """Choose the cheapest certified policy; false certifies and ships ``policy`` as it is."""
    round_candidates: float = Field(2.0, ge=0)
    """Price of a round, in candidates of average length."""
    orders: int = Field(4, ge=1)
    """Random orders of a question's candidates that tune and test figures are averaged over."""

    @property
    def epsilon(self) -> dict[Loss, float]:
        """The risks that are promised."""
        return {name: risk for name in get_args(Loss) if (risk := getattr(self, name)) is not None}


class Terms(NamedTuple):
    """The terms that policies are compared on."""

    target: float
    """Score that counts as a hit, whatever the policies aim at."""
    cap: int
    """Candidates a question at most."""
    orders: int
    """Random orders of a question's candidates that figures are averaged over."""
    round_candidates: float
    """Price of a round, in candidates of average length."""
    answers: bool
    """Whether a promise is made about answers, not of hits alone."""

    @classmethod
    def of(cls, policy: Policy, settings: CertifySettings) -> Self:
        """Terms of a policy's promise."""
        answers = bool(settings.epsilon.keys() - {"lost_hit"})
        return cls(policy.target, policy.cap, settings.orders, settings.round_candidates, answers)
