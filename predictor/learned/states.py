"""A backbone's hidden states of questions, kept between runs."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import takewhile
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, DynamicCache

from data.files import short_digest, write_whole
from data.question import Question
from models import backbone
from models.batching import Collator, by_length
from predictor.learned.features import encode
from predictor.learned.settings import PredictorSettings

Tokens = dict[str, NDArray[np.float32]]
"""By question id (tokens, hidden size): what the layers that LoRA leaves as they are make of each token."""

Read = Callable[[Sequence[Question]], NDArray[np.float32]]
"""Pooled states (questions, size)."""


class FrozenStates:
    """Reads questions with the lower layers of a backbone, as they are: two thirds of a forward pass each."""

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
        key = reading_key(self.trunk, settings, adapted=False)
        return read_kept(self.cache, key, questions, read, anew=tokens is not None)

    def save(self, directory: Path) -> None:
        """Write backbone and tokenizer, for `load` to find without the reference."""
        self.trunk.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)


def reading_key(trunk: Any, settings: PredictorSettings, adapted: bool) -> str:
    """All that states of a question depend on, but for an adapter."""
    layers = layers_read(trunk, settings, adapted)
    return repr((backbone.revision(settings.backbone), trunk.dtype, layers, settings.max_length))


def read_kept(
    cache: Path,
    key: str,
    questions: Sequence[Question],
    read: Read,
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


def layers_read(trunk: Any, settings: PredictorSettings, adapted: bool) -> list[int]:
    """Layers whose states are pooled, 0 the embedding: the lower ones, then those that LoRA adapts."""
    count, frozen = trunk.config.num_hidden_layers, frozen_layers(trunk)
    lower = [min(round(depth * count), frozen) for depth in settings.depths]
    return lower + [max(round(depth * count), frozen + 1) for depth in settings.adapted_depths if adapted]


def layers_of(trunk: Any) -> nn.ModuleList:
    """The trunk's layers, in order."""
    lists = (module for module in trunk.modules() if isinstance(module, nn.ModuleList))
    return next(layers for layers in lists if len(layers) == trunk.config.num_hidden_layers)


class _EnoughError(Exception):
    """Ends a forward pass."""


def lower_states(trunk: Any, batch: dict[str, Any]) -> list[Tensor]:
    """Embeddings, and what each of `frozen_layers` makes of them; the layers above are not computed."""
    found: list[Tensor] = []
    count = frozen_layers(trunk)

    def keep(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        found.append(given[0] if given else named["hidden_states"])
        if len(found) > count:
            raise _EnoughError

    hooks = [
        layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in layers_of(trunk)[: count + 1]
    ]
    try:
        trunk(**batch)
    except _EnoughError:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return found


@torch.inference_mode()
def read_states(
    trunk: Any,
    tokenizer: Any,
    questions: Sequence[Question],
    settings: PredictorSettings,
    tokens: Tokens | None = None,
    adapted: bool = False,
) -> NDArray[np.float32]:
    """(questions, 2 x layers x hidden size) mean and last token of `layers_read`; NaN for one too long.

    ``tokens`` takes what the last of `frozen_layers` makes of each token. The tokens that all questions begin
    with, those of the chat template, are read once.
    """
    encoded = [encode(tokenizer, question, settings.max_length) for question in questions]
    layers, last_frozen = layers_read(trunk, settings, adapted), frozen_layers(trunk)
    size = 2 * len(layers) * int(trunk.config.hidden_size)
    found = np.full((len(encoded), size), np.nan, dtype=np.float32)
    collate, device = Collator(tokenizer.pad_token_id), next(trunk.parameters()).device

    def forward(sequences: Sequence[Sequence[int]], **more: Any) -> tuple[dict[int, Tensor], Tensor]:
        batch = {k: v.to(device) for k, v in collate([{"input_ids": ids} for ids in sequences]).items()}
        mask = batch["attention_mask"]
        if "past_key_values" in more:
            before = more["past_key_values"].get_seq_length()
            batch["attention_mask"] = nn.functional.pad(mask, (before, 0), value=1)
        if adapted:
            states = trunk(**batch, **more, output_hidden_states=True).hidden_states
        else:
            states = lower_states(trunk, batch | more)
        return {layer: states[layer] for layer in {*layers, last_frozen}}, mask

    shared, cache = _shared_prefix(trunk, encoded), DynamicCache(config=trunk.config)
    first = forward([shared], past_key_values=cache)[0] if shared else {}
    for rows in by_length(encoded, settings.batch_size):
        own = [(encoded[row] or [])[len(shared) :] for row in rows]
        more = {}
        if shared:
            more["past_key_values"] = held = deepcopy(cache)
            held.batch_repeat_interleave(len(rows))
        states, mask = forward(own, **more)
        if shared:
            states = {n: torch.cat([first[n].expand(len(rows), -1, -1), s], 1) for n, s in states.items()}
            mask = nn.functional.pad(mask, (len(shared), 0), value=1)
        found[rows] = pool_states([states[layer] for layer in layers], mask).float().cpu().numpy()
        if tokens is not None:
            for row, kept in zip(rows, states[last_frozen].float().cpu().numpy(), strict=True):
                tokens[questions[row].id] = kept[: len(encoded[row] or ())]
    return found


def _shared_prefix(trunk: Any, encoded: Sequence[list[int] | None]) -> list[int]:
    """Tokens that all of several questions begin with, none of them whole."""
    given = [ids[:-1] for ids in encoded if ids]
    if len(given) < 2 or trunk._is_stateful:  # a state cannot be taken up at a token
        return []
    alike = takewhile(lambda ids: len(set(ids)) == 1, zip(*given, strict=False))
    return [ids[0] for ids in alike]


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
