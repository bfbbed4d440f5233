"""The network of LoRA: a small language model that corrects what its frozen states tell of a question."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from predictor.families import Family
from predictor.learned.features import FARTHEST
from predictor.learned.normals import OUTPUTS, output_limits
from predictor.learned.settings import PredictorSettings
from predictor.learned.states import frozen_layers, layers_of, layers_read, pool_states


class Head(nn.Module):
    """A linear map of standardised states, which is added to an offset; it starts as the zero map.

    The statistics are those of the training questions before any training. A few hidden dimensions of
    a language model are hundreds of times larger than the rest and would drown them otherwise.
    """

    centre: Tensor
    scale: Tensor
    limits: Tensor

    def __init__(self, size: int, family: Family) -> None:
        super().__init__()
        self.linear = nn.Linear(size, OUTPUTS)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("centre", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.register_buffer("limits", torch.tensor(output_limits(family)).float(), persistent=False)

    def forward(self, states: Tensor, offset: Tensor) -> Tensor:
        """(batch, 5) as `to_normals` takes them, from pooled states (batch, size) and offset (batch, 5)."""
        values: Tensor = offset + self.linear(self.standardise(states))
        return values.clamp(*self.limits)

    def standardise_by(self, states: Tensor) -> None:
        """Take the statistics of states (questions, size), of which NaN count nothing."""
        known = states[states.isfinite().all(1)]
        self.centre.copy_(known.mean(0))
        self.scale.copy_(known.std(0) + 1e-6)

    def standardise(self, states: Tensor) -> Tensor:
        """(batch, size) states in standard deviations, at most `FARTHEST`: beyond, nothing was learnt.

        Divided by the root of their number, so that a step of the optimiser moves the output little.
        """
        away = ((states.float() - self.centre) / self.scale).clamp(-FARTHEST, FARTHEST)
        return away / states.shape[1] ** 0.5


class PriorNetwork(nn.Module):
    """Backbone, pooled hidden states of its upper layers, and the head.

    The lower layers stay as they are, so training takes what they make of the questions from memory.
    """

    def __init__(self, backbone: Any, settings: PredictorSettings, family: Family) -> None:
        super().__init__()
        self.backbone, self.given = backbone, _Given()
        count = backbone.config.num_hidden_layers
        self.upper_layers = range(frozen_layers(backbone), count)
        """Those that LoRA adapts."""
        layers = layers_read(backbone, settings, adapted=True)[len(settings.depths) :]
        self.places = [layer - count - 1 for layer in layers]
        """Of the layers that the head reads, from the last."""
        self.size = 2 * len(layers) * backbone.config.hidden_size
        self.head = Head(self.size, family)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, tokens: Tensor, offset: Tensor) -> Tensor:
        """(batch, 5) as `to_normals` takes them; see `read`."""
        output: Tensor = self.head(self.read(input_ids, attention_mask, tokens), offset)
        return output

    def read(self, input_ids: Tensor, attention_mask: Tensor, tokens: Tensor) -> Tensor:
        """(batch, size) pooled states of the upper layers; ``tokens`` (batch, width, hidden) of `Tokens`."""
        self.given.tokens = tokens.to(self.backbone.dtype)
        found = self.backbone(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
        return pool_states([found.hidden_states[place] for place in self.places], attention_mask)

    @contextmanager
    def without_lower_layers(self) -> Iterator[None]:
        """Within, only upper layers are computed, from the ``tokens`` given to `forward`."""
        layers = layers_of(self.backbone)
        kept = list(layers)[: self.upper_layers.start]
        # transformers hooks the layers that it finds at the first call for states: the lower ones, too.
        self.backbone(
            torch.zeros(1, 1, dtype=torch.long, device=self.backbone.device), output_hidden_states=True
        )
        for number in range(len(kept)):
            layers[number] = self.given
        try:
            yield
        finally:
            for number, layer in enumerate(kept):
                layers[number] = layer


class _Given(nn.Module):
    """Takes the lower layers' place: their result is at hand."""

    tokens: Tensor

    def forward(self, *_: Any, **__: Any) -> Tensor:
        return self.tokens


class EvidenceLoss:
    """Minus the log evidence of a question's raw scores under the prior that the network gives.

    The evidence sums likelihood x prior over the family's grid (the same sum that decisions use),
    so training rewards a prior that is right and as narrow as it can afford. It is divided by the
    number of scores, so questions with many scores do not drown the others.
    """

    def __init__(self, family: Family) -> None:
        self.points = torch.tensor(family.points, dtype=torch.float32)
        self.log_base = torch.as_tensor(family.log_base, dtype=torch.float32)

    def __call__(self, output: Tensor, labels: Tensor) -> Tensor:
        """``labels`` (batch, laws + 1): see `make_labels`."""
        likelihood, count = labels[:, :-1], labels[:, -1]
        z = (self.points.to(output.device) - output[:, None, :2]) / output[:, None, 2:4].exp()
        rho = output[:, 4:].tanh()
        square = z.square().sum(2) - 2 * rho * z[..., 0] * z[..., 1]
        base = self.log_base.to(output.device)
        weights = (base - 0.5 * square / (1 - rho.square())).log_softmax(1)
        evidence = (likelihood + weights).logsumexp(1)
        return -(evidence / count.clamp(min=1)).mean()


def make_labels(family: Family, scores: NDArray[Any]) -> Tensor:
    """(questions, laws + 1) log-likelihood of each law, and the number of scores (questions, n), NaN none."""
    likelihood = torch.tensor(family.log_likelihood(scores, others=True), dtype=torch.float32)
    count = torch.tensor((scores == scores).sum(1), dtype=torch.float32)
    return torch.cat([likelihood, count[:, None]], dim=1)
