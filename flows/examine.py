"""Replay and certify a pool that is on disk: no GPU, no registry, no flow."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import ValidationError

from data.contract import require_same_contract
from data.errors import ConfigError, ScoreError
from data.pool import Pool
from data.question import Question
from data.scores import ScoreTable, load_scores
from data.validation import explain
from flows.config import Config
from predictor.assessment import Assessment, assess, choose_family
from predictor.certificate import Certificate
from predictor.family_check import FamilyFit
from predictor.forecast import GoalForecast, forecast
from predictor.policies import AnyPolicy, load_policy
from predictor.prior import Prior, PriorBatch, fit_population
from predictor.scored_questions import ScoredQuestions

if TYPE_CHECKING:  # a network is imported when one is named
    from predictor.learned.base import Predictor


class PriorSource(NamedTuple):
    """A pool's questions with a prior each, and how these came about."""

    questions: ScoredQuestions
    population: Prior | None
    """None where the pool has no scores."""
    tokens_read: Callable[[Question], int]
    left_out: Mapping[str, int]
    """Calibration and test questions that the predictor had read, by fold."""
    name: str

    def require_population(self) -> Prior:
        """The population's prior; raises ScoreError where the pool has no scores."""
        if self.population is None:
            raise ScoreError("this pool has no scores: a predictor of scores has nothing to say here")
        return self.population


def population_priors(config: Config, table: ScoreTable) -> PriorSource:
    """The population's prior for each question, fitted on the train fold; none where there are no scores."""
    name = "the population's prior alone, without a predictor"
    if not table.has_scores:
        return PriorSource(ScoredQuestions(table, None), None, lambda question: 0, {}, "no prior: no scores")
    train = table.fold("train")
    family, _ = choose_family(config.predictor.family, config.policy.target, train, table.fold("tune"))
    population = fit_population(train.scores, family)
    questions = ScoredQuestions(table, PriorBatch.of([population] * len(table)))
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
    if predictor.card.score_map is not None:
        table = table.mapped(predictor.card.score_map)
    table, left_out = leave_out_read(table, predictor.card)
    population, priors = predictor.card.population, predictor.predict(table.questions)
    if predictor.card.kind == "lora":  # it has learnt its train questions by heart: nothing is chosen on that
        priors = [
            population if fold == "train" else prior for fold, prior in zip(table.folds, priors, strict=True)
        ]
    questions = ScoredQuestions(table, PriorBatch.of(priors))
    return PriorSource(questions, population, predictor.tokens_read, left_out, name)


def assess_priors(
    config: Config,
    contract: str,
    priors: PriorSource,
    shown_too: Mapping[str, AnyPolicy] | None = None,
    used: Mapping[str, int] | None = None,
) -> Assessment:
    """Design, certify and compare policies that decide with these priors; see `assess`."""
    table, families = priors.questions.table, list[FamilyFit]()
    if table.has_scores:
        train, tune = table.fold("train"), table.fold("tune")
        _, families = choose_family(config.predictor.family, config.policy.target, train, tune)
    return assess(
        config.policy,
        config.goal,
        config.certify,
        priors.questions,
        priors.population,
        families,
        contract=contract,
        shown_too=shown_too,
        tokens_read=priors.tokens_read,
        one_a_group=config.folds.by == "group",
        prices=config.prices.in_tokens(),
        used=used,
    )._replace(left_out=priors.left_out, priors_from=priors.name)


def read_policies(files: Iterable[Path]) -> dict[str, AnyPolicy]:
    """Policies by the names of their files; of a certificate, what it lets be shipped."""
    found = {}
    for file in files:
        try:
            certificate = read_certificate(file)
            found[file.stem] = certificate.to_ship()
        except ConfigError:
            found[file.stem] = load_policy(file.read_bytes())
    return found


def read_certificate(file: Path) -> Certificate:
    """What `certify` wrote; raises ConfigError where it is none."""
    try:
        return Certificate.model_validate_json(file.read_bytes())
    except ValidationError as error:
        problems = explain(error.errors(), Certificate)
        raise ConfigError(f"{file} is not a certificate: {problems}") from error


def forecast_goals(config: Config) -> list[GoalForecast]:
    """For several goals, the questions that they need and what they can be expected to save.

    Of the pool's train and tune questions; without a pool the least that is needed.
    """
    if not Pool.exists(config.pool_location):
        return forecast(None, 0, config.certify, config.goal.delta)
    _, table = load_table(config)
    cap = table.usual_cap(config.policy.cap)
    table = table.full(cap)
    seen, calibration = table.fold("train", "tune"), int((table.folds == "calibration").sum())
    return forecast(seen.candidates(cap), calibration, config.certify, config.goal.delta)


def load_table(config: Config) -> tuple[Pool, ScoreTable]:
    """The pool and its candidates."""
    pool = Pool.open(config.pool_location)
    return pool, load_scores(pool, config.folds)


def examine(
    config: Config,
    predictor_dir: Path | None = None,
    shown_too: Mapping[str, AnyPolicy] | None = None,
) -> tuple[Pool, Assessment]:
    """The assessment of `validate`, with the population's prior, or with a predictor's from a directory.

    Raises
    ------
    PoolError, ContractError, ConfigError, ModelError
        If the pool or the predictor cannot be read, do not go together, or a fold is too small or all read.
    """
    pool, table = load_table(config)
    contract = pool.manifest.contract.fingerprint
    if predictor_dir is None:
        priors = population_priors(config, table)
    else:
        from predictor.learned.store import load_predictor

        predictor = load_predictor(predictor_dir)
        name = f"the {predictor.card.kind} predictor in {predictor_dir}"
        priors = predictor_priors(predictor, table, contract, name)
    return pool, assess_priors(config, contract, priors, shown_too)
