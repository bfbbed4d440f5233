"""Math-Shepherd (Mistral 7B PRM): ``ки`` after each step; there the next token would be + or -.

Model card: https://huggingface.co/peiyi9979/math-shepherd-mistral-7b-prm. P(step right) is the softmax
over the logits of those two tokens.
"""

from collections.abc import Sequence
from typing import Any

from models.steps import Convention, Example, encode_marked, non_empty_lines
from predictor.question import Question

MARK = "ки"


def _encode(tokenizer: Any, question: Question, steps: Sequence[str]) -> Example:
    head = "\n".join(t["content"] for t in question.as_chat() if t["role"] == "user")
    marked = [f"{step.strip()} {MARK}" for step in steps]
    spaced = [" " + marked[0], *("\n" + m for m in marked[1:])]
    return encode_marked(tokenizer, (tokenizer.bos_token or "") + head, spaced, "", MARK)


CONVENTION = Convention(split=non_empty_lines, encode=_encode, right_class=0)
