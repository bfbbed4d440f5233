"""How policies are chosen and priced before one is certified."""

from typing import Any

from pydantic import Field, model_validator

from data.record import Record

_GOALS = {"lost_hit": "hit", "lost_answer": "lose", "lost_accuracy": "lose", "delta": "delta"}


class Prices(Record):
    """What else costs, in generated tokens."""

    million: float = 1.0
    """Money that a million generated tokens cost, for the goal ``price_per_point``."""
    round: float | None = None
    """A round; None: ``certify.round_candidates``."""
    reward: float = 0.0
    """A token that the reward model reads; of policies that read scores."""
    predictor: float = 1.0
    """A token that the predictor reads; of policies that read its priors."""


class CertifySettings(Record):
    """How policies are chosen, priced and measured before one is certified."""

    choose: bool = True
    """Choose among all policies; false certifies and ships ``policy`` as it is."""
    rule: str = "public-1"
    """The stopping rule learned on other pools, by its name or file."""
    uncertified: bool = False
    """Where nothing is certified, ship what kept the goal on train and tune questions; false ships the
    reference, which draws the full cap."""
    round_candidates: float = Field(0.25, ge=0)
    """Price of a round, in candidates of average length, where ``prices.per_round`` has none."""
    orders: int = Field(20, ge=1)
    """Random orders of a question's candidates that its loss and cost are means over, where the order in
    which they were drawn carries nothing."""

    @model_validator(mode="before")
    @classmethod
    def _moved(cls, given: Any) -> Any:
        for name in _GOALS.keys() & (given.keys() if isinstance(given, dict) else ()):
            raise ValueError(f"{name} is a goal now: write goal.{_GOALS[name]}")
        return given
