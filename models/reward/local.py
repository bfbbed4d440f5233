"""A reward model in this process, by any of the conventions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils.import_utils import enable_tf32

from data.question import Question
from models import backbone
from models.batching import Collator, by_tokens
from models.reward.base import StepScores
from models.reward.steps import Example, encode_completions, examples_of, fill_in, find_convention
from models.settings import LocalRewardSettings


class LocalRewardModel:
    """Scores in batches of like length; see `models.reward.base.RewardModel`."""

    def __init__(self, settings: LocalRewardSettings) -> None:
        self.settings = settings
        self.aggregation = settings.aggregation
        self.convention = find_convention(settings.convention)
        self.device = backbone.resolve_device(settings.device)
        self.tokenizer = backbone.load_tokenizer(settings.backbone, settings.adapter)
        self.positions = backbone.max_positions(settings.backbone)
        dtype = backbone.resolve_dtype(settings.dtype, self.device)
        if self.device.startswith("cuda") and dtype == torch.bfloat16:
            enable_tf32(True)  # exact for the float32 head, whose factors are numbers of bfloat16
        self.model = self.convention.load(settings, dtype).to(self.device).eval()
        self.identity = {
            "reward_model": Path(settings.adapter or settings.backbone).name,
            "reward_revision": backbone.revision(settings.backbone, settings.adapter),
            "markup": settings.convention,
            "span": settings.span,
        }

    def score(self, items: Sequence[tuple[Question, str]]) -> list[StepScores]:
        """See `RewardModel`. A completion without a step has no score; one too long is not cut."""
        coded = encode_completions(self.convention, self.tokenizer, self.settings.span, self.positions, items)
        pad, tokens = self.tokenizer.pad_token_id, self.settings.batch_tokens
        return fill_in(coded, step_probabilities(self.model, pad, examples_of(coded), tokens))


@torch.inference_mode()
def step_probabilities(
    model: Any, pad_token_id: int, examples: Sequence[Example], batch_tokens: int
) -> list[list[float]]:
    """P(step right) of each example's steps, in order; examples of like length share a batch."""
    collate, device = Collator(pad_token_id), next(model.parameters()).device
    found: list[list[float]] = [[] for _ in examples]
    for rows in by_tokens([example["input_ids"] for example in examples], batch_tokens):
        batch = {k: v.to(device) for k, v in collate([examples[row] for row in rows]).items()}
        right = model.step_logits(**batch).float().sigmoid()
        for row, steps in zip(rows, right, strict=True):
            found[row] = steps[: max(examples[row]["step"])].tolist()
    return found
