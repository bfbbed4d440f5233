"""Qwen2.5-Math-PRM (7B, 72B): ``<extra_0>`` after each step, two classes there, the second is right.

Model card: https://huggingface.co/Qwen/Qwen2.5-Math-PRM-7B. The released weights are a Qwen2 backbone
and a head of two layers; they load into the class below under their own names, without remote code.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2Model, Qwen2PreTrainedModel

from models import backbone
from models.settings import LocalRewardSettings
from models.steps import Convention, Example, encode_marked, paragraphs, step_ends
from predictor.question import Question

MARK = "<extra_0>"
SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


class QwenProcessRewardModel(Qwen2PreTrainedModel):
    """The released architecture, Qwen2ForProcessRewardModel."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__(config)
        self.model = Qwen2Model(config)
        size = config.hidden_size
        self.score = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, 2))
        self.post_init()

    def step_logits(self, input_ids: Tensor, attention_mask: Tensor, step: Tensor) -> Tensor:
        """(batch, steps) logits of P(step right)."""
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask)[0]
        rows = torch.arange(len(hidden), device=hidden.device)[:, None]
        classes = self.score(hidden[rows, step_ends(step)])
        return classes[..., 1] - classes[..., 0]


def _encode(tokenizer: Any, question: Question, steps: Sequence[str]) -> Example:
    turns = [t for t in question.as_chat() if t["role"] != "system"]
    messages = [{"role": "system", "content": SYSTEM}, *turns]
    head = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    # A mark in the text itself would be read as a mark.
    marked = [step.replace(MARK, "") + MARK for step in steps]
    return encode_marked(tokenizer, head.replace(MARK, ""), marked, tokenizer.eos_token + "\n", MARK)


def _load(settings: LocalRewardSettings, dtype: torch.dtype) -> QwenProcessRewardModel:
    model: QwenProcessRewardModel = backbone.load(settings.backbone, QwenProcessRewardModel, dtype=dtype)
    return model


CONVENTION = Convention(split=paragraphs, encode=_encode, load=_load)
