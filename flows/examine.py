"""Replay and certify a pool that is on disk: no GPU, no registry, no flow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.contract import require_same_contract
from data.errors import PoolError
from data.pool import Pool
from data.scores import load_scores
from flows.config import Config
from predictor.assessment import Assessment, assess, choose_family
from predictor.decision import Policy
from predictor.prior import PriorBatch, fit_population
from predictor.scored_questions import ScoredQuestions


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
    family, families = choose_family(config.predictor.family, config.policy.target, train, tune)
    more_told: dict[str, Any] = {}
    if predictor_dir is None:
        population, tokens_read = fit_population(train.scores, family), lambda question: 0
        priors = PriorBatch.of([population] * len(table))
    else:
        from predictor.learned.store import load_predictor
        from predictor.learned.unread import leave_out_read

        predictor = load_predictor(predictor_dir)
        require_same_contract(predictor.card.contract, contract, "replay")
        table, left_out = leave_out_read(table, predictor.card)
        more_told = {
            "left_out": left_out,
            "priors_from": f"the {predictor.card.kind} predictor in {predictor_dir}",
        }
        population, tokens_read = predictor.card.population, predictor.tokens_read
        priors = PriorBatch.of(predictor.predict(table.questions))
    found = assess(
        config.policy,
        config.certify,
        ScoredQuestions(table, priors),
        population,
        families,
        contract=contract,
        more=more,
        tokens_read=tokens_read,
    )
    return pool, found._replace(**more_told)
