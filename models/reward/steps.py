"""How process reward models mark steps: what their conventions share.

A convention splits a completion into steps and encodes question and steps as the model was trained to
read them. It stands in the module of its name; without torch, for those who only encode. Where a step ends
comes from a mask made while encoding, never from the scores or from looking for a token that a text may
also contain.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from data.contract import Span
from data.errors import ModelError
from data.question import Question
from models.reward.base import StepScores, scored_part
from models.settings import ConventionName, LocalRewardSettings
from models.tokenizer import chat_prompt

SEPARATOR = "\n"
"""What closes a step of the embedded models; the end token closes the last."""
Example = dict[str, Any]
"""``input_ids``, and what else a network or its loss takes; of a reward model ``step``: the number of each
token's step from 1, 0 outside; a step's last token is its mark."""


@dataclass(frozen=True)
class Convention:
    """One way to ask a process reward model for P(step right)."""

    split: Callable[[str], list[str]]
    """A completion's steps; none where there are none."""
    encode: Callable[[Any, Question, Sequence[str]], Example]
    """(tokenizer, question, steps) to an example."""
    load: Callable[[LocalRewardSettings, Any], Any]
    """(settings, dtype) to a module, with torch imported by then.

    Its ``step_logits(input_ids, attention_mask, step)`` gives (batch, steps) logits of P(step right).
    """
    right_class: int = 1
    """Which class means right, where a server gives one probability a class."""

    def encode_completion(self, tokenizer: Any, question: Question, completion: str) -> Example | None:
        """Split and encode; None for a completion without a step."""
        steps = self.split(completion)
        return self.encode(tokenizer, question, steps) if steps else None


def find_convention(name: ConventionName | Literal["outcome"]) -> Convention:
    """The convention that the module of its name defines."""
    convention: Convention = import_module(f"models.reward.{name.replace('-', '_')}").CONVENTION
    return convention


def encode_completions(
    convention: Convention,
    tokenizer: Any,
    span: Span,
    positions: int,
    items: Sequence[tuple[Question, str]],
) -> list[Example | StepScores]:
    """Each completion's example, or what can be said of it without a model.

    That is: it has no step, or more tokens than ``positions``.
    """
    coded: list[Example | StepScores] = []
    for question, text in items:
        example = convention.encode_completion(tokenizer, question, scored_part(text, span))
        if example is None or not example["input_ids"]:
            coded.append(StepScores(None, 0))
        elif len(example["input_ids"]) > positions:
            coded.append(StepScores(None, 0, over_length=True))
        else:
            coded.append(example)
    return coded


def examples_of(coded: Sequence[Example | StepScores]) -> list[Example]:
    """Those that a model has to judge."""
    return [one for one in coded if not isinstance(one, StepScores)]


def fill_in(coded: Sequence[Example | StepScores], judged: Sequence[list[float] | str]) -> list[StepScores]:
    """``judged``, the step scores of `examples_of` or why there are none, put in their places."""
    found, rest = list[StepScores](), iter(judged)
    for one in coded:
        if isinstance(one, StepScores):
            found.append(one)
            continue
        told, size = next(rest), len(one["input_ids"])
        found.append(StepScores(None, size, cause=told) if isinstance(told, str) else StepScores(told, size))
    return found


def non_empty_lines(completion: str) -> list[str]:
    """Non-empty lines."""
    return [line for line in completion.splitlines() if line.strip()]


def paragraphs(completion: str) -> list[str]:
    r"""Parts between empty lines (``\n\n``), stripped; a line of blanks alone parts nothing."""
    return [part.strip() for part in completion.split("\n\n") if part.strip()]


def encode_marked(tokenizer: Any, head: str, steps: Sequence[str], tail: str, mark: str) -> Example:
    """Encode head, then the steps, each of which ends with ``mark``, then tail.

    Raises
    ------
    ModelError
        If the tokenizer has no token for the mark.
    """
    text, ends = head, []
    for step in steps:
        text += step
        ends.append(len(text))
    coded = tokenizer(text + tail, add_special_tokens=False, return_offsets_mapping=True)
    ids = list(coded.input_ids)
    number, current = [0] * len(ids), 0
    for place, (_, last) in enumerate(coded.offset_mapping):
        if current < len(ends) and last > len(head):
            number[place] = current + 1
            if last == ends[current] and tokenizer.decode([ids[place]]).strip() == mark.strip():
                current += 1
    if current < len(ends):
        raise ModelError(f"the tokenizer has no token {mark!r} that marks the end of a step")
    return {"input_ids": ids, "step": number}


def encode_steps(tokenizer: Any, messages: list[dict[str, str]], steps: Sequence[str]) -> Example:
    """Token ids of the question and its steps; ``step`` numbers each token's step from 1, 0 outside.

    A separator closes each step, the end token the last one, as the generator wrote them: a number
    that ends too early shows in the token after it.
    """
    prompt = chat_prompt(tokenizer, messages)
    ids = list(tokenizer(prompt, add_special_tokens=False).input_ids)
    number = [0] * len(ids)
    (mark,) = tokenizer(SEPARATOR, add_special_tokens=False).input_ids
    for count, step in enumerate(steps, start=1):
        tokens = tokenizer(step, add_special_tokens=False).input_ids
        ids += [*tokens, mark if count < len(steps) else tokenizer.eos_token_id]
        number += [count] * (len(tokens) + 1)
    return {"input_ids": ids, "step": number}
