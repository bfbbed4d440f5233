"""The embedded PRM's convention: a step a line, closed by its newline; an adapter on a backbone."""

import copy
from collections.abc import Sequence
from typing import Any

from data.errors import ModelError
from data.question import Question
from models.reward.steps import Convention, Example, encode_steps, non_empty_lines
from models.settings import LocalRewardSettings


def _encode(tokenizer: Any, question: Question, steps: Sequence[str]) -> Example:
    return encode_steps(tokenizer, question.as_chat(), steps)


def _load(settings: LocalRewardSettings, dtype: Any) -> Any:
    from transformers import AutoModelForCausalLM

    from models import backbone, lora
    from models.reward.networks import StepRewardModel

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


CONVENTION = Convention(split=non_empty_lines, encode=_encode, load=_load)
