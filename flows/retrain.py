"""Retrain: collect, train, validate, ship, in that order."""

from typing import TYPE_CHECKING, NamedTuple

from prefect import flow

from flows.collect import Collected, collect, require_reward_model
from flows.config import Config

if TYPE_CHECKING:  # torch, MLflow and BentoML are imported when it runs: a schedule waits without them
    from flows.ship import Shipped
    from flows.train import Trained
    from flows.validate import Validated


class Retrained(NamedTuple):
    """What each step gave."""

    collected: Collected
    trained: "Trained"
    validated: "Validated"
    shipped: "Shipped"


@flow(name="retrain", flow_run_name="retrain")
def retrain(config: Config) -> Retrained:
    """The whole loop; a challenger that misses the gate ends it, and the champion stays.

    What was trained is what is validated and shipped, whatever another run does to the aliases meanwhile.

    Raises
    ------
    ScoreError
        If the config names no reward model: there is nothing to train on.
    """
    from flows.ship import ship
    from flows.train import train
    from flows.validate import validate

    require_reward_model(config.reward, "reward is null")
    collected = collect(config)
    trained = train(config)
    validated = validate(config, version=trained.version)
    return Retrained(collected, trained, validated, ship(config, validated.version))
