"""A backbone's hidden states of questions, kept between runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from data.files import short_digest, write_whole
from data.question import Question
from models import backbone
from models.batching import Collator, by_length
from predictor.learned.features import encode
from predictor.learned.settings import PredictorSettings


class FrozenStates:
    """Reads questions with a backbone as it is: one forward pass each."""

    def __init__(
        self, trunk: Any, tokenizer: Any, settings: PredictorSettings, cache: Path | None = None
    ) -> None:
        self.trunk, self.tokenizer, self.settings, self.cache = trunk, tokenizer, settings, cache

    @classmethod
    def load(
        cls, settings: PredictorSettings, directory: Path | None = None, cache: Path | None = None
    ) -> Self:
        """The backbone that the settings name, or the copy of it in ``directory`` where there is one.

        ``cache`` is a folder that keeps what was read, for runs to come; None keeps nothing.
        """
        return cls(*load_trunk(settings, directory), settings, cache)

    def read(self, questions: Sequence[Question]) -> NDArray[np.float32]:
        """See `read_states`."""
        if self.cache is None:
            return read_states(self.trunk, self.tokenizer, questions, self.settings)
        settings = self.settings
        parts = (backbone.revision(settings.backbone), self.trunk.dtype, settings.depths, settings.max_length)
        file = self.cache / f"{short_digest(repr(parts))}.safetensors"
        held = _load(file)
        if new := {q.id: q for q in questions if q.id not in held}:
            found = read_states(self.trunk, self.tokenizer, list(new.values()), settings)
            held |= dict(zip(new, found, strict=True))
            self.cache.mkdir(parents=True, exist_ok=True)
            write_whole(file, save(held))
        return np.stack([held[q.id] for q in questions])

    def save(self, directory: Path) -> None:
        """Write backbone and tokenizer, for `load` to find without the reference."""
        self.trunk.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)


def load_trunk(
    settings: PredictorSettings, directory: Path | None = None, dtype: str | None = None
) -> tuple[Any, Any]:
    """Network and tokenizer of the backbone that the settings name, or of its copy in ``directory``."""
    device = backbone.default_device()
    resolved = backbone.resolve_dtype(dtype or settings.dtype, device)
    if directory is None or not (directory / "config.json").exists():
        trunk = backbone.load(settings.backbone, AutoModel, dtype=resolved, device=device)
        return trunk, backbone.load_tokenizer(settings.backbone)
    trunk = AutoModel.from_pretrained(directory, dtype=resolved).to(device).eval()
    return trunk, AutoTokenizer.from_pretrained(directory)


@torch.inference_mode()
def read_states(
    trunk: Any, tokenizer: Any, questions: Sequence[Question], settings: PredictorSettings
) -> NDArray[np.float32]:
    """(questions, 2 x depths x hidden size) mean and last token of each layer; NaN for one too long."""
    encoded = [encode(tokenizer, question, settings.max_length) for question in questions]
    size = 2 * len(settings.depths) * int(trunk.config.hidden_size)
    found = np.full((len(encoded), size), np.nan, dtype=np.float32)
    collate, device = Collator(tokenizer.pad_token_id), next(trunk.parameters()).device
    for rows in by_length(encoded, settings.batch_size):
        batch = collate([{"input_ids": encoded[row]} for row in rows])
        states = pool_states(trunk, **{k: v.to(device) for k, v in batch.items()}, depths=settings.depths)
        found[rows] = states.float().cpu().numpy()
    return found


def pool_states(
    trunk: nn.Module, input_ids: Tensor, attention_mask: Tensor, depths: Sequence[float]
) -> Tensor:
    """(batch, 2 x depths x hidden size): mean and last token of layers, by their depth from 0 to 1."""
    output = trunk(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
    states, rows = output.hidden_states, torch.arange(len(input_ids), device=input_ids.device)
    last, pooled = attention_mask.sum(1) - 1, []
    for depth in depths:
        hidden = states[round(depth * (len(states) - 1))]
        weights = attention_mask.unsqueeze(2).to(hidden.dtype)
        pooled += [(hidden * weights).sum(1) / weights.sum(1), hidden[rows, last]]
    return torch.cat(pooled, dim=1)


def _load(file: Path) -> dict[str, NDArray[Any]]:
    """States that were kept; none where the file is not there or is cut: they are read again."""
    try:
        return load_file(file)
    except (FileNotFoundError, SafetensorError):
        return {}
