"""Plan: what a set of questions will cost, before anything is generated."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from data.contract import require_same_contract
from data.errors import ConfigError
from data.pool import Pool
from data.questions import read_questions
from data.scores import ScoreTable, load_scores
from data.validation import explain
from flows.config import Config
from flows.examine import population_priors
from flows.settings import PriceSettings
from predictor.assessment import to_reference
from predictor.planning import Forecast, Range, estimate
from predictor.policies import AnyPolicy, FixedN, Predictive
from predictor.policy_base import Policy
from predictor.prior import Prior, PriorBatch

Row = dict[str, Any]
CONFIDENCES = (0.8, 0.9, 0.95)


def plan(
    config: Config,
    questions_file: Path,
    predictor_dir: Path | None = None,
    targets: Sequence[float] = (),
    confidences: Sequence[float] = CONFIDENCES,
) -> list[Row]:
    """Expected value and 95 % range of what the questions take: a row a policy.

    For each target: fixed N = cap, and the predictive bound with each confidence; the config's policy
    first. Without a predictor the questions are taken to be like the pool's train questions; with one,
    each like those of them that its prior points to. Its contract must be the pool's.

    Parameters
    ----------
    targets : multiples of .005 in (0, 1); none: the policy's own, one .05 below and one .05 above.

    Raises
    ------
    QuestionError, PoolError, ContractError, ModelError
        If the questions, the pool or the predictor cannot be read, or do not go together.
    ConfigError
        If a target or a confidence is impossible.
    """
    questions, pool = read_questions(questions_file), Pool.open(config.pool_location)
    policies = _policies(config, targets or _around(config.policy.target), confidences)
    table = load_scores(pool, config.folds)
    if predictor_dir is None:
        population = population_priors(config, table).require_population()
        priors = [population] * len(questions)
    else:
        from predictor.learned.store import load_predictor

        predictor = load_predictor(predictor_dir)
        require_same_contract(predictor.card.contract, pool.manifest.contract.fingerprint, "plan")
        population, priors = predictor.card.population, predictor.predict(questions)
    return _rows(config, policies, priors, table.full(config.policy.cap).fold("train"), population)


def _around(target: float) -> tuple[float, ...]:
    return tuple(t for step in (-0.05, 0.0, 0.05) if 0 < (t := round(target + step, 6)) < 1)


def _policies(
    config: Config, targets: Sequence[float], confidences: Sequence[float]
) -> list[tuple[str, Policy]]:
    cap = config.policy.cap
    # Rounds of an eighth of the cap where the policy sets none: in one round no hit could stop it.
    common: dict[str, Any] = {"cap": cap, "batch": config.policy.batch or max(cap // 8, 1)}
    policies: list[tuple[str, Policy]] = [("config's policy", config.policy)]
    try:
        for target in targets:
            policies.append((f"fixed N = {cap}", FixedN(target=target, cap=cap)))
            bounds = [Predictive(target=target, confidence=alpha, **common) for alpha in confidences]
            policies += [("predictive", bound) for bound in bounds]
    except ValidationError as error:
        problems = explain(error.errors(), AnyPolicy)
        raise ConfigError(
            f"cannot plan for targets {targets} and confidences {confidences}: {problems}"
        ) from error
    return policies


def _rows(
    config: Config,
    policies: Sequence[tuple[str, Policy]],
    priors: Sequence[Prior],
    train: ScoreTable,
    population: Prior,
) -> list[Row]:
    batch, reference = PriorBatch.of(priors), to_reference(train, population)
    return [_row(name, p, estimate(p, batch, reference), config.prices) for name, p in policies]


def _row(name: str, policy: Policy, forecast: Forecast, prices: PriceSettings) -> Row:
    per_million = {
        "tokens": prices.generator_per_million,
        "prompt_tokens": prices.prompt_per_million,
        "reward_tokens": prices.reward_per_million,
    }
    hours = None
    if prices.generator_per_second and prices.reward_per_second:
        rates = {"tokens": prices.generator_per_second, "reward_tokens": prices.reward_per_second}
        hours = forecast.weigh(**{quantity: 1 / rate / 3600 for quantity, rate in rates.items()})
    reached = forecast.reached
    ranges = {
        "below target": Range(mean=1 - reached.mean, low=1 - reached.high, high=1 - reached.low),
        "candidates": forecast.candidates,
        "rounds": forecast.rounds,
        "generated tokens": forecast.tokens,
        "prompt tokens": forecast.prompt_tokens,
        "reward-model tokens": forecast.reward_tokens,
        "GPU hours": hours,
        f"cost ({prices.currency})": forecast.weigh(**{k: price / 1e6 for k, price in per_million.items()}),
    }
    row = {"policy": name, "target": policy.target, "confidence": getattr(policy, "confidence", None)}
    rounded = {
        quantity: None if r is None else {end: round(value, 4) for end, value in r.model_dump().items()}
        for quantity, r in ranges.items()
    }
    return {**row, "questions": forecast.questions, **rounded}
