"""Collect: candidates of new questions, scored where there is a reward model, into the pool."""

import operator
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from prefect import flow, task
from prefect.artifacts import (
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.logging import get_run_logger

from data.answer_function import load_answer_function
from data.contract import UNSCORED, ScoreContract, require_scores
from data.errors import CollectError, PoolError, ScoreError
from data.pool import Pool, pending
from data.question import Question, require_distinct
from data.questions import read_questions
from data.rows import Row, make_row
from flows.config import Config
from flows.draw_plan import CollectSettings, choose_few, plan_parts
from flows.progress import counted
from models.generator.base import Candidate, Generator
from models.load import load_generator, load_reward_model
from models.reward.base import RewardModel, StepScores

UNJUDGED = StepScores(None, 0)
"""Of a completion where there is no reward model."""


class Collected(NamedTuple):
    """What a collection added."""

    questions: int
    candidates: int
    tokens: int
    failed: int
    """Candidates that are misses: cut, failed, or too long for the reward model."""
    seconds: float
    causes: Counter[str]
    """Why candidates failed, with how often."""


def make_contract(generator: Generator, reward: RewardModel | None) -> ScoreContract:
    """The score contract of a generator and a reward model; without one it is of no scores."""
    scored: dict[str, Any] = UNSCORED
    if reward is not None:
        scored = {**reward.identity, "aggregation": reward.aggregation}
    return ScoreContract(**generator.identity, sampling=generator.sampling, **scored)


def require_reward_model(named: object, where: str) -> None:
    """Raise ScoreError if none is named: then there are no scores that a predictor could be fitted to."""
    if named is None:
        raise ScoreError(
            f"{where}: nothing scores candidates, and a predictor foretells the law of scores, so there is "
            "none to train. `optscale compare` tells what policies by answers are worth without scores; or "
            "name a reward model under reward, and collect a pool with it"
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
    reward: RewardModel | None,
    contract: ScoreContract,
    causes: Counter[str] | None = None,
    answers: str | None = None,
) -> list[Row]:
    """``n`` candidates of each question, scored where there is a reward model, as rows of the pool.

    A candidate whose text is empty or whose step scores are no probabilities is kept as failed: it
    cost its tokens, and it is a miss. ``reward_tokens`` are what scoring it alone takes. ``causes`` counts
    why candidates failed; ``answers`` names the function that reads them, see `load_answer_function`.
    """
    read = load_answer_function(answers)
    sampled = generator.sample(questions, n, seed)
    whole = {
        (place, number): (questions[place], candidate.text)
        for place, candidates in enumerate(sampled)
        for number, candidate in enumerate(candidates)
        if candidate.status == "complete" and candidate.text and candidate.text.strip()
    }
    # Candidates of an easy question are often the same to the letter: score each text once.
    distinct = list({(q.id, text): (q, text) for q, text in whole.values()}.values())
    judged = [UNJUDGED] * len(distinct) if reward is None else reward.score(distinct)
    scores = {(q.id, text): found for (q, text), found in zip(distinct, judged, strict=True)}
    scored = {key: scores[q.id, text] for key, (q, text) in whole.items()}
    if causes is not None:
        causes.update(c.cause for candidates in sampled for c in candidates if c.cause)
        causes.update(found.cause for found in scored.values() if found.cause)
    rows = []
    for place, question in enumerate(questions):
        for number, candidate in enumerate(sampled[place]):
            key, correct = read(candidate.text or "", question)
            row = _row(question, contract, number, candidate, scored.get((place, number)))
            # What is read by the product itself is read again wherever it is needed.
            rows.append(row | {"correct": correct, "answer_key": None if answers is None else key or ""})
    return rows


def _row(
    question: Question,
    contract: ScoreContract,
    number: int,
    candidate: Candidate,
    found: StepScores | None,
) -> Row:
    steps, status = None, candidate.status
    if found is not None and found is not UNJUDGED:
        try:
            steps = require_scores(found.steps if found.steps else [np.nan], "step scores", contract.scale)
        except ScoreError:
            status = "over-length" if found.over_length else "failed"
    elif status == "complete" and found is None:
        status = "failed"
    score = None if steps is None else contract.score(steps)
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
        score=score if contract.scale == "unit" else None,
        raw_score=score if contract.scale == "raw" else None,
        reward_tokens=0 if found is None else found.tokens,
        seed=candidate.seed,
    )


def estimate(config: Config) -> dict[str, Any]:
    """What collecting the new questions would take: questions, tokens, time and cost.

    Tokens a candidate and tokens a second are those of the pool so far; on an empty pool tokens are
    counted at their limit and the time is unknown.

    Raises
    ------
    PoolError
        If there is a pool that cannot be read.
    """
    questions = read_all_questions(config)
    pool = Pool.open(config.pool_location) if Pool.exists(config.pool_location) else None
    waiting = pending(questions, pool) if pool else questions
    new = waiting[: config.collect.limit]
    few = len(choose_few(new, pool, config.folds, config.collect))
    whole = len(new) * config.collect.candidates
    candidates = whole - few * (config.collect.candidates - (config.collect.train_candidates or 0))
    names = ("completion_tokens", "prompt_tokens", "reward_tokens")
    sampled = pool.columns(*names).to_pydict() if pool else {name: [] for name in names}
    limit = config.generator.sampling.max_tokens

    def mean(column: str, otherwise: float) -> float:
        return float(np.mean(sampled[column])) if sampled[column] else otherwise

    generated = candidates * mean("completion_tokens", limit)
    prompt = len(new) * mean("prompt_tokens", 100)
    judged = candidates * mean("reward_tokens", limit + 100) if config.reward else 0
    # Parts in flight share the time that each of them took.
    seconds = sum(p.seconds for p in pool.manifest.parts) / config.collect.parts_in_flight if pool else 0.0
    rate = sum(sampled["completion_tokens"]) / seconds if seconds else None
    prices = config.prices
    cost = (
        generated * prices.generator_per_million
        + prompt * prices.prompt_per_million
        + judged * prices.reward_per_million
    ) / 1e6
    return {
        "questions": len(new),
        "already collected": len(questions) - len(waiting),
        "beyond the limit": len(waiting) - len(new),
        **({"with few candidates": few, "saved by that": f"{1 - candidates / whole:.0%}"} if few else {}),
        "candidates": candidates,
        "generated tokens": round(generated),
        "prompt tokens": round(prompt),
        "reward-model tokens": round(judged),
        "minutes": round(generated / rate / 60, 1) if rate else "unknown until something was collected",
        f"cost ({prices.currency})": round(cost, 2),
    }


