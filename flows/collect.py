"""Collect: candidates of new questions, scored, into the pool."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from prefect import flow, task
from prefect.artifacts import (
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from tqdm.auto import tqdm

from data.answers import is_correct
from data.pool import Pool, Row, make_row, pending
from data.questions import read_questions
from flows.config import Config
from models.generators import Candidate, Generator, LocalGenerator
from models.rewards import LocalRewardModel, RewardModel, StepScores
from predictor.contract import ScoreContract, require_scores
from predictor.errors import OptScaleError, ScoreError
from predictor.question import Question, require_distinct


class Collected(NamedTuple):
    """What a collection added."""

    questions: int
    candidates: int
    tokens: int
    failed: int
    """Candidates without a score: cut, failed, or too long for the reward model."""
    seconds: float


def make_contract(generator: Generator, reward: RewardModel) -> ScoreContract:
    """The score contract of a generator and a reward model."""
    return ScoreContract(
        **generator.identity,
        **reward.identity,
        sampling=generator.sampling,
        aggregation=reward.aggregation,
    )


def read_all_questions(config: Config) -> list[Question]:
    """The questions of all configured sets."""
    files = config.collect.questions
    found = [q for file in files for q in read_questions(file)]
    return require_distinct(found, " and ".join(files))


def sample_and_score(
    questions: Sequence[Question],
    n: int,
    seed: int,
    generator: Generator,
    reward: RewardModel,
    contract: ScoreContract,
) -> list[Row]:
    """``n`` scored candidates of each question, as rows of the pool.

    A candidate whose text is empty or whose step scores are no probabilities is kept as failed: it
    cost its tokens, and it is a miss.
    """
    sampled = generator.sample(questions, n, seed)
    whole = [
        (place, number)
        for place, candidates in enumerate(sampled)
        for number, c in enumerate(candidates)
        if c.status == "complete" and (c.text or "").strip()
    ]
    items = [(questions[p], sampled[p][c].text or "") for p, c in whole]
    scored = dict(zip(whole, reward.score(items), strict=True))
    return [
        _row(question, contract, number, candidate, scored.get((place, number)))
        for place, question in enumerate(questions)
        for number, candidate in enumerate(sampled[place])
    ]


def _row(
    question: Question,
    contract: ScoreContract,
    number: int,
    candidate: Candidate,
    found: StepScores | None,
) -> Row:
    steps, status = None, candidate.status
    if found is not None:
        try:
            steps = require_scores(found.steps if found.steps else [np.nan], "step scores")
        except ScoreError:
            status = "over-length" if found.over_length else "failed"
    elif status == "complete":
        status = "failed"
    return make_row(
        question,
        contract,
        candidate=number,
        round=0,
        completion=candidate.text,
        completion_tokens=candidate.tokens,
        prompt_tokens=candidate.prompt_tokens,
        status=status,
        step_scores=None if steps is None else steps.tolist(),
        score=None if steps is None else contract.score(steps),
        correct=is_correct(candidate.text, question.answer),
        reward_tokens=0 if found is None else found.tokens,
        seed=candidate.seed,
    )


def estimate(config: Config) -> dict[str, Any]:
    """What collecting the new questions would take: questions, tokens, time and cost.

    Tokens a candidate and tokens a second are those of the pool so far; on an empty pool tokens are
    counted at their limit and the time is unknown.
    """
    questions = read_all_questions(config)
    try:
        pool: Pool | None = Pool.open(config.pool_location)
    except OptScaleError:
        pool = None
    new = (pending(questions, pool) if pool else questions)[: config.collect.limit]
    candidates = len(new) * config.collect.candidates
    rows = list(pool.rows()) if pool else []
    limit = config.generator.sampling.max_tokens

    def mean(column: str, otherwise: float) -> float:
        return float(np.mean([r[column] for r in rows])) if rows else otherwise

    generated = candidates * mean("completion_tokens", limit)
    prompt = len(new) * mean("prompt_tokens", 100)
    judged = candidates * mean("reward_tokens", limit + 100)
    seconds = sum(p.seconds for p in pool.manifest.parts) if pool else 0.0
    rate = sum(r["completion_tokens"] for r in rows) / seconds if seconds else None
    prices = config.prices
    cost = (
        generated * prices.generator_per_million
        + prompt * prices.prompt_per_million
        + judged * prices.reward_per_million
    ) / 1e6
    return {
        "questions": len(new),
        "already collected": len(questions) - len(new) if pool else 0,
        "candidates": candidates,
        "generated tokens": round(generated),
        "prompt tokens": round(prompt),
        "reward-model tokens": round(judged),
        "minutes": round(generated / rate / 60, 1) if rate else "unknown until something was collected",
        f"cost ({prices.currency})": round(cost, 2),
    }


@task(name="collect-part", cache_policy=NO_CACHE)
def collect_part(
    questions: Sequence[Question],
    n: int,
    seed: int,
    generator: Generator,
    reward: RewardModel,
    pool: Pool,
) -> Collected:
    """Sample, score and append one part; all of it is in the pool when this returns."""
    started = time.monotonic()
    rows = sample_and_score(questions, n, seed, generator, reward, pool.manifest.contract)
    seconds = time.monotonic() - started
    pool.append(rows, seconds=seconds)
    failed = sum(row["score"] is None for row in rows)
    tokens = sum(row["completion_tokens"] for row in rows)
    return Collected(len(questions), len(rows), tokens, failed, seconds)


@flow(name="collect")
def collect(config: Config) -> Collected:
    """Collect every question that the pool does not hold yet; a killed run goes on where it was."""
    logger = get_run_logger()
    questions = read_all_questions(config)
    generator = LocalGenerator(config.generator)
    reward = LocalRewardModel(config.reward)
    pool = Pool.create(config.pool_location, make_contract(generator, reward))
    new = pending(questions, pool)[: config.collect.limit]
    logger.info("%d questions, %d of them new", len(questions), len(new))
    size = config.collect.part_questions
    parts = [new[i : i + size] for i in range(0, len(new), size)]
    artifact = create_progress_artifact(progress=0.0, key="collect", description="parts collected")
    work = collect_part.with_options(retries=config.collect.retries, retry_delay_seconds=5)
    done = []
    for number, part in enumerate(tqdm(parts, desc="collect", unit="part")):
        # The seed follows the first question's id: a part collected later or again draws the same.
        seed = config.collect.seed + int(part[0].id[:8], 16)
        done.append(work(part, config.collect.candidates, seed, generator, reward, pool))
        update_progress_artifact(artifact, progress=100 * (number + 1) / len(parts))  # type: ignore[arg-type]
    total = Collected(*(sum(values) for values in zip(*done, strict=True))) if done else NOTHING
    create_table_artifact(table=[total._asdict()], key="collected", description="what was collected")
    logger.info("collected %s", total)
    return total


NOTHING = Collected(0, 0, 0, 0, 0.0)
