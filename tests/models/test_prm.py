"""The loss of the embedded reward model, on any mixture of right and wrong steps."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid

from models.batching import IGNORED
from models.reward.networks import prm_loss

pytestmark = pytest.mark.slow


@given(st.lists(st.lists(st.sampled_from([0, 1]), min_size=1, max_size=4), min_size=1, max_size=4))
def test_it_is_the_mean_over_steps_and_over_tokens_of_right_steps(rows):
    torch.manual_seed(0)
    labels = torch.full((len(rows), max(map(len, rows))), IGNORED)
    for row, steps in enumerate(rows):
        labels[row, : len(steps)] = torch.tensor(steps)
    logits = torch.randn(labels.shape, requires_grad=True)
    place = torch.tensor([(row, step) for row, steps in enumerate(rows) for step in range(len(steps))] * 2)
    likelihood = (-torch.rand(len(place))).requires_grad_()  # two tokens a step

    loss = prm_loss((logits, likelihood, place), labels)
    sure = [
        logsigmoid(logits[row, step] if right else -logits[row, step]).item()
        for row, steps in enumerate(rows)
        for step, right in enumerate(steps)
    ]
    told = [value.item() for value, (row, step) in zip(likelihood, place, strict=True) if rows[row][step]]
    expected = -sum(sure) / len(sure) - (sum(told) / len(told) if told else 0.0)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    loss.backward()
    assert logits.grad.isfinite().all()
    assert likelihood.grad.isfinite().all()
