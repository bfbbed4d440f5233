"""Replay and certify a pool that is on disk: no GPU, no registry, no flow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.pool import Pool
from data.scores import load_scores
from flows.config import Config
from flows.evaluate import Assessment, assess, choose_family
from predictor.contract import require_same_contract
from predictor.decision import Policy
from predictor.errors import PoolError
from predictor.prior import Beliefs, fit_population


def examine(
    config: Config, predictor_dir: Path | None = None, more: Mapping[str, Policy] | None = None
) -> tuple[Pool, Assessment]:
    """What `validate` finds, with the population's prior, or with a predictor's from a directory.

    Calibration and test questions that the predictor was fitted on are left out.

    Raises
    ------
    PoolError, ContractError, ConfigError, ModelError
        If the pool or the predictor cannot be read, do not go together, or a fold is too small or all read.
    """
    pool = Pool.open(config.pool_location)
    table = load_scores(pool, config.folds)
    train, tune = table.fold("train"), table.fold("tune")
    if len(train) < 8 or len(tune) < 4:
        raise PoolError(
            f"pool {pool.location} has {len(train)} train and {len(tune)} tune questions; at least 8 and 4 "
            "are needed: collect or import more questions"
        )
    contract = pool.manifest.contract.fingerprint
    family, families = choose_family(config, train, tune)
    more_told: dict[str, Any] = {}
    if predictor_dir is None:
        population, tokens_read = fit_population(train.scores, family), lambda question: 0
        believe = lambda fold: Beliefs.of([population] * len(fold))  # noqa: E731
    else:
        from flows.unread import leave_out_read
        from predictor.network.predictor import Predictor

        predictor = Predictor.load(predictor_dir)
        require_same_contract(predictor.card.contract, contract, "replay")
        table, left_out = leave_out_read(table, predictor.card)
        more_told = {
            "left_out": left_out,
            "told_by": f"the {predictor.card.kind} predictor in {predictor_dir}",
        }
        population, tokens_read = predictor.card.population, predictor.tokens_read
        believe = lambda fold: Beliefs.of(predictor.predict(fold.questions))  # noqa: E731
    found = assess(config, contract, table, believe, population, families, more, tokens_read)
    return pool, found._replace(**more_told)
