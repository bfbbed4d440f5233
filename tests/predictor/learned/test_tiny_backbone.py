"""Predictors on a backbone of a few numbers: its states, what is stored, and that a fit can be repeated."""

import shutil

import numpy as np
import pytest

from data.errors import ConfigError, ModelError
from data.files import write_whole
from models.settings import LoraSettings
from predictor.learned import lora_predictor
from predictor.learned import states as frozen
from predictor.learned.base import Fold
from predictor.learned.comparison import fit_and_compare
from predictor.learned.lora_predictor import LoraPredictor
from predictor.learned.settings import PredictorSettings
from predictor.learned.states import FrozenStates, load_trunk, read_states
from predictor.learned.store import load_predictor
from tests.helpers import fit_lora
from tests.predictor.learned.test_kinds import ENDLESS, cut, fold

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def settings(trunk):
    lora = LoraSettings(rank=2, batch_size=8, max_steps=1, evaluate_every=1)
    return PredictorSettings(backbone=trunk, family="beta", dtype="float32", lora=lora)


@pytest.fixture(scope="module")
def fitted(settings, tmp_path_factory):
    return fit_lora(fold(16, 0), fold(8, 1), settings, tmp_path_factory.mktemp("checkpoints"))


def test_what_one_kind_s_training_tells_is_not_said_of_another(fitted, tmp_path):
    logged = {}
    model = fit_and_compare(
        fold(16, 0),
        fold(8, 1),
        fitted.card.settings.model_copy(update={"kind": "population", "compare": ("population", "lora")}),
        target=0.8,
        directory=tmp_path,
        log=lambda step, values: logged.update(values),
    )
    assert model.card.kind == "population"
    assert not [name for name in model.card.results if "loss" in name]
    assert {"lora.train_loss", "lora.eval_loss"} <= logged.keys()
    assert all(name.startswith("lora.") for name in logged)


def test_a_stored_network_is_whole_or_an_error(fitted, tmp_path):
    model, asked = fitted, fold(4, 2).questions
    model.save(tmp_path / "adapter")
    load_predictor(tmp_path / "adapter").save(tmp_path / "merged", merged=True)
    parts = {
        "adapter": ("adapter_config.json", "adapter_model.safetensors"),
        "merged": ("head.safetensors", "backbone/model.safetensors", "backbone/tokenizer.json"),
    }
    for form, names in parts.items():
        whole = tmp_path / form
        assert load_predictor(whole).predict(asked)[0].location == pytest.approx(
            model.predict(asked)[0].location, abs=0.05
        )
        for name in (*names, "predictor.json", "base/predictor.json", "base/regression.safetensors"):
            for number, harm in enumerate((lambda f: f.unlink(), cut)):
                folder = shutil.copytree(whole, tmp_path / f"{form}-{number}" / name)
                harm(folder / name)
                with pytest.raises(ModelError, match=form):
                    load_predictor(folder)


def test_kept_states_that_are_cut_are_read_again(trunk, tmp_path):
    states = FrozenStates.load(PredictorSettings(backbone=trunk, dtype="float32"), cache=tmp_path)
    asked = fold(4, 2).questions
    first = states.read(asked)
    (file,) = tmp_path.iterdir()
    cut(file)
    assert states.read(asked) == pytest.approx(first)
    assert [found.name for found in tmp_path.iterdir()] == [file.name]


def test_runs_that_keep_the_same_states_do_not_write_into_one_file(trunk, tmp_path, monkeypatch):
    states = FrozenStates.load(PredictorSettings(backbone=trunk, dtype="float32"), cache=tmp_path)
    asked, written = fold(4, 2).questions, []

    def write(file, content):
        written.append(content)
        if len(written) == 1:
            states.read(asked)  # another run, while this one writes
        write_whole(file, content)

    monkeypatch.setattr(frozen, "write_whole", write)
    found = states.read(asked)
    assert len(written) == 2
    assert len(list(tmp_path.iterdir())) == 1
    assert states.read(asked) == pytest.approx(found)


