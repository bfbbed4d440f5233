"""The embedded reward model: its loss on any mixture of right and wrong steps, and the memory it takes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen2Config, Qwen2ForCausalLM

from models.batching import IGNORED, Collator, by_tokens
from models.reward import networks
from models.reward.local import step_probabilities
from models.reward.networks import StepRewardModel, prm_loss
from tests.models.tiny import SIZES

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


class Largest(TorchDispatchMode):
    """Numbers in the largest tensor that is made inside; views of a model's weights are not made."""

    def __init__(self, model):
        super().__init__()
        self.weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for made in tree_leaves(found):
            if isinstance(made, torch.Tensor) and made.untyped_storage().data_ptr() not in self.weights:
                self.numbers = max(self.numbers, made.numel())
        return found


def reward_of(vocabulary):
    torch.manual_seed(0)
    trunk = Qwen2ForCausalLM(Qwen2Config(**SIZES, vocab_size=vocabulary))
    return StepRewardModel(trunk.requires_grad_(False), SIZES["hidden_size"])


def examples_of(count, width):
    ids = torch.randint(0, 400, (count, width), generator=torch.manual_seed(0)).tolist()
    step = [0] * 4 + [1] * (width // 2) + [2] * (width - 4 - width // 2)
    return [{"input_ids": row, "step": step} for row in ids]


def test_what_it_holds_grows_neither_with_the_vocabulary_nor_with_what_it_scores(monkeypatch):
    monkeypatch.setattr(networks, "LOGITS", 2**14)
    held = {}
    for vocabulary, count, width in ((500, 16, 32), (8000, 16, 32), (8000, 128, 32), (8000, 16, 128)):
        model = reward_of(vocabulary)
        with Largest(model) as largest:
            step_probabilities(model, 0, examples_of(count, width), batch_tokens=512)
        held[vocabulary, count, width] = largest.numbers
    assert set(held.values()) == {512 * SIZES["hidden_size"]}


def test_training_holds_no_more_logits_and_learns_the_same(monkeypatch):
    model, losses, slopes = reward_of(8000), [], []
    first = model.backbone.model.layers[0].mlp.up_proj.weight.requires_grad_()
    batch = Collator(0)(examples_of(16, 32))
    labels = torch.ones(16, 2)
    for logits in (2**14, 2**30):
        monkeypatch.setattr(networks, "LOGITS", logits)
        with Largest(model) as largest:
            loss = prm_loss(model(**batch), labels)
            loss.backward()
        assert (largest.numbers > 2**18) == (logits > 2**20)
        losses.append(loss.item())
        slopes.append(first.grad.clone())
        first.grad = None
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert torch.allclose(*slopes, atol=1e-6)


def test_a_batch_holds_so_many_tokens_with_padding_and_one_row_at_least():
    lengths = [5, 90, 7, 300, 40, 41, 6]
    batches = list(by_tokens([[0] * length for length in lengths], 90))
    assert batches == [[0, 6, 2], [4, 5], [1], [3]]
    assert not list(by_tokens([], 90))
