"""Retrain: take in the decision log, collect, train, validate, ship, in that order."""

from typing import TYPE_CHECKING, NamedTuple

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from data.log_import import import_log
from flows.champion import current, note_trained
from flows.collect import Collected, collect, read_all_questions, require_reward_model
from flows.config import Config

if TYPE_CHECKING:  # torch, MLflow and BentoML are imported when it runs: a schedule waits without them
    from flows.ship import Shipped
    from flows.train import Trained
    from flows.validate import Validated


class Retrained(NamedTuple):
    """What each step gave; None of those that nothing new made needless."""

    imported: dict[str, int]
    """What of the decision log went to the pool, and what stayed outside; see `import_log`."""
    collected: Collected
    trained: "Trained"
    validated: "Validated | None"
    shipped: "Shipped | None"


@flow(name="retrain", flow_run_name="retrain")
def retrain(config: Config) -> Retrained:
    """The whole loop; a challenger that misses the gate ends it, and the champion stays.

    What was trained is what is validated and shipped, whatever another run does to the aliases meanwhile.
    Where log and questions have nothing new, and what is trained on them is the champion, it ends there.

    Raises
    ------
    ScoreError
        If the config names no reward model: there is nothing to train on.
    """
    from flows.ship import ship
    from flows.train import train
    from flows.validate import validate

    require_reward_model(config.reward, "reward is null")
    imported = take_in_log(config)
    collected = collect(config)
    trained = train(config)
    note_trained(config)
    if not (imported.get("questions") or collected.questions) and trained.version == current(config):
        get_run_logger().info(
            "nothing new: version %s is champion, and trained on all there is", trained.version
        )
        return Retrained(imported, collected, trained, None, None)
    validated = validate(config, version=trained.version)
    return Retrained(imported, collected, trained, validated, ship(config, validated.version))


@task(name="import-log", task_run_name="import-log", cache_policy=NO_CACHE)
def take_in_log(config: Config) -> dict[str, int]:
    """Add to the pool what the gateway drew to the full cap; nothing where there is no log yet."""
    folder = None if config.gateway is None else config.gateway.log.location()
    if folder is None or not any(folder.glob("*.parquet")):
        return {}
    found = import_log(folder, config.pool_location, read_all_questions(config), config.collect.answers)
    logger = get_run_logger()
    logger.info("%d questions of the decision log are new in the pool", found["questions"])
    if found["without_text"]:
        logger.warning(
            "%d explored requests have no text in the log, and no file of collect.questions has theirs: set "
            "gateway.log.text, or name the questions",
            found["without_text"],
        )
    return found
