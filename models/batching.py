"""Token sequences in batches: of like length, padded to one width."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from models.reward.steps import Example

IGNORED = -100
"""Label of what has none."""


def by_length(sequences: Sequence[Sequence[int] | None], size: int) -> Iterator[list[int]]:
    """Rows of each batch, the shortest sequences first; those that are None are in none."""
    lengths = {row: len(ids) for row, ids in enumerate(sequences) if ids is not None}
    order = sorted(lengths, key=lengths.__getitem__)
    for start in range(0, len(order), size):
        yield order[start : start + size]


def by_tokens(sequences: Sequence[Sequence[int]], most: int) -> Iterator[list[int]]:
    """Rows of each batch, the shortest sequences first: of so many tokens with padding, or of one row."""
    batch: list[int] = []
    for row in sorted(range(len(sequences)), key=lambda row: len(sequences[row])):
        if batch and (len(batch) + 1) * len(sequences[row]) > most:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


class Collator:
    """Pads examples on the right, and adds their ``attention_mask``; labels are padded with `IGNORED`."""

    def __init__(self, pad_token_id: int) -> None:
        self.padding = {"input_ids": pad_token_id, "labels": IGNORED}

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        rows = [{**e, "attention_mask": [1] * len(e["input_ids"])} for e in examples]
        return {
            name: pad_sequence(
                [torch.as_tensor(row[name]) for row in rows],
                batch_first=True,
                padding_value=self.padding.get(name, 0),
            )
            for name in rows[0]
        }
