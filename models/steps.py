"""What all conventions share: the record, the mask of steps, padding."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.rewards import StepScores, scored_part
from predictor.contract import Span
from predictor.errors import ModelError
from predictor.question import Question

Example = dict[str, Any]
"""``input_ids`` and ``step``: the number of each token's step from 1, 0 outside; a step's last token
is its mark."""


@dataclass(frozen=True)
class Convention:
    """One way to ask a process reward model for P(step right)."""

    split: Callable[[str], list[str]]
    """A completion's steps; none where there are none."""
    encode: Callable[[Any, Question, Sequence[str]], Example]
    """(tokenizer, question, steps) to an example."""
    load: Callable[[Any, torch.dtype], Any]
    """(settings, dtype) to a module with ``step_logits(input_ids, attention_mask, step)``, which
    gives the logits of P(step right), (batch, steps)."""
    right_class: int = 1
    """Which class means right, where a server gives one probability a class."""

    def encode_completion(self, tokenizer: Any, question: Question, completion: str) -> Example | None:
        """Split and encode; None for a completion without a step."""
        steps = self.split(completion)
        return self.encode(tokenizer, question, steps) if steps else None


def score_completions(
    convention: Convention,
    tokenizer: Any,
    span: Span,
    positions: int,
    items: Sequence[tuple[Question, str]],
    judge: Callable[[list[Example]], Sequence[list[float] | None]],
) -> list[StepScores]:
    """Encode completions and have ``judge`` score those that have steps and fit into ``positions``."""
    examples = [convention.encode_completion(tokenizer, q, scored_part(text, span)) for q, text in items]
    sizes = [None if e is None else len(e["input_ids"]) for e in examples]
    fitting = [e for e, n in zip(examples, sizes, strict=True) if e is not None and n and n <= positions]
    scored = iter(judge(fitting))
    return [
        StepScores(None, 0)
        if n is None
        else StepScores(None, 0, over_length=True)
        if n > positions
        else StepScores(next(scored), n)
        for n in sizes
    ]


def non_empty_lines(completion: str) -> list[str]:
    """Non-empty lines."""
    return [line for line in completion.splitlines() if line.strip()]


def paragraphs(completion: str) -> list[str]:
    """Parts between blank lines, stripped."""
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


def step_ends(step: Tensor) -> Tensor:
    """(batch, steps) column of each step's last token; 0 beyond a row's last step."""
    rows, columns = step.nonzero(as_tuple=True)
    shape = (len(step), int(step.max()))
    flat = rows * shape[1] + step[rows, columns] - 1
    ends = torch.zeros(shape[0] * shape[1], dtype=torch.long, device=step.device)
    return ends.scatter_reduce(0, flat, columns, "amax").view(shape)


class StepCollator:
    """Pads examples on the right."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        width = max(len(e["input_ids"]) for e in examples)
        ids = torch.full((len(examples), width), self.pad_token_id)
        mask, step = torch.zeros_like(ids), torch.zeros_like(ids)
        for row, example in enumerate(examples):
            length = len(example["input_ids"])
            ids[row, :length] = torch.tensor(example["input_ids"])
            step[row, :length] = torch.tensor(example["step"])
            mask[row, :length] = 1
        return {"input_ids": ids, "attention_mask": mask, "step": step}
