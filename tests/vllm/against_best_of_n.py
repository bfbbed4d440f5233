"""The gateway against Best-of-32 on the same servers in one run: accuracy, tokens, latency.

``python -m tests.vllm.against_best_of_n [QUESTIONS] [CLIENTS]`` after ``make run`` and ``make test-vllm``:
it serves the last run's bundle beside vLLM with the solver and a server with the embedded PRM. The
questions are of the pool's kinds and in no pool. Blocks of them are asked in turn through the gateway and
as Best-of-N, which asks for all candidates at once, has them scored, and takes the best.
"""

import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import bentoml
import numpy as np
import openai

from data.answers import is_correct
from data.arithmetic import (
    POOL_MIX,
    STORY_MIX,
    draw_mix,
    pool_questions,
    tell_story,
    training_questions,
)
from data.question import Question
from flows.adapters import export
from flows.config import enter_home, load_config
from flows.tracking import CHAMPION, Tracking
from models.generator.http import AsyncHttpGenerator
from models.reward.http import AsyncHttpRewardModel
from models.settings import HttpGeneratorSettings
from serving.bundle import Bundle
from serving.settings import GatewaySettings, LogSettings
from tests.servers import free_port, running
from tests.serving.conftest import serve
from tests.vllm.test_vllm import serve as serve_vllm

BLOCK = 20


class Asked(NamedTuple):
    """One question's answer."""

    right: bool
    tokens: int
    candidates: int
    rounds: int
    longest: float
    """Rounds × the tokens of the longest candidate: the latency of a server that batches for nothing."""
    seconds: float


def fresh_questions(count: int) -> list[Question]:
    """Questions of the pool's kinds, in its shares; neither in its question set nor trained on."""
    known = training_questions() | {question.text for question in pool_questions()}
    rng = random.Random(4)
    stories = round(count * 200 / 2100)
    drawn = draw_mix(rng, POOL_MIX, count - stories, without=known)
    drawn += draw_mix(rng, STORY_MIX, stories, without=known, draw=tell_story)
    rng.shuffle(drawn)
    return [Question.ask(p.text, answer=p.answer, group=p.group) for p in drawn]


async def through_gateway(client: openai.AsyncOpenAI, question: Question) -> Asked:
    started = time.monotonic()
    answer = await client.chat.completions.create(model="solver", messages=question.as_chat())
    seconds = time.monotonic() - started
    told = answer.optscale
    assert (told["ended"], told["degraded"]) == ("decided", []), told
    return Asked(
        is_correct(answer.choices[0].message.content, question.answer),
        answer.usage.completion_tokens,
        told["drawn"],
        told["rounds"],
        float("nan"),
        seconds,
    )


async def best_of_n(
    generator: AsyncHttpGenerator, reward: AsyncHttpRewardModel, contract, cap: int, question: Question
) -> Asked:
    started = time.monotonic()
    drawn = await generator.sample(question, cap, 0, generator.settings.sampling)
    texts = sorted({c.text for c in drawn if c.status == "complete" and c.text and c.text.strip()})
    found = await reward.score([(question, text) for text in texts])
    scored = {t: contract.score(f.steps) for t, f in zip(texts, found, strict=True) if f.steps is not None}
    best = max(scored, key=scored.__getitem__) if scored else drawn[0].text or ""
    seconds = time.monotonic() - started
    tokens = [candidate.tokens for candidate in drawn]
    return Asked(is_correct(best, question.answer), sum(tokens), cap, 1, max(tokens), seconds)


async def all_of(ask, questions: list[Question], clients: int) -> list[Asked]:
    """Ask them all, so many at once."""
    limit = asyncio.Semaphore(clients)

    async def one(question: Question) -> Asked:
        async with limit:
            return await ask(question)

    return await asyncio.gather(*map(one, questions))


