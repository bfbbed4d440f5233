"""How policies are chosen and priced before one is certified."""

from typing import Any, Literal

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


class Margins(Record):
    """What a statistic's mean may be worse by than promised or usual: as much as it varies over a week."""

    lost: float = Field(0.01, ge=0)
    """Loss that is promised of, of requests drawn to the full cap."""
    changed: float = Field(0.02, ge=0)
    """Of these the share that is answered differently from the reference."""
    hits: float = Field(0.02, ge=0)
    """Share of requests that reach the target score."""
    scores: float = Field(0.02, ge=0)
    """Rank of the first candidate's score among the train questions', from 0 to 1."""
    score_spread: float = Field(0.02, ge=0)
    """How far that rank is from the middle, from 0 to 1."""
    tokens: float = Field(0.05, ge=0)
    """Rank of the first candidate's tokens."""
    failures: float = Field(0.02, ge=0)
    """Share of first candidates that failed or were cut."""
    length: float = Field(0.1, ge=0)
    """Rank of the prompt's tokens."""
    difficulty: float = Field(0.1, ge=0)
    """Rank of the mean score that the predictor expects."""


class MonitorSettings(Record):
    """What is watched of the decision log, and what an alarm does."""

    margins: Margins = Margins()
    """What may vary."""
    alarms_a_year: float = Field(0.5, gt=0, le=100)
    """False alarms in a year that may be expected at most, of all statistics together, as long as their usual
    means are known rightly."""
    on_alarm: Literal["tell", "full-cap"] = "tell"
    """``full-cap``: also have gateways draw the reference at once."""
    cron: str | None = "7 * * * *"
    """When `optscale schedule` lets it look; null: it does not."""
    retrain: bool = True
    """Whether an alarm starts the ``retrain`` that `optscale schedule` serves."""
