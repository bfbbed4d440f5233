"""What a backbone is known by, and what is said of one that cannot be used."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from data.errors import ConfigError, ModelError
from data.question import Message, Question
from models import backbone, lora
from models.generator.local import LocalGenerator
from models.load import load_reward_model
from models.settings import LocalGeneratorSettings, LocalRewardSettings, LoraSettings
from models.tokenizer import open_tokenizer
from tests.models.tiny import save_causal, save_qwen_prm, save_shepherd

pytestmark = pytest.mark.slow

ASKED = Question.ask("Why?")


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


def generator(path, **changes):
    values = {"backbone": path, "adapter": None, "dtype": "float32"}
    return LocalGenerator(LocalGeneratorSettings(**values | changes))


def prm(path):
    return load_reward_model(LocalRewardSettings(convention="qwen", backbone=str(path), dtype="float32"))


def test_a_tokenizer_without_a_chat_template_is_an_error(tmp_path):
    for folder, save in (("causal", save_causal), ("prm", save_qwen_prm)):
        (tmp_path / folder).mkdir()
        save(tmp_path / folder)
        (tmp_path / folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template for turns of user"):
        generator(str(tmp_path / "causal")).sample([ASKED], n=1, seed=0)
    with pytest.raises(ModelError, match="no chat template for turns of system, user"):
        prm(tmp_path / "prm").score([(ASKED, "So.")])


def test_a_chat_template_that_refuses_a_turn_is_an_error(tmp_path):
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    (tmp_path / save_causal(tmp_path) / "chat_template.jinja").write_text(refusal)
    turns = (Message(role="system", content="Be brief."), *ASKED.messages)
    with pytest.raises(ModelError, match="turns of system, user: no system here"):
        generator(str(tmp_path)).sample([Question(messages=turns)], n=1, seed=0)


def test_weights_of_another_shape_or_cut_off_are_an_error(tmp_path):
    file = tmp_path / save_qwen_prm(tmp_path) / "model.safetensors"
    weights = load_file(file)
    weights |= {name: weights[name][:1].clone() for name in ("score.2.weight", "score.2.bias")}
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ModelError, match="could not be loaded"):
        prm(tmp_path)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelError, match="could not be loaded"):
        prm(tmp_path)


def test_a_backbone_with_the_embedded_adapter_left_on_says_what_to_set(tmp_path):
    with pytest.raises(ModelError, match="adapter: null"):
        generator(save_causal(tmp_path), adapter=LocalGeneratorSettings().adapter)


def test_targets_that_are_not_in_the_model_are_named(causal):
    with pytest.raises(ConfigError, match="lora.targets.*query_key_value"):
        lora.attach(backbone.load(causal), LoraSettings(targets=("query_key_value",)))


@pytest.mark.parametrize("device", ["gpu0", "cuda:99"])
def test_a_device_that_is_not_there_is_named(causal, device):
    with pytest.raises(ConfigError, match=f"device '{device}' cannot be used"):
        generator(causal, device=device)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_environment_forces_the_arithmetic_of_models_that_name_none(monkeypatch, dtype):
    monkeypatch.setenv("OPTSCALE_DTYPE", dtype)
    assert backbone.resolve_dtype("auto", "cpu") == getattr(torch, dtype)
    assert backbone.resolve_dtype("float32", "cpu") == torch.float32
    monkeypatch.setenv("OPTSCALE_DTYPE", "float16")
    with pytest.raises(ConfigError, match="OPTSCALE_DTYPE is 'float16'"):
        backbone.resolve_dtype("auto", "cpu")


@pytest.mark.parametrize("name", ["no.such", "re.such", ".such", ""])
def test_a_package_that_is_not_there_is_named(name):
    with pytest.raises(ModelError, match="is not installed"):
        backbone.locate(f"package:{name}")


@pytest.mark.parametrize("content", ["{}", "{", '{"model": 3}'])
def test_a_broken_tokenizer_is_an_error(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match="could not be loaded"):
        open_tokenizer(str(tmp_path))
    with pytest.raises(ModelError, match="could not be loaded"):
        backbone.load_tokenizer(str(tmp_path))
