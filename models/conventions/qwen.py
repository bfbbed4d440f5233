"""Qwen2.5-Math-PRM (7B, 72B): ``<extra_0>`` after each step, two classes there, the second is right.

Model card: https://huggingface.co/Qwen/Qwen2.5-Math-PRM-7B.
"""

from collections.abc import Sequence
from typing import Any

from models.steps import Convention, Example, encode_marked, paragraphs
from models.tokenizer import chat_prompt
from predictor.question import Question

MARK = "<extra_0>"
SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


def _encode(tokenizer: Any, question: Question, steps: Sequence[str]) -> Example:
    turns = [t for t in question.as_chat() if t["role"] != "system"]
    messages = [{"role": "system", "content": SYSTEM}, *turns]
    head = chat_prompt(tokenizer, messages)
    # A mark in the text itself would be read as a mark.
    marked = [step.replace(MARK, "") + MARK for step in steps]
    return encode_marked(tokenizer, head.replace(MARK, ""), marked, tokenizer.eos_token + "\n", MARK)


CONVENTION = Convention(split=paragraphs, encode=_encode)