@task(name="collect-part", task_run_name="collect-part", cache_policy=NO_CACHE)
def collect_part(
    questions: Sequence[Question],
    seed: int,
    settings: CollectSettings,
    generator: Generator,
    reward: RewardModel | None,
    pool: Pool,
) -> Collected:
    """Sample, score and append one part; all of it is in the pool when this returns.

    Raises
    ------
    CollectError
        If more than ``settings.failed_share`` of the candidates failed; nothing is written then.
    """
    questions = pending(questions, Pool.open(pool.location))  # another collection may have added some
    if not questions:
        return NOTHING
    started, n, causes = time.monotonic(), settings.candidates, Counter[str]()
    rows = sample_and_score(
        questions, n, seed, generator, reward, pool.manifest.contract, causes, settings.answers
    )
    seconds = time.monotonic() - started
    failed = sum(row["status"] == "failed" for row in rows)
    if failed > settings.failed_share * len(rows):
        raise CollectError(
            f"{failed} of {len(rows)} candidates failed, more than collect.failed_share allows; the part is "
            f"not kept. {'; '.join(f'{count}: {cause}' for cause, count in causes.most_common(3))}"
        )
    pool.append(rows, seconds=seconds)
    missed = sum(row["status"] != "complete" for row in rows)
    tokens = sum(row["completion_tokens"] for row in rows)
    return Collected(len(questions), len(rows), tokens, missed, seconds, causes)


def may_try_again(task: Any, run: Any, state: Any) -> bool:
    """Not where the pool refused the part: it would, once more, after all was sampled once more."""
    return not isinstance(state.data, PoolError)


def computed_in(config: Config) -> dict[str, str]:
    """What generator and reward model compute in: scores differ a little between kinds of arithmetic."""
    found = {}
    for name, settings in (("generator", config.generator), ("reward model", config.reward)):
        if settings is None:
            continue
        if settings.kind == "local":
            from models import backbone  # with torch, which models over HTTP do without

            device = backbone.resolve_device(settings.device)
            found[f"{name} computed in"] = backbone.arithmetic(settings.dtype, device)
        else:
            found[f"{name} computed in"] = (
                "what vLLM chose" if settings.kind == "vllm-offline" else "what its server does"
            )
    return found


@flow(name="collect", flow_run_name="collect")
def collect(config: Config) -> Collected:
    """Collect every question that the pool does not hold yet; a killed run goes on where it was."""
    logger = get_run_logger()
    questions = read_all_questions(config)
    generator = load_generator(config.generator)
    reward = None if config.reward is None else load_reward_model(config.reward)
    pool = Pool.create(config.pool_location, make_contract(generator, reward))
    new = pending(questions, pool)[: config.collect.limit]
    parts = plan_parts(new, choose_few(new, pool, config.folds, config.collect), config.collect)
    artifact = create_progress_artifact(progress=0.0, key="collect", description="questions collected")
    total = NOTHING
    for done in chain([NOTHING], _collect_parts(parts, generator, reward, pool)):
        total = Collected(*map(operator.add, total, done))
        progress = counted(total.questions, len(new))
        logger.info("%d of %d new questions", *progress.values(), extra=progress)
        update_progress_artifact(artifact, progress=100 * total.questions / max(len(new), 1))  # type: ignore[arg-type]
    row = {**total._asdict(), **computed_in(config)}
    create_table_artifact(table=[row], key="collected", description="what was collected")
    return total


def _collect_parts(
    parts: Sequence[tuple[Sequence[Question], CollectSettings]], *models_and_pool: Any
) -> Iterator[Collected]:
    """What each part added, with ``parts_in_flight`` of them under way at once."""
    under_way: deque[PrefectFuture[Collected]] = deque()
    for part, settings in parts:
        work = collect_part.with_options(
            retries=settings.retries, retry_delay_seconds=5, retry_condition_fn=may_try_again
        )
        # The seed follows the first question: a part collected later or again draws the same.
        asked = (part, settings.seed + int(part[0].id[:8], 16), settings, *models_and_pool)
        if settings.parts_in_flight == 1:
            yield work(*asked)  # in this thread: torch is slower in a second one
            continue
        if len(under_way) == settings.parts_in_flight:
            yield under_way.popleft().result()
        under_way.append(work.submit(*asked))
    while under_way:
        yield under_way.popleft().result()


NOTHING = Collected(0, 0, 0, 0, 0.0, Counter())
