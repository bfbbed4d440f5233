"""Outcome reward models and classifiers: one score of a whole completion, asked of a server."""

from collections.abc import Sequence
from typing import Any, NoReturn

from data.errors import ModelError
from data.question import Question
from models.reward.steps import Convention, Example
from models.settings import LocalRewardSettings


def _encode(tokenizer: Any, question: Question, steps: Sequence[str]) -> Example:
    """The conversation in the model's chat template; ``pair`` is for servers that template it themselves."""
    turns = [*question.as_chat(), {"role": "assistant", "content": steps[0]}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    ids = list(tokenizer(text, add_special_tokens=False).input_ids)
    return {"input_ids": ids, "step": [1] * len(ids), "pair": (question.text, steps[0])}


def _load(settings: LocalRewardSettings, dtype: Any) -> NoReturn:
    raise ModelError("outcome models are asked over HTTP (kind: vllm), not loaded here")


CONVENTION = Convention(split=lambda text: [text.strip()] if text.strip() else [], encode=_encode, load=_load)
