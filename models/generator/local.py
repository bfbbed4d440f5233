"""A generator in this process: transformers on the CPU or a GPU."""

import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache, GenerationConfig, StoppingCriteria
from transformers.cache_utils import DynamicLayer

from data.files import short_digest
from data.question import Question
from models import backbone, lora
from models.batching import by_length
from models.generator.base import Candidate, Status
from models.settings import LocalGeneratorSettings, WeightsSettings
from models.tokenizer import chat_prompt

ROOM = 64
"""Tokens that a cache makes room for at a time."""
_SEEDED = threading.Lock()  # torch's seed is the whole process's


def identify(settings: WeightsSettings, tokenizer: Any) -> dict[str, str]:
    """What weights and prompts are, for the score contract: the same whatever computes them."""
    return {
        "generator": Path(settings.adapter).name if settings.adapter else settings.backbone,
        "generator_revision": backbone.revision(settings.backbone, settings.adapter),
        "prompt_template": short_digest(tokenizer.chat_template or ""),
    }


def encode_prompt(tokenizer: Any, question: Question) -> list[int]:
    """Token ids of the question in the tokenizer's chat template."""
    text = chat_prompt(tokenizer, question.as_chat())
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return ids


class LocalGenerator:
    """Samples in batches; the prompt is computed once and its cache shared by all candidates."""

    def __init__(self, settings: LocalGeneratorSettings) -> None:
        self.settings = settings
        self.sampling = settings.sampling
        self.device = backbone.resolve_device(settings.device)
        self.tokenizer = backbone.load_tokenizer(settings.backbone, settings.adapter)
        self.tokenizer.padding_side = "left"
        dtype = backbone.resolve_dtype(settings.dtype, self.device)
        # An adapter is folded in before anything is rounded.
        whole = torch.float32 if settings.adapter else dtype
        self.model = backbone.load(settings.backbone, AutoModelForCausalLM, dtype=whole)
        if settings.adapter is not None:
            self.model = lora.merge_adapter(self.model, backbone.find_adapter(settings.adapter))
        self.model.to(self.device, dtype)
        # What our settings leave open would be taken from the model's own defaults, which no contract tells.
        self.model.generation_config = GenerationConfig()
        self.identity = identify(settings, self.tokenizer)

    def sample(self, questions: Sequence[Question], n: int, seed: int) -> list[list[Candidate]]:
        """See `Generator`. Questions of like length share a batch; its seed is ``seed`` + its number."""
        prompts = [encode_prompt(self.tokenizer, q) for q in questions]
        size = min(n, self.settings.batch_size)
        width = self.settings.batch_size // size
        found: list[list[Candidate]] = [[] for _ in questions]
        numbers = count(seed)
        for chosen in by_length(prompts, width):
            for at in range(0, n, size):
                with _SEEDED:
                    batch = self._sample_batch([prompts[i] for i in chosen], min(size, n - at), next(numbers))
                for index, candidates in zip(chosen, batch, strict=True):
                    found[index] += candidates
        return found

    @torch.inference_mode()
    def _sample_batch(self, prompts: list[list[int]], n: int, seed: int) -> list[list[Candidate]]:
        inputs = self.tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(self.device)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        width = ids.shape[1]
        cache = _roomy_cache(self.model.config)
        self.model(
            input_ids=ids[:, :-1],
            attention_mask=mask[:, :-1],
            position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, :-1],
            past_key_values=cache,
            logits_to_keep=1,
        )
        cache.batch_repeat_interleave(n)
        ids, mask = ids.repeat_interleave(n, 0), mask.repeat_interleave(n, 0)
        rows = torch.arange(len(ids), device=ids.device)
        done: dict[int, list[int]] = {}
        torch.manual_seed(seed)
        # Finished rows would be computed on until the longest one ends. So stop whenever half of
        # them are done, keep the others with their share of the cache, and go on with those.
        while True:
            ids = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                past_key_values=cache,
                generation_config=self._generation_config(ids.shape[1] - width),
                stopping_criteria=[_HalfDone(width, self._ended)],
            )
            ended = self._ended(ids[:, width:]) | (ids.shape[1] - width >= self.sampling.max_tokens)
            done |= {int(r): ids[i, width:].tolist() for i, r in enumerate(rows) if ended[i]}
            kept = (~ended).nonzero().squeeze(1)
            if not len(kept):
                break
            ids, rows, mask = ids[kept], rows[kept], mask[kept]
            new = ids.shape[1] - mask.shape[1]
            mask = torch.cat([mask, mask.new_ones(len(kept), new)], dim=1)
            cache.batch_select_indices(kept)
        sampled = [self._candidate(done[r], len(prompts[r // n]), seed) for r in sorted(done)]
        return [sampled[i : i + n] for i in range(0, len(sampled), n)]

    def _ended(self, generated: torch.Tensor) -> torch.Tensor:
        """(rows,) whether a row holds its end token, or a stop string where there are any."""
        ended = (generated == self.tokenizer.eos_token_id).any(1)
        if self.sampling.stop:
            texts = self.tokenizer.batch_decode(generated, skip_special_tokens=True)
            found = [any(stop in text for stop in self.sampling.stop) for text in texts]
            ended |= torch.tensor(found, device=ended.device)
        return ended

    def _generation_config(self, so_far: int) -> GenerationConfig:
        sampling = self.sampling
        greedy = sampling.temperature == 0
        shaping = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        return GenerationConfig(
            do_sample=not greedy,
            max_new_tokens=sampling.max_tokens - so_far,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
            **({} if greedy else shaping),
        )

    def _candidate(self, row: list[int], prompt_tokens: int, seed: int) -> Candidate:
        end = self.tokenizer.eos_token_id
        status: Status = "complete" if end in row else "cut"
        kept = row[: row.index(end)] if end in row else row
        tokens = len(kept) + (end in row)

        def text_of(size: int) -> str:
            return str(self.tokenizer.decode(kept[:size], skip_special_tokens=True))

        def stops_in(size: int) -> list[int]:
            text = text_of(size)
            return [text.index(stop) for stop in self.sampling.stop if stop in text]

        text = text_of(len(kept))
        if stops_in(len(kept)):
            # A row runs on until others of its batch are done; what comes after its stop is not its own.
            tokens = bisect_left(range(len(kept)), True, key=lambda size: bool(stops_in(size)))
            text, status = text_of(tokens)[: min(stops_in(tokens))], "complete"
        return Candidate(text, tokens, prompt_tokens, status, seed)


class _RoomyLayer(DynamicLayer):
    """Puts new tokens into room made before; concatenation would copy all that is held at every step."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.room: dict[str, torch.Tensor] = {}

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._put("keys", self.keys, key_states)
        self.values = self._put("values", self.values, value_states)
        return self.keys, self.values

    def _put(self, name: str, held: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """What is held, (rows, heads, tokens, size), with the new tokens behind it."""
        before = held.shape[-2] if held.numel() else 0
        after, room = before + new.shape[-2], self.room.get(name)
        # Rows that were repeated or chosen lie elsewhere.
        if room is None or room.data_ptr() != held.data_ptr() or room.shape[-2] < after:
            room = self.room[name] = new.new_empty(*new.shape[:-2], after + ROOM, new.shape[-1])
            if before:
                room[..., :before, :] = held
        room[..., before:after, :] = new
        return room[..., :after, :]


def _roomy_cache(config: Any) -> DynamicCache:
    """A cache of the model's layers; those that keep all tokens, which most do, grow in room made before."""
    cache = DynamicCache(config=config)
    cache.layers = [_RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class _HalfDone(StoppingCriteria):
    """Stops all rows when half of them have ended."""

    def __init__(self, width: int, ended: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.width = width
        self.ended = ended

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        ended = self.ended(input_ids[:, self.width :])
        return torch.full_like(ended, bool(2 * ended.sum() >= len(ended)))
