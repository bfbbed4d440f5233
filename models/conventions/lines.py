"""The embedded PRM's convention: a step a line, closed by its newline; an adapter on a backbone."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from models import backbone, lora
from models.prm import StepRewardModel, encode_steps
from models.settings import LocalRewardSettings
from models.steps import Convention, Example, non_empty_lines
from predictor.errors import ModelError
from predictor.question import Question


def _encode(tokenizer: Any, question: Question, steps: Sequence[str]) -> Example:
    return encode_steps(tokenizer, question.as_chat(), steps)


def _load(settings: LocalRewardSettings, dtype: torch.dtype) -> StepRewardModel:
    if settings.adapter is None:
        raise ModelError("a reward model of the convention 'lines' is an adapter: set reward.adapter")
    trunk = backbone.load(settings.backbone, AutoModelForCausalLM)
    model: StepRewardModel = lora.merge_adapter(
        StepRewardModel(trunk, trunk.config.hidden_size), backbone.find_adapter(settings.adapter)
    )
    model.backbone.to(dtype)  # the head stays in float32
    return model


CONVENTION = Convention(split=non_empty_lines, encode=_encode, load=_load)
