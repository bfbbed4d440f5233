"""The process reward models that run in this process, one loader a convention."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2Model, Qwen2PreTrainedModel

from models import backbone, lora
from models.conventions.math_shepherd import MARK
from models.prm import StepRewardModel
from models.settings import LocalRewardSettings
from models.step_tensors import step_ends
from predictor.errors import ModelError


def load_step_network(settings: LocalRewardSettings, dtype: torch.dtype) -> Any:
    """A module with ``step_logits(input_ids, attention_mask, step)``, which gives (batch, steps) logits.

    They are those of P(step right); ``step`` numbers each token's step from 1, 0 outside, as the
    conventions encode it.
    """
    return _LOADERS[settings.convention](settings, dtype)


class QwenProcessRewardModel(Qwen2PreTrainedModel):
    """The released architecture, Qwen2ForProcessRewardModel: a Qwen2 backbone and a head of two layers.

    Released weights load into it under their own names, without remote code.
    """

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
        classes = self.score(hidden[rows, step_ends(step)].float())
        return classes[..., 1] - classes[..., 0]


class ShepherdRewardModel(nn.Module):
    """A causal language model, asked for + or - at each mark."""

    def __init__(self, model: nn.Module, right: int, wrong: int) -> None:
        super().__init__()
        self.model: Any = model
        self.classes = (right, wrong)

    def step_logits(self, input_ids: Tensor, attention_mask: Tensor, step: Tensor) -> Tensor:
        """(batch, steps) logits of P(step right)."""
        hidden = self.model.model(input_ids=input_ids, attention_mask=attention_mask)[0]
        rows = torch.arange(len(hidden), device=hidden.device)[:, None]
        logits = hidden[rows, step_ends(step)].float() @ self.model.lm_head.weight[[*self.classes]].float().T
        return logits[..., 0] - logits[..., 1]


def _load_lines(settings: LocalRewardSettings, dtype: torch.dtype) -> StepRewardModel:
    if settings.adapter is None:
        raise ModelError("a reward model of the convention 'lines' is an adapter: set reward.adapter")
    trunk = backbone.load(settings.backbone, AutoModelForCausalLM)
    model: StepRewardModel = lora.merge_adapter(
        StepRewardModel(trunk, trunk.config.hidden_size), backbone.find_adapter(settings.adapter)
    )
    # Both heads stay in float32: rounded likelihoods are half of what a batch changes in a score.
    head = copy.deepcopy(model.backbone.lm_head)
    model.backbone.to(dtype).lm_head = head
    return model


def _load_qwen(settings: LocalRewardSettings, dtype: torch.dtype) -> QwenProcessRewardModel:
    model: QwenProcessRewardModel = backbone.load(settings.backbone, QwenProcessRewardModel, dtype=dtype)
    model.score.float()
    return model


def _load_shepherd(settings: LocalRewardSettings, dtype: torch.dtype) -> ShepherdRewardModel:
    tokenizer = backbone.load_tokenizer(settings.backbone)
    model = backbone.load(settings.backbone, AutoModelForCausalLM, dtype=dtype)
    return ShepherdRewardModel(model, _single(tokenizer, "+"), _single(tokenizer, "-"))


def _single(tokenizer: Any, sign: str) -> int:
    """The one token of a sign after a blank, as the model writes it."""
    token = tokenizer(f"{MARK} {sign}", add_special_tokens=False).input_ids[-1]
    if tokenizer.decode([token]).strip() != sign:
        raise ModelError(f"the tokenizer has no token for {sign!r}")
    return int(token)


_LOADERS = {"lines": _load_lines, "qwen": _load_qwen, "math-shepherd": _load_shepherd}
