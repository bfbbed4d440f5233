"""The embedded process reward model: a step-level head that compares a step with its recomputation.

A completion is split into steps, each closed by a separator token. There the head reads two things:
the hidden state, and how likely the model itself finds the step's tokens. The second is what makes a
small model a verifier: it has learnt to work steps out, so a slip in one digit shows as a token it would
not have written. Positions come from a mask made while encoding, never from the scores.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import Qwen2Config, Qwen2Model, Qwen2PreTrainedModel

from models.batching import IGNORED

LEAST_LOG_LIKELIHOOD = -12.0
LOGITS = 2**25
"""Held at once: 128 MiB in float32, and as much for their softmax."""


def at_step_ends(hidden: Tensor, step: Tensor) -> Tensor:
    """(batch, steps, size) states (batch, width, size) at each step's last token.

    ``step`` (batch, width) numbers each token's step from 1, 0 outside. What lies beyond a row's last step is
    void.
    """
    rows, columns = step.nonzero(as_tuple=True)
    shape = (len(step), int(step.max()))
    flat = rows * shape[1] + step[rows, columns] - 1
    ends = torch.zeros(shape[0] * shape[1], dtype=torch.long, device=step.device)
    ends = ends.scatter_reduce(0, flat, columns, "amax").view(shape)
    return hidden[torch.arange(len(hidden), device=hidden.device)[:, None], ends].float()


def token_likelihoods(head: Any, states: Tensor, tokens: Tensor) -> Tensor:
    """(tokens,) log-likelihood of each token after the state (tokens, size) before it.

    Logits of all tokens over the vocabulary would take more memory than the network: they are made in pieces,
    and again for the gradient.
    """

    def piece(states: Tensor, tokens: Tensor) -> Tensor:
        # The head is in float32 also where the rest is not.
        scores = head(states.to(head.weight.dtype)).float()
        return -cross_entropy(scores, tokens, reduction="none")

    size = max(LOGITS // head.weight.shape[0], 1)
    pieces = [slice(at, at + size) for at in range(0, len(tokens), size)]
    found = [checkpoint(piece, states[one], tokens[one], use_reentrant=False) for one in pieces]
    return torch.cat(found)


class StepRewardModel(nn.Module):
    """A language model and the step-level head on it."""

    def __init__(self, backbone: nn.Module, hidden_size: int) -> None:
        super().__init__()
        self.backbone: Any = backbone
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False)
        self.step_head = nn.Linear(hidden_size + 2, 1)
        # Start from the likelihood alone: the hidden state has to earn its say.
        nn.init.constant_(self.step_head.bias, 1.0)
        nn.init.zeros_(self.step_head.weight)
        nn.init.constant_(self.step_head.weight[:, -2:], 0.5)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, step: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of P(step right), and the token log-likelihoods behind them.

        Parameters
        ----------
        input_ids, attention_mask, step : (batch, width); ``step`` as `encode_steps` numbers it.

        Returns
        -------
        logits : (batch, steps) in the order of the steps; what lies beyond a row's last step is void.
        likelihood : (tokens,) log-likelihood of every step token of the batch, row by row.
        place : (tokens, 2) row and step number (from 0) of each of them.
        """
        hidden = self.backbone.model(input_ids=input_ids, attention_mask=attention_mask)[0]
        rows, columns = step.nonzero(as_tuple=True)
        likelihood = token_likelihoods(
            self.backbone.lm_head, hidden[rows, columns - 1], input_ids[rows, columns]
        )
        place = torch.stack([rows, step[rows, columns] - 1], dim=1)
        shape = (len(step), int(step.max()))
        flat = place[:, 0] * shape[1] + place[:, 1]
        bounded = likelihood.clamp(min=LEAST_LOG_LIKELIHOOD)
        zeros = bounded.new_zeros(shape[0] * shape[1])
        total = zeros.scatter_add(0, flat, bounded)
        least = zeros.scatter_reduce(0, flat, bounded, "amin")
        parts = [self.norm(at_step_ends(hidden, step)), total.view(*shape, 1), least.view(*shape, 1)]
        return self.step_head(torch.cat(parts, dim=2)).squeeze(2), likelihood, place

    def step_logits(self, input_ids: Tensor, attention_mask: Tensor, step: Tensor) -> Tensor:
        """(batch, steps) logits of P(step right)."""
        return self(input_ids, attention_mask, step)[0]


def prm_loss(output: tuple[Tensor, Tensor, Tensor], labels: Tensor) -> Tensor:
    """Cross-entropy of the step labels, and of the tokens of right steps.

    The second term keeps teaching the model to work steps out, which its judgement rests on; a label
    alone says in one bit what the right digits say token by token. A batch without a right step has the
    first term alone.
    """
    logits, likelihood, place = output
    known = labels != IGNORED
    judged = binary_cross_entropy_with_logits(logits.float()[known], labels[known].float())
    right = labels[place[:, 0], place[:, 1]] == 1
    return judged - likelihood[right].sum() / right.sum().clamp(min=1)


class QwenProcessRewardModel(Qwen2PreTrainedModel):
    """The released architecture, Qwen2ForProcessRewardModel: a Qwen2 backbone and a head of two layers.

    Released weights load into it under their own names, without remote code.
    """

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__(config)
        self.model = Qwen2Model(config)
        size = config.hidden_size
        self.score = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, 2))
        self.post_init()

    def step_logits(self, input_ids: Tensor, attention_mask: Tensor, step: Tensor) -> Tensor:
        """(batch, steps) logits of P(step right)."""
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask)[0]
        classes = self.score(at_step_ends(hidden, step))
        return classes[..., 1] - classes[..., 0]


class ShepherdRewardModel(nn.Module):
    """A causal language model, asked for + or - at each mark."""

    def __init__(self, model: nn.Module, right: int, wrong: int) -> None:
        super().__init__()
        self.model: Any = model
        self.classes = (right, wrong)

    def step_logits(self, input_ids: Tensor, attention_mask: Tensor, step: Tensor) -> Tensor:
        """(batch, steps) logits of P(step right)."""
        hidden = self.model.model(input_ids=input_ids, attention_mask=attention_mask)[0]
        logits = at_step_ends(hidden, step) @ self.model.lm_head.weight[[*self.classes]].float().T
        return logits[..., 0] - logits[..., 1]
