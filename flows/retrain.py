"""Retrain: collect, train, validate, ship, in that order."""

from typing import NamedTuple

from prefect import flow

from flows.collect import Collected, collect
from flows.config import Config
from flows.ship import Shipped, ship
from flows.train import Trained, train
from flows.validate import Validated, validate


class Retrained(NamedTuple):
    """What each step gave."""

    collected: Collected
    trained: Trained
    validated: Validated
    shipped: Shipped


@flow(name="retrain", flow_run_name="retrain")
def retrain(config: Config) -> Retrained:
    """The whole loop; a challenger that misses the gate ends it, and the champion stays.

    What was trained is what is validated and shipped, whatever another run does to the aliases meanwhile.
    """
    collected = collect(config)
    trained = train(config)
    validated = validate(config, version=trained.version)
    return Retrained(collected, trained, validated, ship(config, validated.version))
