"""Supervised fine-tuning of a generator: a question's messages to a known completion."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from models.lora import Example
from models.tokenizer import chat_prompt

IGNORED = -100


def encode_example(tokenizer: Any, messages: list[dict[str, str]], completion: str) -> Example:
    """Token ids of prompt and completion, end token included; only the completion has labels."""
    prompt = chat_prompt(tokenizer, messages)
    start = tokenizer(prompt, add_special_tokens=False).input_ids
    answer = tokenizer(completion + tokenizer.eos_token, add_special_tokens=False).input_ids
    return {"input_ids": start + answer, "answer_tokens": len(answer)}


class SftCollator:
    """Pads on the left, so the completions end together and logits are computed for them alone."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, examples: list[Example]) -> dict[str, Any]:
        width = max(len(e["input_ids"]) for e in examples)
        kept = max(e["answer_tokens"] for e in examples) + 1
        ids = torch.full((len(examples), width), self.pad_token_id)
        mask = torch.zeros_like(ids)
        labels = torch.full((len(examples), kept), IGNORED)
        for row, example in enumerate(examples):
            tokens = torch.tensor(example["input_ids"])
            ids[row, width - len(tokens) :] = tokens
            mask[row, width - len(tokens) :] = 1
            labels[row, kept - example["answer_tokens"] :] = tokens[-example["answer_tokens"] :]
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": positions,
            "logits_to_keep": kept,
            "labels": labels,
        }


def sft_loss(output: Any, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the next completion token; ``labels`` (batch, kept), -100 ignored."""
    logits = output.logits[:, :-1].float()
    return cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
