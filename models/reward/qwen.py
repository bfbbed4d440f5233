"""Qwen2.5-Math-PRM (7B, 72B): ``<extra_0>`` after each step, two classes there, the second is right.

Model card: https://huggingface.co/Qwen/Qwen2.5-Math-PRM-7B.
"""

from collections.abc import Sequence
from typing import Any

from data.question import Question
from models.reward.steps import Convention, Example, encode_marked, paragraphs
from models.settings import LocalRewardSettings
from models.tokenizer import chat_prompt

MARK = "<extra_0>"
SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


def _encode(tokenizer: Any, question: Question, steps: Sequence[str]) -> Example:
    turns = [t for t in question.as_chat() if t["role"] != "system"]
    messages = [{"role": "system", "content": SYSTEM}, *turns]
    head = chat_prompt(tokenizer, messages)
    # A mark in the text itself would be read as a mark.
    marked = [step.replace(MARK, "") + MARK for step in steps]
    return encode_marked(tokenizer, head.replace(MARK, ""), marked, tokenizer.eos_token + "\n", MARK)


def _load(settings: LocalRewardSettings, dtype: Any) -> Any:
    from models import backbone
    from models.reward.networks import QwenProcessRewardModel

    model: QwenProcessRewardModel = backbone.load(settings.backbone, QwenProcessRewardModel, dtype=dtype)
    model.score.float()
    return model


CONVENTION = Convention(split=paragraphs, encode=_encode, load=_load)
