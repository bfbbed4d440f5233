"""Retrain: collect, train, validate, ship, in that order."""

from prefect import flow

from flows.collect import collect
from flows.config import Config
from flows.ship import Shipped, ship
from flows.train import train
from flows.validate import validate


@flow(name="retrain")
def retrain(config: Config) -> Shipped:
    """The whole loop; a challenger that misses the gate ends it, and the champion stays.

    What was trained is what is validated and shipped, whatever another run does to the aliases meanwhile.
    """
    collect(config)
    trained = train(config)
    validated = validate(config, version=trained.version)
    return ship(config, validated.version)