def test_what_an_adapted_backbone_has_read_is_not_read_again(fitted, tmp_path, monkeypatch):
    """By a key of its adapter: another one reads anew, and a predictor that is loaded later finds it."""
    fitted.save(tmp_path / "saved")
    asked = fold(6, 3).questions
    without = load_predictor(tmp_path / "saved").predict(asked)
    first = load_predictor(tmp_path / "saved", cache=tmp_path / "kept")
    assert first.predict(asked[:4]) == without[:4]
    read, seen = lora_predictor.read_states, []

    def reading(trunk, tokenizer, questions, settings, **options):
        seen.append(len(questions))
        return read(trunk, tokenizer, questions, settings, **options)

    monkeypatch.setattr(lora_predictor, "read_states", reading)
    again = load_predictor(tmp_path / "saved", cache=tmp_path / "kept")
    assert [p.location for p in again.predict(asked)] == [pytest.approx(p.location) for p in without]
    assert seen == [2]
    for name, parameter in again.network.named_parameters():
        if "lora_" in name:
            parameter.data += 0.1
    again.predict(asked)
    assert seen == [2, 6]


def test_what_training_has_read_is_not_read_again(settings, tmp_path, monkeypatch):
    """Its upper layers from what the lower ones had made: the same as a whole pass makes of it."""
    states = FrozenStates.load(settings, cache=tmp_path / "kept")
    train, tune = fold(24, 0), fold(8, 1)
    frozen = states.read([*train.questions, *tune.questions], tokens := {})
    checkpoints = tmp_path / "checkpoints"
    fitted = LoraPredictor.fit(train, tune, frozen, tokens, settings, directory=checkpoints, states=states)
    fitted.save(tmp_path / "saved")
    asked = tune.questions
    without = load_predictor(tmp_path / "saved").predict(asked)
    again = load_predictor(tmp_path / "saved", cache=tmp_path / "kept")
    monkeypatch.setattr(lora_predictor, "read_states", lambda *_, **__: pytest.fail("it is read again"))
    for one, other in zip(again.predict(asked), without, strict=True):
        assert one.location == pytest.approx(other.location, abs=1e-4)
        assert one.spread == pytest.approx(other.spread, rel=1e-3)


def test_lower_layers_alone_are_what_a_whole_pass_makes_of_them(settings):
    network, tokenizer = load_trunk(settings)
    asked = fold(6, 3).questions
    lower, whole = (read_states(network, tokenizer, asked, settings, adapted=a) for a in (False, True))
    assert whole.shape[1] == 2 * lower.shape[1]
    assert lower == pytest.approx(whole[:, : lower.shape[1]], abs=1e-5)


@pytest.mark.parametrize("adapted", [False, True])
def test_what_all_questions_begin_with_is_read_once(settings, adapted):
    network, tokenizer = load_trunk(settings)
    asked, reads = fold(6, 3).questions, []
    network.get_input_embeddings().register_forward_pre_hook(lambda _, given: reads.append(given[0].numel()))
    together = read_states(network, tokenizer, asked, settings, tokens := {}, adapted=adapted)
    shared, own = sum(reads[:1]), sum(reads[1:])
    reads.clear()
    alone = [read_states(network, tokenizer, [q], settings, each := {}, adapted=adapted) for q in asked]
    assert together == pytest.approx(np.concatenate(alone), abs=1e-5)
    assert shared > 5
    assert own <= len(asked) * (max(reads) - shared)
    assert tokens[asked[-1].id] == pytest.approx(each[asked[-1].id], abs=1e-5)


def test_one_form_is_saved_over_the_other(fitted, tmp_path):
    fitted.save(tmp_path)
    load_predictor(tmp_path).save(tmp_path, merged=True)
    assert not (tmp_path / "adapter_config.json").exists()
    fitted.save(tmp_path)
    assert not (tmp_path / "head.safetensors").exists()
    assert not list((tmp_path / "backbone").iterdir())
    assert load_predictor(tmp_path).card == fitted.card


def test_questions_that_cannot_be_read_are_an_error(fitted, tmp_path):
    settings = fitted.card.settings.model_copy(update={"max_length": 64})
    endless = Fold([ENDLESS] * 8, fold(8, 1).scores)
    for folds in ((endless, fold(8, 1)), (fold(16, 0), endless)):
        with pytest.raises(ConfigError, match="lora: all questions are too long"):
            fit_lora(*folds, settings, tmp_path)
