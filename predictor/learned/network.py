"""The network of LoRA: a small language model that reads a question and gives a normal over its law."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from predictor.families import Family, get_family
from predictor.learned.features import FARTHEST
from predictor.learned.normals import OUTPUTS, output_limits
from predictor.learned.states import pool_states
from predictor.prior import Prior, posterior_moments


class Head(nn.Module):
    """A linear map of standardised states around a population's prior; it starts as the zero map.

    The statistics are those of the training questions before any training. A few hidden dimensions of
    a language model are hundreds of times larger than the rest and would drown them otherwise.
    """

    centre: Tensor
    scale: Tensor
    offset: Tensor
    limits: Tensor

    def __init__(self, size: int, population: Prior) -> None:
        super().__init__()
        self.linear = nn.Linear(size, OUTPUTS)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("centre", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        spread, correlation = np.log(population.spread), np.arctanh(population.correlation)
        self.register_buffer("offset", torch.tensor([*population.location, *spread, correlation]).float())
        limits = torch.tensor(output_limits(get_family(population.family)))
        self.register_buffer("limits", limits.float(), persistent=False)

    def forward(self, states: Tensor) -> Tensor:
        """(batch, 5) as `to_normals` takes them, from pooled states (batch, size)."""
        values: Tensor = self.linear(self.standardise(states)) + self.offset
        return values.clamp(*self.limits)

    def standardise(self, states: Tensor) -> Tensor:
        """(batch, size) states in standard deviations, at most `FARTHEST`: beyond, nothing was learnt.

        Divided by the root of their number, so that a step of the optimiser moves the output little.
        """
        away = ((states.float() - self.centre) / self.scale).clamp(-FARTHEST, FARTHEST)
        return away / states.shape[1] ** 0.5

    def warm_start(self, states: Tensor, likelihood: NDArray[Any], population: Prior) -> None:
        """Start from a ridge regression on frozen states.

        What it predicts is each question's law as its own scores and the population's prior place it
        (posterior mean of the coordinates); the spread is what remains: the leave-one-out error and the
        posterior's own variance. LoRA then starts from a predictor that already works, and cannot settle
        for explaining every question by a wide prior.

        Parameters
        ----------
        states : (questions, size) of the training questions.
        likelihood : (questions, laws) log-likelihood of their scores.
        """
        from sklearn.linear_model import RidgeCV  # training alone needs it

        mean, covariance = posterior_moments(population, likelihood)
        self.centre.copy_(states.mean(0))
        self.scale.copy_(states.std(0) + 1e-6)
        standard = self.standardise(states).numpy()
        ridge = RidgeCV(np.logspace(-4, 3, 15), store_cv_results=True).fit(standard, mean)
        chosen = list(ridge.alphas).index(ridge.alpha_)
        error = np.sqrt(ridge.cv_results_[..., chosen].mean(0))
        related = np.corrcoef((mean - ridge.predict(standard)).T)
        rest = covariance.mean(0) + related * np.outer(error, error)
        spread = np.sqrt(np.diag(rest))
        correlation = np.clip(rest[0, 1] / spread.prod(), -0.95, 0.95)
        wanted = np.concatenate([ridge.intercept_, np.log(spread), [np.arctanh(correlation)]])
        with torch.no_grad():
            self.linear.weight[:2] = torch.tensor(ridge.coef_)
            self.linear.bias.copy_(torch.tensor(wanted) - self.offset)


class PriorNetwork(nn.Module):
    """Backbone, pooled hidden states of some depths, and the head.

    The head starts at zero, so an untrained network gives the population's prior to every question
    and training can only add what the question itself tells.
    """

    def __init__(self, backbone: Any, depths: tuple[float, ...], population: Prior) -> None:
        super().__init__()
        self.backbone, self.depths = backbone, depths
        size, layers = 2 * backbone.config.hidden_size, backbone.config.num_hidden_layers
        self.head = Head(len(depths) * size, population)
        self.upper_layers = range(layers // 2, layers)
        """Those that LoRA adapts: what the lower ones make of a question stays as it is."""
        self.lower_states = np.repeat([round(d * layers) <= layers // 2 for d in depths], size)
        """(size,) which of the pooled states are of lower layers."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(batch, 5): logit mean, logit dispersion, the logs of their spreads, atanh of their correlation."""
        output: Tensor = self.head(pool_states(self.backbone, input_ids, attention_mask, self.depths))
        return output


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
