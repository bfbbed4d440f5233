"""Settings of the flows' own: prices, the gate, tracking, serving."""

import re

from pydantic import Field, field_validator

from data.record import Record, Uri, holds_secret
from predictor.settings import Prices

VARIABLE = re.compile(r"\$\{(\w+)\}")
"""An environment variable's name in a setting."""


class PriceSettings(Record):
    """What tokens cost, for estimates; nothing is billed."""

    generator_per_million: float = Field(0.0, ge=0)
    """Price of a million generated tokens."""
    prompt_per_million: float = Field(0.0, ge=0)
    """Price of a million prompt tokens."""
    reward_per_million: float = Field(0.0, ge=0)
    """Price of a million tokens read by the reward model."""
    predictor_per_million: float | None = Field(None, ge=0)
    """Price of a million tokens read by the predictor; null: as the reward model's."""
    per_round: float = Field(0.0, ge=0)
    """What a round is worth to you, for the time that its answer waits; 0: ``certify.round_candidates``."""
    currency: str = "USD"
    generator_per_second: float | None = Field(None, gt=0)
    """Tokens a second that one GPU generates; null: unknown, and GPU hours are too."""
    reward_per_second: float | None = Field(None, gt=0)
    """Tokens a second that the reward model reads on one GPU; null: unknown, and GPU hours are too."""

    @property
    def predictor(self) -> float:
        """Price of a million tokens that the predictor reads."""
        known = self.predictor_per_million
        return self.reward_per_million if known is None else known

    def in_tokens(self) -> Prices:
        """All of them in generated tokens; where these have no price, what counts is tokens alone."""
        if not (million := self.generator_per_million):
            return Prices()
        return Prices(
            million=million,
            round=1e6 * self.per_round / million or None,
            reward=self.reward_per_million / million,
            predictor=self.predictor / million,
        )


class GateSettings(Record):
    """What a challenger must reach on the test fold to become champion."""

    mean_skill: float = 0.0
    """1 - MSE / MSE of the population's prior, for the mean score of a question."""
    std_skill: float = 0.0
    """The same for the standard deviation of a question's scores."""
    evidence_gain: float = 0.0
    """Log evidence a score (nats), over the population's prior."""
    bound_coverage: float = Field(0.0, ge=0, lt=1)
    """Share of hits, of the questions that N* calls feasible within the cap, after that many samples; N* is
    planned for .95. 0 asks for none."""
    refutation_level: float = Field(0.05, gt=0, lt=1)
    """Level of the one-sided tests by which test questions refute the certified risk."""

    def thresholds(self, losses: int) -> dict[str, float]:
        """What each metric must reach; the least p-value of several losses is held against its share."""
        floors = {name: getattr(self, name) for name in ("mean_skill", "std_skill", "evidence_gain")}
        floors |= {"bound_coverage": self.bound_coverage} if self.bound_coverage else {}
        return floors | {"refutation_p_value": self.level(losses)}

    def level(self, losses: int) -> float:
        """What the p-value of one of so many certified losses may not be below."""
        return self.refutation_level / max(losses, 1)


class TrackingSettings(Record):
    """Where MLflow keeps runs and models."""

    uri: str | None = None
    """Tracking URI; ``${NAME}`` stands for an environment variable, such as one with a database's password;
    null: an SQLite file in the state folder."""
    experiment: str = "optscale"
    """Experiment of all runs."""
    model: str = "optscale-predictor"
    """Name of the registered model."""
    timeout: float = Field(20.0, gt=0)
    """Seconds after which an MLflow server that does not answer is reported as unavailable."""

    @field_validator("uri")
    @classmethod
    def _no_secret(cls, uri: str | None) -> str | None:
        if uri is not None and holds_secret(VARIABLE.sub("", uri)):
            raise ValueError(
                "it holds a secret, and settings are recorded with every run: write ${NAME} in its place and "
                "set that environment variable (URL-encoded), or leave it out and use MLFLOW_TRACKING_USER"
                "NAME and MLFLOW_TRACKING_PASSWORD or the database's own (PGPASSWORD)"
            )
        return uri


class ServeSettings(Record):
    """The service and its limits."""

    champion: Uri | None = None
    """The champion's manifest, a path or URI, which every gateway follows; null: in the state folder."""
    approval: bool = False
    """Whether a person has to approve of what passed the gate (`optscale approve`) before it is served."""
    port: int = Field(3000, ge=1, le=65535)
    """Port of `optscale serve`."""
    start_timeout: float = Field(180.0, gt=0)
    """Seconds that a bundle may take to become ready when it is checked."""
