"""``make bench``: speed as ratios against a bare loop of the same work in the same run.

Machines are shared and noisy, so nothing here is asserted; each figure is the median of paired runs.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from scipy import stats
from transformers import GenerationConfig

from models.generators import LocalGenerator
from models.settings import LocalGeneratorSettings, LoraSettings
from predictor import OptScale, Prior, decide, required_samples
from predictor.contract import Sampling
from predictor.network.model import QuestionCollator
from predictor.network.predictor import Predictor, encode
from predictor.network.settings import PredictorSettings
from predictor.question import Question


def paired(ours: Callable[[], object], bare: Callable[[], object], runs: int = 5) -> tuple[float, float]:
    """Median seconds of ``ours``, and the median over pairs of bare time / our time (1: as fast)."""
    ours(), bare()
    seconds, ratios = [], []
    for _ in range(runs):
        first = time.perf_counter()
        ours()
        second = time.perf_counter()
        bare()
        seconds.append(second - first)
        ratios.append((time.perf_counter() - second) / seconds[-1])
    return median(seconds), median(ratios)


def show(name: str, figures: tuple[float, float], unit: str) -> None:
    print(f"{name:34s} {figures[0]:10.4f} s   {figures[1]:6.2f} x {unit}", flush=True)


def bench_bound() -> None:
    rng = np.random.default_rng(0)
    mu, sigma = rng.uniform(0, 1, 100_000), rng.uniform(0.02, 0.5, 100_000)

    def bare() -> object:
        log_miss = stats.truncnorm.logcdf(0.95, -mu / sigma, (1 - mu) / sigma, mu, sigma)
        with np.errstate(divide="ignore"):
            return np.clip(np.ceil(np.log(0.05) / log_miss), 1, 64)

    show(
        "required_samples, 100,000 pairs",
        paired(lambda: required_samples(mu, sigma, 0.95, 0.95, 64), bare),
        "the speed of scipy.stats",
    )
    policy, prior = OptScale(cap=64), Prior.centred(0.7, 0.15)
    scores = rng.beta(5, 2, 8)
    seconds, _ = paired(lambda: decide(policy, scores, prior), lambda: None, 15)
    print(f"{'one decision of OptScale-t':34s} {1e3 * seconds:10.2f} ms", flush=True)


def bench_predictor() -> None:
    questions = [Question.ask("Compute " + " + ".join(["17"] * 19) + f" - {n}.") for n in range(32)]
    scores = np.random.default_rng(0).beta(4, 2, (32, 8))
    settings = PredictorSettings(lora=LoraSettings(rank=2, batch_size=8, max_steps=1, evaluate_every=1))
    with tempfile.TemporaryDirectory() as folder:
        fitted = Predictor.fit(
            (questions[:8], scores[:8]),
            (questions[8:12], scores[8:12]),
            settings,
            contract="c",
            data_digest="d",
            directory=Path(folder),
        )
        fitted.save_merged(Path(folder) / "merged")
        predictor = Predictor.load(Path(folder) / "merged")
    collate = QuestionCollator(predictor.tokenizer.pad_token_id)
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


if __name__ == "__main__":
    for bench in (bench_bound, bench_predictor, bench_generator):
        bench()
