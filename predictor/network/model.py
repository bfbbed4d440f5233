"""The LoRA predictor: a small language model that reads a question and gives a prior."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from predictor.families import Family
from predictor.prior import Prior

OUTPUTS = 5  # location and log spread on each of the family's two coordinates, and their correlation
_LOG_SPREAD = (-2.5, 1.5)
_ATANH_CORRELATION = (-1.8, 1.8)


class PriorNetwork(nn.Module):
    """Backbone, pooled hidden states of two depths, and a linear head around a population's prior.

    The head starts at zero, so an untrained network gives the population's prior to every question
    and training can only add what the question itself tells.
    """

    def __init__(self, backbone: nn.Module, hidden_size: int, population: Prior) -> None:
        super().__init__()
        self.backbone = backbone
        self.norm = nn.LayerNorm(4 * hidden_size, elementwise_affine=False)
        self.head = nn.Linear(4 * hidden_size, OUTPUTS)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        spread = torch.tensor(population.spread).log()
        correlation = torch.tensor([population.correlation]).atanh()
        offset = torch.cat([torch.tensor(population.location), spread, correlation])
        self.register_buffer("offset", offset.float())

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(batch, 5): logit mean, logit dispersion, the logs of their spreads, atanh of their correlation."""
        output = self.backbone(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
        states = output.hidden_states
        last = attention_mask.sum(1) - 1
        features = torch.cat(
            [
                pooled
                for h in (states[len(states) // 2], states[-1])
                for pooled in _pool(h, attention_mask, last)
            ],
            dim=1,
        ).float()
        values: Tensor = self.head(self.norm(features)) + self.offset
        spread, correlation = values[:, 2:4].clamp(*_LOG_SPREAD), values[:, 4:].clamp(*_ATANH_CORRELATION)
        return torch.cat([values[:, :2], spread, correlation], dim=1)


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

    def __call__(self, output: Tensor, labels: Tensor) -> Tensor:
        """``labels`` (batch, laws + 1): log-likelihood of each law, then the number of scores."""
        likelihood, count = labels[:, :-1], labels[:, -1]
        points = self.points.to(output.device)
        z = (points[None] - output[:, None, :2]) / output[:, None, 2:4].exp()
        rho = output[:, 4:].tanh()
        square = z.square().sum(2) - 2 * rho * z[..., 0] * z[..., 1]
        weights = (-0.5 * square / (1 - rho.square())).log_softmax(1)
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
    likelihood = torch.tensor(family.log_likelihood(scores), dtype=torch.float32)
    count = torch.tensor((scores == scores).sum(1), dtype=torch.float32)
    return torch.cat([likelihood, count[:, None]], dim=1)


def to_priors(output: Tensor, family: str, strength: float) -> list[Prior]:
    """Priors from what the network gives, (questions, 5)."""
    return [
        Prior(
            family=family,
            location=(row[0], row[1]),
            spread=(row[2], row[3]),
            correlation=row[4],
            strength=strength,
        )
        for row in torch.cat([output[:, :2], output[:, 2:4].exp(), output[:, 4:].tanh()], dim=1).tolist()
    ]
