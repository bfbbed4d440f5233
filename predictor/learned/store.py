"""A stored predictor of any kind; what its kind does not need is not imported."""

from pathlib import Path

from predictor.empirical import load_family
from predictor.learned.base import Predictor
from predictor.learned.card import PredictorCard


def load_predictor(directory: str | Path, cache: Path | None = None) -> Predictor:
    """A stored predictor of any kind, in either form.

    ``cache`` is a folder that keeps what a backbone has read between runs.

    Raises
    ------
    ModelError
        If the directory holds none, or its files are not those that were saved.
    """
    path = Path(directory)
    card = PredictorCard.open(path)
    load_family(path)
    if card.kind == "population":
        return Predictor(card)
    if card.kind == "lora":
        from predictor.learned.lora_predictor import LoraPredictor

        return LoraPredictor.load(path, card, cache)
    from predictor.learned.kernel_predictor import KernelPredictor

    return KernelPredictor.load(path, card, cache)
