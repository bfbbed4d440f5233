"""Training with adapters: what is resumed, and what is refused."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from data.errors import ModelError
from models import lora
from models.settings import LoraSettings

pytestmark = pytest.mark.slow


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.q_proj, self.head = nn.Embedding(50, 8), nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, input_ids):
        return self.head(self.q_proj(self.embedding(input_ids)).mean(1)).squeeze(1)


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


class KilledError(Exception):
    pass


def train(directory, kill_at=None, **changes):
    """(results, steps of the looks at tune) of a run whose patience ends before its epochs do."""
    common = {"rank": 2, "targets": ("q_proj",), "learning_rate": 0.05, "batch_size": 4, "evaluate_every": 4}
    settings = LoraSettings(**{**common, "epochs": 4, "patience": 3, **changes})
    looks = []

    def log(step, values):
        if "eval_loss" in values:
            looks.append(step)
            if step == kill_at:
                raise KilledError

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
    with pytest.raises(KilledError):
        train(folder, kill_at=looks[-2])
    return folder, whole, looks


def test_a_resumed_run_keeps_its_patience(killed, tmp_path):
    folder, whole, looks = killed
    assert len(looks) < 12  # patience ended it
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    results, after = train(tmp_path)
    assert after == looks[-2:]
    assert results["tune_loss"] == pytest.approx(whole["tune_loss"])


def test_an_epoch_that_does_harm_is_the_last(tmp_path):
    results, looks = train(tmp_path, learning_rate=5.0, patience=9)
    assert looks == [4, 8, 12]  # twelve steps are an epoch
    assert results["tune_loss"] == results["start_tune_loss"]


@pytest.mark.parametrize(("changes", "expected"), [({}, [12, 24]), ({"max_steps": 15}, [12, 15])])
def test_looks_may_be_one_an_epoch(tmp_path, changes, expected):
    _, looks = train(tmp_path, evaluate_every=None, epochs=2, learning_rate=1e-4, **changes)
    assert looks == expected


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


def save(folder, rank=2, changes=lambda weights: weights):
    model = lora.attach(Net(), LoraSettings(rank=rank, targets=("q_proj",)), ["head"])
    lora.save_adapter(model, folder)
    file = folder / "adapter_model.safetensors"
    save_file(changes(load_file(file)), file)
    return folder


def test_an_adapter_is_folded_in(tmp_path):
    def shift(weights):
        return {name: weight + 0.25 for name, weight in weights.items()}

    ids = torch.arange(12).view(2, 6)
    merged = lora.merge_adapter(Net(), save(tmp_path, changes=shift))
    assert not torch.allclose(merged(ids), Net()(ids), atol=0.1)


@pytest.mark.parametrize(
    "changes",
    [
        lambda w: {k.replace("q_proj", "backbone.q_proj"): v for k, v in w.items()},
        lambda w: {k: v for k, v in w.items() if "head" not in k},
        lambda w: {**w, "base_model.model.k_proj.lora_A.weight": torch.ones(2, 8)},
        lambda w: {k: v[..., :4].contiguous() for k, v in w.items()},
    ],
    ids=["of another model", "in part", "with more", "of another size"],
)
def test_an_adapter_that_does_not_fit_is_an_error(tmp_path, changes):
    with pytest.raises(ModelError, match=r"does not fit the Net .*adapter: null"):
        lora.merge_adapter(Net(), save(tmp_path, changes=changes))


def test_a_broken_adapter_is_an_error(tmp_path):
    file = save(tmp_path) / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ModelError, match="does not fit"):
        lora.merge_adapter(Net(), tmp_path)


def test_a_step_of_several_passes_is_that_of_one_pass_over_all(tmp_path):
    def step(batch_size, accumulation):
        model = lora.attach(Net(), LoraSettings(rank=2, targets=("q_proj",)))
        found = lora.fit(
            model,
            examples(8),
            examples(4),
            collate=collate,
            loss=lambda output, labels: ((output - labels) ** 2).mean(),
            settings=LoraSettings(batch_size=batch_size, accumulation=accumulation, max_steps=1),
            directory=tmp_path / f"{batch_size}",
            log=lambda step, values: None,
        )
        return found["train_loss"]

    assert step(4, 2) == pytest.approx(step(8, 1), rel=1e-5)


@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_losses_are_means_whatever_the_passes_of_a_step(accumulation, tmp_path):
    def squares(output, labels):
        return (output - labels) ** 2

    def run(loss, directory):
        settings = LoraSettings(batch_size=2, accumulation=accumulation, epochs=1, targets=("q_proj",))
        more = {"collate": collate, "settings": settings, "directory": directory}
        return lora.fit(lora.attach(Net(), settings), examples(10), examples(11), loss=loss, **more)

    tune = collate(examples(11))  # a batch of 8 and one of 3
    expected = squares(Net()(tune["input_ids"]), tune["labels"]).mean().item()
    found = run(lambda *pair: squares(*pair).mean(), tmp_path / "a")
    assert found["start_tune_loss"] == pytest.approx(expected)
    # Five passes: the last step has fewer than the others.
    assert run(lambda output, labels: 0 * output.mean() + 1, tmp_path / "b")["train_loss"] == pytest.approx(1)


def test_a_saved_adapter_names_no_folder_of_the_machine(tmp_path):
    model = lora.attach(Net(), LoraSettings(rank=2, targets=("q_proj",)))
    model.peft_config["default"].base_model_name_or_path = str(tmp_path)
    lora.save_adapter(model, tmp_path / "a")
    assert str(tmp_path) not in (tmp_path / "a" / "adapter_config.json").read_text()
    lora.merge_adapter(Net(), tmp_path / "a")


def test_in_bfloat16_training_learns_as_in_float32(tmp_path, monkeypatch):
    """An autocast around all of training would go on with the weights that it has seen first."""
    monkeypatch.setenv("WORLD_SIZE", "1")  # training on a CPU, where half precision has to be asked for
    settings = LoraSettings(
        rank=2, targets=("q_proj",), learning_rate=0.05, batch_size=4, max_steps=24, evaluate_every=8
    )
    found, dtypes = {}, {False: set(), True: set()}
    for half in (False, True):
        monkeypatch.setattr(lora, "_precision", lambda half=half: {"bf16": half})
        model = lora.attach(Net(), settings, trained=["head"])
        seen = dtypes[half].add
        model.base_model.model.q_proj.register_forward_hook(lambda *given, seen=seen: seen(given[2].dtype))
        found[half] = lora.fit(
            model,
            examples(8),
            examples(8),
            collate=collate,
            loss=lambda output, labels: nn.functional.mse_loss(output, labels),
            settings=settings,
            directory=tmp_path / str(half),
        )
    assert dtypes == {False: {torch.float32}, True: {torch.bfloat16}}
    assert found[False]["tune_loss"] < 0.5 * found[False]["start_tune_loss"]
    assert found[True]["tune_loss"] == pytest.approx(found[False]["tune_loss"], rel=0.1)
