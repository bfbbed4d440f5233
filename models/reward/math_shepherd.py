"""Math-Shepherd (Mistral 7B PRM): ``ки`` after each step; there the next token would be + or -.

Model card: https://huggingface.co/peiyi9979/math-shepherd-mistral-7b-prm. P(step right) is the softmax
over the logits of those two tokens.
"""

from collections.abc import Sequence
from typing import Any

from data.errors import ModelError
from data.question import Question
from models.reward.steps import Convention, Example, encode_marked, non_empty_lines
from models.settings import LocalRewardSettings

MARK = "ки"


def _encode(tokenizer: Any, question: Question, steps: Sequence[str]) -> Example:
    head = "\n".join(t["content"] for t in question.as_chat() if t["role"] == "user")
    marked = [f"{step.strip()} {MARK}" for step in steps]
    spaced = [" " + marked[0], *("\n" + m for m in marked[1:])]
    return encode_marked(tokenizer, (tokenizer.bos_token or "") + head, spaced, "", MARK)


def _load(settings: LocalRewardSettings, dtype: Any) -> Any:
    from transformers import AutoModelForCausalLM

    from models import backbone
    from models.reward.networks import ShepherdRewardModel

    tokenizer = backbone.load_tokenizer(settings.backbone)
    model = backbone.load(settings.backbone, AutoModelForCausalLM, dtype=dtype)
    return ShepherdRewardModel(model, _single(tokenizer, "+"), _single(tokenizer, "-"))


def _single(tokenizer: Any, sign: str) -> int:
    """The one token of a sign after a blank, as the model writes it."""
    token = tokenizer(f"{MARK} {sign}", add_special_tokens=False).input_ids[-1]
    if tokenizer.decode([token]).strip() != sign:
        raise ModelError(f"the tokenizer has no token for {sign!r}")
    return int(token)


CONVENTION = Convention(split=non_empty_lines, encode=_encode, load=_load, right_class=0)
