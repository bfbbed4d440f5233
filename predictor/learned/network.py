"""The LoRA predictor: a small language model that reads a question and gives a prior."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from predictor.families import Family, get_family
from predictor.learned.regression import output_limits
from predictor.learned.settings import HeadSettings
from predictor.prior import Prior, posterior_moments

OUTPUTS = 5  # location and log spread on each of the family's two coordinates, and their correlation
FARTHEST = 4.0


class Head(nn.Module):
    """A linear map of standardised features, with a hidden layer beside it; it starts as the zero map.

    The statistics are those of the training questions before any training. A few hidden dimensions of
    a language model are hundreds of times larger than the rest and would drown them otherwise.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, size: int, hidden: int = 0) -> None:
        super().__init__()
        self.linear = nn.Linear(size, OUTPUTS)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.curved: nn.Module | None = None
        if hidden:
            out = nn.Linear(hidden, OUTPUTS, bias=False)
            nn.init.zeros_(out.weight)
            self.curved = nn.Sequential(nn.Linear(size, hidden), nn.GELU(), out)
        self.register_buffer("centre", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    def forward(self, features: Tensor) -> Tensor:
        """(batch, 5) from pooled hidden states (batch, size)."""
        standard = self.standardise(features)
        values: Tensor = self.linear(standard)
        return values if self.curved is None else values + self.curved(standard)

    def standardise(self, features: Tensor) -> Tensor:
        """(batch, size) features in standard deviations, at most `FARTHEST`: beyond, nothing was learnt.

        Divided by the root of their number, so that a step of the optimiser moves the output little.
        """
        away = ((features.float() - self.centre) / self.scale).clamp(-FARTHEST, FARTHEST)
        return away / features.shape[1] ** 0.5


class PriorNetwork(nn.Module):
    """Backbone, pooled hidden states of some depths, and a head around a population's prior.

    The head starts at zero, so an untrained network gives the population's prior to every question
    and training can only add what the question itself tells.
    """

    offset: Tensor
    limits: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        hidden_size: int,
        population: Prior,
        settings: HeadSettings = HeadSettings(),  # noqa: B008
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.depths = settings.depths
        self.head = Head(2 * len(settings.depths) * hidden_size, settings.hidden)
        spread = torch.tensor(population.spread).log()
        correlation = torch.tensor([population.correlation]).atanh()
        offset = torch.cat([torch.tensor(population.location), spread, correlation])
        self.register_buffer("offset", offset.float())
        limits = torch.tensor(output_limits(get_family(population.family)))
        self.register_buffer("limits", limits.float(), persistent=False)

    def features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(batch, 2 x depths x hidden size): mean and last token of each layer read."""
        return pool_states(self.backbone, input_ids, attention_mask, self.depths)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(batch, 5): logit mean, logit dispersion, the logs of their spreads, atanh of their correlation."""
        return self.give(self.features(input_ids, attention_mask))

    def give(self, features: Tensor) -> Tensor:
        """The same from `features`."""
        values: Tensor = self.head(features) + self.offset
        return values.clamp(*self.limits)

    def warm_start(self, features: Tensor, likelihood: NDArray[Any], population: Prior) -> None:
        """Start the head from a ridge regression on frozen features.

        What it foretells is each question's law as its own scores and the population's prior place it
        (posterior mean of the coordinates); the spread is what remains: the leave-one-out error and the
        posterior's own variance. LoRA then starts from a predictor that already works, and cannot settle
        for explaining every question by a wide prior.

        Parameters
        ----------
        features : (questions, size) of the training questions.
        likelihood : (questions, laws) log-likelihood of their scores.
        """
        from sklearn.linear_model import RidgeCV  # training alone needs it

        mean, covariance = posterior_moments(population, likelihood)
        self.head.centre.copy_(features.mean(0))
        self.head.scale.copy_(features.std(0) + 1e-6)
        standard = self.head.standardise(features).numpy()
        ridge = RidgeCV(np.logspace(-4, 3, 15), store_cv_results=True).fit(standard, mean)
        chosen = list(ridge.alphas).index(ridge.alpha_)
        error = np.sqrt(ridge.cv_results_[..., chosen].mean(0))
        related = np.corrcoef((mean - ridge.predict(standard)).T)
        rest = covariance.mean(0) + related * np.outer(error, error)
        spread = np.sqrt(np.diag(rest))
        correlation = np.clip(rest[0, 1] / spread.prod(), -0.95, 0.95)
        wanted = np.concatenate([ridge.intercept_, np.log(spread), [np.arctanh(correlation)]])
        with torch.no_grad():
            self.head.linear.weight[:2] = torch.tensor(ridge.coef_)
            self.head.linear.bias.copy_(torch.tensor(wanted) - self.offset)


def pool_states(
    backbone: nn.Module, input_ids: Tensor, attention_mask: Tensor, depths: Sequence[float]
) -> Tensor:
    """(batch, 2 x depths x hidden size): mean and last token of layers, by their depth from 0 to 1."""
    output = backbone(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
    states = output.hidden_states
    last = attention_mask.sum(1) - 1
    chosen = [states[round(depth * (len(states) - 1))] for depth in depths]
    return torch.cat([pooled for h in chosen for pooled in _pool(h, attention_mask, last)], dim=1)


def _pool(hidden: Tensor, mask: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the real tokens, and the last real token; padding takes no part in either."""
    weights = mask.unsqueeze(2).to(hidden.dtype)
    mean = (hidden * weights).sum(1) / weights.sum(1)
    return mean, hidden[torch.arange(len(hidden), device=hidden.device), last]


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
        """``labels`` (batch, laws + 1): log-likelihood of each law, then the number of scores."""
        likelihood, count = labels[:, :-1], labels[:, -1]
        points = self.points.to(output.device)
        z = (points[None] - output[:, None, :2]) / output[:, None, 2:4].exp()
        rho = output[:, 4:].tanh()
        square = z.square().sum(2) - 2 * rho * z[..., 0] * z[..., 1]
        base = self.log_base.to(output.device)
        weights = (base - 0.5 * square / (1 - rho.square())).log_softmax(1)
        evidence = (likelihood + weights).logsumexp(1)
        return -(evidence / count.clamp(min=1)).mean()


class QuestionCollator:
    """Pads questions on the right; ``labels`` are what `EvidenceLoss` reads."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        width = max(len(e["input_ids"]) for e in examples)
        ids = torch.full((len(examples), width), self.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, example in enumerate(examples):
            length = len(example["input_ids"])
            ids[row, :length] = torch.tensor(example["input_ids"])
            mask[row, :length] = 1
        batch = {"input_ids": ids, "attention_mask": mask}
        if "labels" in examples[0]:
            batch["labels"] = torch.stack([torch.as_tensor(e["labels"]) for e in examples])
        return batch


def make_labels(family: Family, scores: NDArray[Any]) -> Tensor:
    """(questions, laws + 1) labels of `EvidenceLoss` from scores (questions, n), NaN for none."""
    likelihood = torch.tensor(family.log_likelihood(scores, others=True), dtype=torch.float32)
    count = torch.tensor((scores == scores).sum(1), dtype=torch.float32)
    return torch.cat([likelihood, count[:, None]], dim=1)
