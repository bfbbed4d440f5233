"""A backbone's frozen hidden states of questions, kept between runs."""

import hashlib
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from data.question import Question
from models import backbone
from predictor.learned.features import encode
from predictor.learned.network import QuestionCollator, pool_states
from predictor.learned.settings import PredictorSettings


class FrozenStates:
    """Reads questions with a backbone as it is: one forward pass each."""

    def __init__(
        self, trunk: Any, tokenizer: Any, settings: PredictorSettings, cache: Path | None = None
    ) -> None:
        self.trunk = trunk
        self.tokenizer = tokenizer
        self.settings = settings
        self.cache = cache
        """Folder that keeps what was read, for runs to come; None keeps nothing."""

    @classmethod
    def load(
        cls, settings: PredictorSettings, directory: Path | None = None, cache: Path | None = None
    ) -> Self:
        """The backbone that the settings name, or the copy of it in ``directory``."""
        device = backbone.default_device()
        dtype = backbone.resolve_dtype(settings.dtype, device)
        if directory is None:
            tokenizer = backbone.load_tokenizer(settings.backbone)
            trunk = backbone.load(settings.backbone, AutoModel, dtype=dtype, device=device)
        else:
            tokenizer = AutoTokenizer.from_pretrained(directory)
            trunk = AutoModel.from_pretrained(directory, dtype=dtype).to(device).eval()
        return cls(trunk, tokenizer, settings, cache)

    @property
    def size(self) -> int:
        """Numbers that it gives of a question."""
        return 2 * len(self.settings.depths) * int(self.trunk.config.hidden_size)

    def read(self, questions: Sequence[Question]) -> NDArray[np.float32]:
        """(questions, 2 x depths x hidden size) mean and last token of each layer; NaN for one too long."""
        encoded = [encode(self.tokenizer, q, self.settings.max_length) for q in questions]
        return self._read(encoded) if self.cache is None else self._read_cached(encoded, self.cache)

    @torch.inference_mode()
    def _read(self, encoded: Sequence[list[int] | None]) -> NDArray[np.float32]:
        depths = self.settings.depths
        found = np.full((len(encoded), self.size), np.nan, dtype=np.float32)
        order = sorted((i for i, ids in enumerate(encoded) if ids), key=lambda i: len(encoded[i] or ()))
        collate = QuestionCollator(self.tokenizer.pad_token_id)
        device = next(self.trunk.parameters()).device
        for start in range(0, len(order), self.settings.batch_size):
            chosen = order[start : start + self.settings.batch_size]
            batch = collate([{"input_ids": encoded[i]} for i in chosen])
            states = pool_states(self.trunk, **{k: v.to(device) for k, v in batch.items()}, depths=depths)
            found[chosen] = states.float().cpu().numpy()
        return found

    def _read_cached(self, encoded: Sequence[list[int] | None], folder: Path) -> NDArray[np.float32]:
        settings = self.settings
        named = (backbone.revision(settings.backbone), self.trunk.dtype, settings.depths)
        file = folder / f"{backbone.digest_text(repr(named))}.safetensors"
        held = _load(file)
        keys = [hashlib.sha256(repr(ids).encode()).hexdigest()[:24] for ids in encoded]
        new = {key: ids for key, ids in zip(keys, encoded, strict=True) if key not in held}
        if new:
            held |= dict(zip(new, self._read(list(new.values())), strict=True))
            folder.mkdir(parents=True, exist_ok=True)
            aside = file.with_suffix(f".{uuid.uuid4().hex}")  # another run may write the same states
            try:
                save_file(held, aside)
                aside.replace(file)
            finally:
                aside.unlink(missing_ok=True)
        return np.stack([held[key] for key in keys])

    def save(self, directory: Path) -> None:
        """Write backbone and tokenizer, for `load` to find without the reference."""
        self.trunk.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)


def _load(file: Path) -> dict[str, NDArray[Any]]:
    """States that were kept; none where the file is not there or is cut: they are read again."""
    try:
        return load_file(file)
    except (FileNotFoundError, SafetensorError):
        return {}