def interval(differences: np.ndarray) -> str:
    """Mean and 95 % bootstrap interval over questions."""
    rng = np.random.default_rng(0)
    means = differences[rng.integers(len(differences), size=(10_000, len(differences)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{differences.mean():+.3f} ({low:+.3f} to {high:+.3f})"


def main(count: int, clients: int) -> None:
    config = load_config()
    enter_home(config)
    tracking = Tracking(config)
    bento = bentoml.get(tracking.tags(tracking.version_of(CHAMPION))["bundle"])
    bundle = Path(bento.path) / "src" / "bundle"
    card = Bundle.open(bundle).card
    local = load_config("flows/configs/local-vllm.yaml").generator
    questions = fresh_questions(count + clients)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export(folder / "solver")
        port, made = free_port(), folder / "models.yaml"
        options = ("--dtype", "bfloat16", "--max-model-len", "512")
        with (
            serve_vllm(folder / "solver", "solver", folder / "solver.log", *options) as (solver, _),
            running(
                [sys.executable, "-m", "flows.serve", config.model_dump_json(), str(port), str(made)],
                f"http://127.0.0.1:{port}/v1/models",
                folder / "models.log",
            ),
        ):
            assert isinstance(local, HttpGeneratorSettings)
            generator = local.model_copy(update={"base_url": solver, "in_flight": 128})
            here = GatewaySettings.model_validate_json(made.read_text())
            reward = here.reward.model_copy(update={"in_flight": 128})
            settings = GatewaySettings(generator=generator, reward=reward, log=LogSettings(explore=0))
            with serve(bundle, settings, folder) as (url, _):
                print(f"{clients} clients at once, policy {card.policy}")
                asyncio.run(compare(url, settings, card, questions, clients))


def show(ours: list[Asked], theirs: list[Asked], cap: int) -> None:
    print(f"{len(ours)} questions")
    for name, asked in (("gateway", ours), (f"Best-of-{cap}", theirs)):
        seconds = [a.seconds for a in asked]
        print(
            f"{name:12s} right {np.mean([a.right for a in asked]):.3f}  "
            f"tokens {np.mean([a.tokens for a in asked]):7.1f}  "
            f"candidates {np.mean([a.candidates for a in asked]):5.1f}  "
            f"rounds {np.mean([a.rounds for a in asked]):.2f}  "
            f"latency {median(seconds):.2f} s in the middle, {np.quantile(seconds, 0.9):.2f} s at 90 %"
        )
    pairs = list(zip(ours, theirs, strict=True))
    difference = np.array([a.right - b.right for a, b in pairs], float)
    print(f"right, gateway less Best-of-N: {interval(difference)}")
    tokens = sum(a.tokens for a in ours) / sum(a.tokens for a in theirs)
    print(f"tokens: {tokens:.3f} of Best-of-N's")
    middle = median(a.seconds for a in ours) / median(b.seconds for b in theirs)
    print(f"median latency: {middle:.2f} of Best-of-N's")
    longest = [a.rounds * b.longest for a, b in pairs]
    print(
        f"rounds x longest of the question's {cap} candidates, tokens: {np.mean(longest):.0f} "
        f"against {np.mean([b.longest for b in theirs]):.0f}: with a server that batches for nothing, "
        f"{np.mean(longest) / np.mean([b.longest for b in theirs]):.2f} of Best-of-N's latency at most",
        flush=True,
    )


async def compare(url, settings: GatewaySettings, card, questions, clients) -> None:
    """Blocks of questions, through the gateway and as Best-of-N in turn, first one then the other first."""
    generator, reward = AsyncHttpGenerator(settings.generator), AsyncHttpRewardModel(settings.reward)
    ours: list[Asked] = []
    theirs: list[Asked] = []
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600) as client:

        async def gateway(block: list[Question]) -> None:
            ours.extend(await all_of(lambda q: through_gateway(client, q), block, clients))

        async def bare(block: list[Question]) -> None:
            def ask(question: Question):
                return best_of_n(generator, reward, card.contract, card.policy.cap, question)

            theirs.extend(await all_of(ask, block, clients))

        warm, questions = questions[:clients], questions[clients:]
        await all_of(lambda q: through_gateway(client, q), warm, clients)
        for number, at in enumerate(range(0, len(questions), BLOCK)):
            block = questions[at : at + BLOCK]
            for part in (gateway, bare) if number % 2 else (bare, gateway):
                await part(block)
            show(ours, theirs, card.policy.cap)
    await generator.client.close()
    await reward.client.close()


if __name__ == "__main__":
    main(*(int(n) for n in [*sys.argv[1:], *("100", "4")[len(sys.argv) - 1 :]]))
