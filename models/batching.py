"""Examples as tensors: padding, and where steps end."""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.reward.steps import Example


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
