"""Training with adapters: what is resumed, and what is refused."""

import shutil

import pytest
import torch
from torch import nn

from models import lora
from models.settings import LoraSettings


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.q_proj, self.out = nn.Embedding(50, 8), nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, input_ids):
        return self.out(self.q_proj(self.embedding(input_ids)).mean(1)).squeeze(1)


def collate(examples):
    return {
        "input_ids": torch.tensor([e["input_ids"] for e in examples]),
        "labels": torch.tensor([e["label"] for e in examples]),
    }


def examples(count):
    chance = torch.Generator().manual_seed(1)
    return [
        {
            "input_ids": torch.randint(0, 50, (6,), generator=chance).tolist(),
            "label": float(torch.randn(1, generator=chance)),
        }
        for _ in range(count)
    ]


class Killed(Exception):
    pass


def train(directory, kill_at=None):
    """(results, steps of the looks at tune) of a run whose patience ends before its epochs do."""
    settings = LoraSettings(
        rank=2, targets=("q_proj",), learning_rate=0.05, batch_size=4, epochs=4, evaluate_every=4, patience=3
    )
    looks = []

    def log(step, values):
        if "eval_loss" in values:
            looks.append(step)
            if step == kill_at:
                raise Killed

    model = lora.attach(Net(), settings)
    data = examples(64)
    results = lora.fit(
        model,
        data[:48],
        data[48:],
        collate=collate,
        loss=lambda output, labels: ((output - labels) ** 2).mean(),
        settings=settings,
        directory=directory,
        log=log,
    )
    return results, looks[1:]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A whole run's results and looks, and the folder of one that was killed two looks before its end."""
    whole, looks = train(tmp_path_factory.mktemp("whole"))
    folder = tmp_path_factory.mktemp("killed")
    with pytest.raises(Killed):
        train(folder, kill_at=looks[-2])
    return folder, whole, looks


def test_a_resumed_run_keeps_its_patience(killed, tmp_path):
    folder, whole, looks = killed
    assert len(looks) < 12  # patience ended it
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    results, after = train(tmp_path)
    assert after == looks[-2:]
    assert results["tune_loss"] == pytest.approx(whole["tune_loss"])


@pytest.mark.parametrize("state", [None, "", '{"best_metric": 0.'])
def test_a_checkpoint_that_was_not_saved_to_its_end_is_passed_over(killed, tmp_path, state):
    folder, whole, looks = killed
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    half = tmp_path / f"checkpoint-{looks[-2]}"
    half.mkdir()
    (half / "adapter_model.safetensors").write_bytes(b"half")
    if state is not None:
        (half / "trainer_state.json").write_text(state)
    results, after = train(tmp_path)
    assert after == looks[-2:]
    assert results["tune_loss"] == pytest.approx(whole["tune_loss"])
