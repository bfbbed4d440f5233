"""Replay and certify a pool that is on disk: no GPU, no registry, no flow."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from data.contract import require_same_contract
from data.pool import Pool
from data.question import Question
from data.scores import ScoreTable, load_scores
from flows.config import Config
from predictor.assessment import Assessment, assess, choose_family
from predictor.decision import Policy
from predictor.prior import Prior, PriorBatch, fit_population
from predictor.scored_questions import ScoredQuestions

if TYPE_CHECKING:  # a network is imported when one is named
    from predictor.learned.base import Predictor


class PriorSource(NamedTuple):
    """A pool's questions with a prior each, and how these came about."""

    questions: ScoredQuestions
    population: Prior
    tokens_read: Callable[[Question], int]
    left_out: Mapping[str, int]
    """Calibration and test questions that the predictor had read, by fold."""
    name: str


def population_priors(config: Config, table: ScoreTable) -> PriorSource:
    """The population's prior for each question, fitted on the train fold."""
    train = table.fold("train")
    family, _ = choose_family(config.predictor.family, config.policy.target, train, table.fold("tune"))
    population = fit_population(train.scores, family)
    questions = ScoredQuestions(table, PriorBatch.of([population] * len(table)))
    name = "the population's prior alone, without a predictor"
    return PriorSource(questions, population, lambda question: 0, {}, name)


def predictor_priors(predictor: "Predictor", table: ScoreTable, contract: str, name: str) -> PriorSource:
    """A predictor's priors, without the calibration and test questions that it was fitted on.

    Raises
    ------
    ContractError
        If it was fitted under another score contract.
    ModelError
        If it does not say what it was fitted on, or that is all of a fold.
    """
    from predictor.learned.unread import leave_out_read

    require_same_contract(predictor.card.contract, contract, name)
    table, left_out = leave_out_read(table, predictor.card)
    questions = ScoredQuestions(table, PriorBatch.of(predictor.predict(table.questions)))
    return PriorSource(questions, predictor.card.population, predictor.tokens_read, left_out, name)


def assess_priors(
    config: Config, contract: str, priors: PriorSource, extra_policies: Mapping[str, Policy] | None = None
) -> Assessment:
    """Certify and compare policies that decide with these priors; see `assess`."""
    table = priors.questions.table
    train, tune = table.fold("train"), table.fold("tune")
    _, families = choose_family(config.predictor.family, config.policy.target, train, tune)
    return assess(
        config.policy,
        config.certify,
        priors.questions,
        priors.population,
        families,
        contract=contract,
        extra_policies=extra_policies,
        tokens_read=priors.tokens_read,
    )._replace(left_out=priors.left_out, priors_from=priors.name)


def examine(
    config: Config,
    predictor_dir: Path | None = None,
    extra_policies: Mapping[str, Policy] | None = None,
) -> tuple[Pool, Assessment]:
    """The assessment of `validate`, with the population's prior, or with a predictor's from a directory.

    Raises
    ------
    PoolError, ContractError, ConfigError, ModelError
        If the pool or the predictor cannot be read, do not go together, or a fold is too small or all read.
    """
    pool = Pool.open(config.pool_location)
    table, contract = load_scores(pool, config.folds), pool.manifest.contract.fingerprint
    if predictor_dir is None:
        priors = population_priors(config, table)
    else:
        from predictor.learned.store import load_predictor

        predictor = load_predictor(predictor_dir)
        name = f"the {predictor.card.kind} predictor in {predictor_dir}"
        priors = predictor_priors(predictor, table, contract, name)
    return pool, assess_priors(config, contract, priors, extra_policies)
