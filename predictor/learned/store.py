"""A stored predictor of any kind; what its kind does not need is not imported."""

from pathlib import Path

from safetensors import SafetensorError

from data.errors import ConfigError, ModelError
from predictor.empirical import load_family
from predictor.learned.card import PredictorCard, PriorModel

_BROKEN = (OSError, ValueError, LookupError, TypeError, RuntimeError, ConfigError, SafetensorError)
"""What reading files raises that are missing, cut, or do not fit together."""


def load_predictor(directory: str | Path, device: str | None = None, cache: Path | None = None) -> PriorModel:
    """A stored predictor of any kind, in either form.

    ``cache`` is a folder that keeps a backbone's frozen states between runs.

    Raises
    ------
    ModelError
        If the directory holds none, or its files do not fit together.
    """
    path = Path(directory)
    card = PredictorCard.open(path)
    try:
        load_family(path)
        if card.kind == "lora":
            from predictor.learned.lora_predictor import LoraPredictor

            return LoraPredictor.load(path, card, device)
        from predictor.learned.kernel_predictor import KernelPredictor

        return KernelPredictor.load(path, card, cache)
    except _BROKEN as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's: the files are whole
            raise
        raise ModelError(
            f"the {card.kind} predictor in {path} is not whole, or its files are of several: {error}; "
            "copy all of it there again, or train one"
        ) from error
