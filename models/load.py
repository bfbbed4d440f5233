"""The generator and the reward model that settings describe; only those in this process import torch."""

from models.generator.base import Generator
from models.reward.base import RewardModel
from models.settings import GeneratorSettings, RewardSettings


def load_generator(settings: GeneratorSettings) -> Generator:
    """The generator that the settings describe."""
    if settings.kind == "openai":
        from models.generator.http import HttpGenerator

        return HttpGenerator(settings)
    if settings.kind == "vllm-offline":
        from models.generator.vllm_offline import VllmGenerator

        return VllmGenerator(settings)
    from models.generator.local import LocalGenerator

    return LocalGenerator(settings)


def load_reward_model(settings: RewardSettings) -> RewardModel:
    """The reward model that the settings describe."""
    if settings.kind == "vllm":
        from models.reward.http import HttpRewardModel

        return HttpRewardModel(settings)
    from models.reward.local import LocalRewardModel

    return LocalRewardModel(settings)
