"""Process reward models with a step-level head: encoding, training loss, and scoring.

A completion is split into steps, each followed by a separator token; the head reads P(step right)
at that token. Positions come from a mask made while encoding, never from the scores themselves.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from models.lora import Example
from models.sft import IGNORED


def encode_steps(
    tokenizer: Any, messages: list[dict[str, str]], steps: Sequence[str], separator: str = "\n"
) -> Example:
    """Token ids of the question and its steps; ``step_mask`` is 1 at each step's separator token."""
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = list(tokenizer(prompt, add_special_tokens=False).input_ids)
    mask = [0] * len(ids)
    (mark,) = tokenizer(separator, add_special_tokens=False).input_ids
    for step in steps:
        tokens = tokenizer(step, add_special_tokens=False).input_ids
        ids += [*tokens, mark]
        mask += [0] * len(tokens) + [1]
    return {"input_ids": ids, "step_mask": mask}


class PrmCollator:
    """Pads on the right; ``labels`` (batch, width) hold 0 or 1 at step positions, -100 elsewhere."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, examples: list[Example]) -> dict[str, Tensor]:
        width = max(len(e["input_ids"]) for e in examples)
        ids = torch.full((len(examples), width), self.pad_token_id)
        mask = torch.zeros_like(ids)
        labels = torch.full_like(ids, IGNORED)
        for row, example in enumerate(examples):
            length = len(example["input_ids"])
            ids[row, :length] = torch.tensor(example["input_ids"])
            mask[row, :length] = 1
            marks = torch.tensor(example["step_mask"]).nonzero().squeeze(1)
            labels[row, marks] = torch.tensor(example.get("labels", [0] * len(marks)), dtype=torch.long)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def prm_loss(output: Any, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the step labels; logits (batch, width, 2)."""
    return cross_entropy(output.logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


@torch.inference_mode()
def step_probabilities(
    model: Any, tokenizer: Any, examples: Sequence[Example], batch_size: int
) -> list[list[float]]:
    """P(step right) of each example's steps, in order; examples of like length share a batch."""
    collate = PrmCollator(tokenizer.pad_token_id)
    order = sorted(range(len(examples)), key=lambda i: len(examples[i]["input_ids"]))
    found: list[list[float]] = [[] for _ in examples]
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = {k: v.to(model.device) for k, v in collate([examples[i] for i in chosen]).items()}
        marks = batch.pop("labels") != IGNORED
        right = model(**batch).logits.float().softmax(-1)[..., 1]
        for row, index in enumerate(chosen):
            found[index] = right[row][marks[row]].tolist()
    return found
