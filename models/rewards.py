"""Reward models: from a question and its completion to one score a step."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from transformers import AutoModelForCausalLM

from models import backbone, lora
from models.prm import StepRewardModel, encode_steps, step_probabilities
from models.settings import LocalRewardSettings
from predictor.contract import Aggregation
from predictor.question import Question


class StepScores(NamedTuple):
    """What a reward model says of one completion."""

    steps: list[float] | None
    """P(step right) of each step; None where the completion could not be scored."""
    tokens: int
    """Tokens read by the reward model."""
    over_length: bool = False
    """The completion has more tokens than the model has positions."""


class RewardModel(Protocol):
    """Scores completions step by step; ``identity`` goes into the score contract."""

    identity: dict[str, str]
    aggregation: Aggregation

    def score(self, items: Sequence[tuple[Question, str]]) -> list[StepScores]:
        """Step scores of each (question, completion), in order."""


class LocalRewardModel:
    """The embedded PRM: steps are lines, each closed by a newline token that carries its score."""

    def __init__(self, settings: LocalRewardSettings) -> None:
        self.settings = settings
        self.aggregation = settings.aggregation
        device = settings.device or backbone.default_device()
        adapter = backbone.find_adapter(settings.adapter)
        self.tokenizer = backbone.load_tokenizer(settings.backbone, adapter)
        self.positions = backbone.max_positions(settings.backbone)
        trunk = backbone.load(settings.backbone, AutoModelForCausalLM)
        self.model = lora.merge_adapter(StepRewardModel(trunk, trunk.config.hidden_size), adapter)
        self.model.to(device).backbone.to(backbone.resolve_dtype(settings.dtype, device))
        self.identity = {
            "reward_model": Path(settings.adapter).name,
            "reward_revision": backbone.revision(settings.backbone, settings.adapter),
            "markup": "lines",
        }

    def score(self, items: Sequence[tuple[Question, str]]) -> list[StepScores]:
        """See `RewardModel`. A completion without a line has no steps; one too long is not cut."""
        examples = [
            encode_steps(self.tokenizer, q.as_chat(), [s for s in text.splitlines() if s.strip()])
            for q, text in items
        ]
        fits = [e["step"][-1] > 0 and len(e["input_ids"]) <= self.positions for e in examples]
        scored = iter(
            step_probabilities(
                self.model,
                self.tokenizer.pad_token_id,
                [e for e, ok in zip(examples, fits, strict=True) if ok],
                self.settings.batch_size,
            )
        )
        return [
            StepScores(next(scored), len(e["input_ids"]))
            if ok
            else StepScores(None, 0, over_length=len(e["input_ids"]) > self.positions)
            for e, ok in zip(examples, fits, strict=True)
        ]
