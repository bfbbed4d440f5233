"""Math-Shepherd (Mistral 7B PRM): ``ки`` after each step; there the next token would be + or -.

Model card: https://huggingface.co/peiyi9979/math-shepherd-mistral-7b-prm. P(step right) is the softmax
over the logits of those two tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from models import backbone
from models.settings import LocalRewardSettings
from models.steps import Convention, Example, encode_marked, non_empty_lines, step_ends
from predictor.errors import ModelError
from predictor.question import Question

MARK = "ки"
RIGHT, WRONG = "+", "-"


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
        logits = self.model.lm_head(hidden[rows, step_ends(step)])[..., self.classes]
        return logits[..., 0] - logits[..., 1]


def _encode(tokenizer: Any, question: Question, steps: Sequence[str]) -> Example:
    head = "\n".join(t["content"] for t in question.as_chat() if t["role"] == "user")
    marked = [f"{step.strip()} {MARK}" for step in steps]
    spaced = [" " + marked[0], *("\n" + m for m in marked[1:])]
    return encode_marked(tokenizer, (tokenizer.bos_token or "") + head, spaced, "", MARK)


def _load(settings: LocalRewardSettings, dtype: torch.dtype) -> ShepherdRewardModel:
    tokenizer = backbone.load_tokenizer(settings.backbone)
    model = backbone.load(settings.backbone, AutoModelForCausalLM, dtype=dtype)
    return ShepherdRewardModel(model, _single(tokenizer, RIGHT), _single(tokenizer, WRONG))


def _single(tokenizer: Any, sign: str) -> int:
    """The one token of a sign after a blank, as the model writes it."""
    token = tokenizer(f"{MARK} {sign}", add_special_tokens=False).input_ids[-1]
    if tokenizer.decode([token]).strip() != sign:
        raise ModelError(f"the tokenizer has no token for {sign!r}")
    return int(token)


CONVENTION = Convention(split=non_empty_lines, encode=_encode, load=_load, right_class=0)
