"""A backbone's hidden states of questions, kept between runs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from data.files import short_digest, write_whole
from data.question import Question
from models import backbone
from models.batching import Collator, by_length
from predictor.learned.features import encode
from predictor.learned.settings import PredictorSettings

Tokens = dict[str, NDArray[np.float32]]
"""By question id (tokens, hidden size): what the layers that LoRA leaves as they are make of each token."""


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

    def read(self, questions: Sequence[Question], tokens: Tokens | None = None) -> NDArray[np.float32]:
        """See `read_states`; what was kept is read again where ``tokens`` are asked for."""
        settings = self.settings

        def read(new: Sequence[Question]) -> NDArray[np.float32]:
            return read_states(self.trunk, self.tokenizer, new, settings, tokens)

        if self.cache is None:
            return read(questions)
        key = reading_key(self.trunk, settings)
        return read_kept(self.cache, key, questions, read, anew=tokens is not None)

    def save(self, directory: Path) -> None:
        """Write backbone and tokenizer, for `load` to find without the reference."""
        self.trunk.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)


def reading_key(trunk: Any, settings: PredictorSettings) -> str:
    """All that states of a question depend on, but for an adapter."""
    parts = (backbone.revision(settings.backbone), trunk.dtype, settings.depths, settings.max_length)
    return repr(parts)


def read_kept(
    cache: Path,
    key: str,
    questions: Sequence[Question],
    read: Callable[[Sequence[Question]], NDArray[np.float32]],
    anew: bool = False,
) -> NDArray[np.float32]:
    """(questions, size) states as ``read`` gives them; those kept under ``key`` are not read again.

    ``key`` names all that they depend on; with ``anew`` all are read.
    """
    file = cache / f"{short_digest(key)}.safetensors"
    held = _load(file)
    if new := {q.id: q for q in questions if anew or q.id not in held}:
        held |= dict(zip(new, read(list(new.values())), strict=True))
        cache.mkdir(parents=True, exist_ok=True)
        write_whole(file, save(held))
    return np.stack([held[q.id] for q in questions])


def load_trunk(settings: PredictorSettings, directory: Path | None = None) -> tuple[Any, Any]:
    """Network and tokenizer of the backbone that the settings name, or of its copy in ``directory``."""
    device = backbone.default_device()
    resolved = backbone.resolve_dtype(settings.dtype, device)
    if directory is None or not (directory / "config.json").exists():
        trunk = backbone.load(settings.backbone, AutoModel, dtype=resolved, device=device)
        return trunk, backbone.load_tokenizer(settings.backbone)
    trunk = AutoModel.from_pretrained(directory, dtype=resolved).to(device).eval()
    return trunk, AutoTokenizer.from_pretrained(directory)


def frozen_layers(trunk: Any) -> int:
    """How many layers LoRA leaves as they are, from the first: two thirds."""
    return int(trunk.config.num_hidden_layers) * 2 // 3


def layers_at(trunk: Any, depths: Sequence[float]) -> NDArray[np.int64]:
    """Layers at depths from 0 to 1; 0 is the embedding."""
    return np.array([round(depth * trunk.config.num_hidden_layers) for depth in depths])


@torch.inference_mode()
def read_states(
    trunk: Any,
    tokenizer: Any,
    questions: Sequence[Question],
    settings: PredictorSettings,
    tokens: Tokens | None = None,
) -> NDArray[np.float32]:
    """(questions, 2 x depths x hidden size) mean and last token of each layer; NaN for one too long.

    ``tokens`` takes what the last of `frozen_layers` makes of each token.
    """
    encoded = [encode(tokenizer, question, settings.max_length) for question in questions]
    layers, last_frozen = layers_at(trunk, settings.depths), frozen_layers(trunk)
    size = 2 * len(layers) * int(trunk.config.hidden_size)
    found = np.full((len(encoded), size), np.nan, dtype=np.float32)
    collate, device = Collator(tokenizer.pad_token_id), next(trunk.parameters()).device
    for rows in by_length(encoded, settings.batch_size):
        batch = {k: v.to(device) for k, v in collate([{"input_ids": encoded[row]} for row in rows]).items()}
        states = trunk(**batch, output_hidden_states=True).hidden_states
        pooled = pool_states([states[layer] for layer in layers], batch["attention_mask"])
        found[rows] = pooled.float().cpu().numpy()
        if tokens is not None:
            for row, kept in zip(rows, states[last_frozen].float().cpu().numpy(), strict=True):
                tokens[questions[row].id] = kept[: len(encoded[row] or ())]
    return found


def pool_states(states: Sequence[Tensor], attention_mask: Tensor) -> Tensor:
    """(batch, 2 x layers x hidden size): mean and last token of states (batch, width, hidden size)."""
    rows = torch.arange(len(attention_mask), device=attention_mask.device)
    last, pooled = attention_mask.sum(1) - 1, []
    for hidden in states:
        weights = attention_mask.unsqueeze(2).to(hidden.dtype)
        pooled += [(hidden * weights).sum(1) / weights.sum(1), hidden[rows, last]]
    return torch.cat(pooled, dim=1)


def _load(file: Path) -> dict[str, NDArray[Any]]:
    """States that were kept; none where the file is not there or is cut: they are read again."""
    try:
        return load_file(file)
    except (FileNotFoundError, SafetensorError):
        return {}
