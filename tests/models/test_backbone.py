"""What a backbone is known by, and what is said of one that cannot be used."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from models import backbone
from predictor.errors import ModelError
from tests.models.tiny import save_shepherd


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    return save_shepherd(tmp_path_factory.mktemp("causal"))


def commit_to_hub(cache, source, commit, shift=0.0):
    """A hub cache in which ``org/tiny`` stands at ``commit``."""
    repository = cache / "models--org--tiny"
    folder = repository / "snapshots" / commit
    shutil.copytree(source, folder)
    weights = load_file(folder / "model.safetensors")
    weights = {name: tensor + shift for name, tensor in weights.items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(commit)


def test_the_revision_of_a_hub_id_changes_with_its_commit(causal, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit_to_hub(tmp_path, causal, "a" * 40)
    first = backbone.revision("org/tiny")
    assert backbone.revision("org/tiny") == first
    commit_to_hub(tmp_path, causal, "b" * 40, shift=0.1)
    assert backbone.revision("org/tiny") != first


def test_a_hub_id_without_a_commit_has_no_revision(causal, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="hf download org/tiny"):
        backbone.revision("org/tiny")
    commit_to_hub(tmp_path, causal, "by-hand")
    with pytest.raises(ModelError, match="commit is unknown"):
        backbone.revision("org/tiny")


def test_the_revision_of_a_directory_covers_bin_files(causal, tmp_path):
    found = []
    for shift in (0, 1):
        folder = tmp_path / str(shift)
        shutil.copytree(causal, folder)
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        torch.save({k: v + shift for k, v in weights.items()}, folder / "pytorch_model.bin")
        found.append(backbone.revision(str(folder)))
    assert found[0] != found[1]
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match="has no weights"):
        backbone.revision(str(folder))
