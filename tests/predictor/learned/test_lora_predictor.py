"""The LoRA predictor on a backbone of a few numbers, and once on its real one, trained for a few steps."""

import copy

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from data.errors import ModelError
from data.question import Message, Question
from models.batching import Collator
from models.settings import LoraSettings
from predictor.families import get_family
from predictor.learned.base import Fold
from predictor.learned.comparison import refit
from predictor.learned.features import encode
from predictor.learned.network import EvidenceLoss, make_labels
from predictor.learned.normals import to_normals, to_outputs
from predictor.learned.settings import PredictorSettings
from predictor.learned.states import FrozenStates
from predictor.learned.store import load_predictor
from predictor.prior import Prior, PriorBatch, log_evidence
from tests.helpers import fit_lora

pytestmark = pytest.mark.slow
KINDS = ((1, 9.0, 1.0), (6, 2.0, 4.0))  # digits, and the beta law of the scores


def questions_and_scores(count, seed):
    rng = np.random.default_rng(seed)
    questions, scores = [], []
    for number in range(count):
        digits, a, b = KINDS[number % 2]
        numbers = rng.integers(10 ** (digits - 1), 10**digits, 2)
        questions.append(Question.ask(f"Compute {numbers[0]} + {numbers[1]} for case {number}."))
        scores.append(rng.beta(a, b, 12))
    return Fold(questions, np.array(scores))


SETTINGS = PredictorSettings(
    family="beta",
    dtype="float32",
    lora=LoraSettings(
        rank=4, alpha=8, learning_rate=2e-3, batch_size=8, epochs=6, max_steps=6, evaluate_every=3
    ),
)


@pytest.fixture(scope="module")
def trained(trunk, tmp_path_factory):
    logged = []
    predictor = fit_lora(
        questions_and_scores(24, 0),
        questions_and_scores(8, 1),
        SETTINGS.model_copy(update={"backbone": trunk}),
        tmp_path_factory.mktemp("checkpoints"),
        log=lambda step, values: logged.append((step, values)),
    )
    assert any("eval_loss" in values for _, values in logged)
    return predictor


def require_easy_from_hard(predictor):
    questions, scores = questions_and_scores(20, 2)
    means = PriorBatch.of(predictor.predict(questions)).moments[0]
    assert means[::2].mean() > means[1::2].mean() + 0.1
    flat, _ = predictor.card.population.moments()
    observed = scores.mean(axis=1)
    assert np.mean((means - observed) ** 2) < np.mean((flat - observed) ** 2)


def test_it_tells_easy_from_hard_on_unseen_questions(trained):
    require_easy_from_hard(trained)


@pytest.mark.suite
def test_it_does_on_its_real_backbone(tmp_path):
    require_easy_from_hard(
        fit_lora(questions_and_scores(24, 0), questions_and_scores(8, 1), SETTINGS, tmp_path)
    )


def test_predictions_do_not_depend_on_batch_or_white_space(trained):
    questions, _ = questions_and_scores(6, 3)
    together = trained.predict(questions)
    for question, prior in zip(questions, together, strict=True):
        (alone,) = trained.predict([Question.ask(question.text.replace(" ", "  ") + "\n")])
        assert alone.location == pytest.approx(prior.location, abs=1e-3)
        assert alone.spread == pytest.approx(prior.spread, abs=1e-3)


def test_an_endless_question_gets_the_populations_prior(trained):
    endless = Question.ask("Compute " + "12 + " * 20_000 + "1.")
    assert encode(trained.tokenizer, endless, 512) is None
    assert trained.predict([endless]) == [trained.card.population]


def test_a_question_is_read_as_its_backbone_was_taught_to_be_asked(trained):
    tokenizer = copy.copy(trained.tokenizer)
    turns = [Message(role="system", content="Be\n brief."), Message(role="user", content="Compute  3 + 4.")]
    asked = Question(messages=tuple(turns))
    read = tokenizer.decode(encode(tokenizer, asked, 512))
    assert read.index("Be brief.") < read.index("Compute 3 + 4.") < read.index("assistant")
    # A template may know no system's turn; then all turns are asked as one.
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "<{{ m.content }}>{% endfor %}"
    )
    assert tokenizer.decode(encode(tokenizer, asked, 512)) == "<Be brief.\nCompute 3 + 4.>"
    tokenizer.chat_template = None
    assert tokenizer.decode(encode(tokenizer, asked, 512)) == "Be brief.\nCompute 3 + 4."
    assert trained.tokens_read(asked) == len(encode(trained.tokenizer, asked, 512))


def test_a_long_question_is_read_by_its_ends(trained):
    ids = encode(trained.tokenizer, Question.ask("Begin with " + "12 + " * 1000 + "1 and end."), 512)
    assert len(ids) == 512
    read = trained.tokenizer.decode(ids)
    assert "Begin with 12" in read
    assert "1 and end." in read


def test_a_question_like_none_before_gets_a_prior_all_the_same(trained):
    strange = [Question.ask(t) for t in ("q", "\u2603" * 30, "SELECT * FROM t;", "Wer weiß das schon?")]
    known = [prior.spread for prior in trained.predict(questions_and_scores(12, 6)[0])]
    for prior in trained.predict(strange):
        mean, std = prior.moments()
        assert 0 < mean < 1
        assert 0 < std < 0.5
        assert (np.array(prior.spread) > np.mean(known, axis=0)).all()


def test_both_stored_forms_predict_the_same(trained, tmp_path):
    questions, _ = questions_and_scores(4, 4)
    expected = trained.predict(questions)
    trained.save(tmp_path / "adapter")
    loaded = load_predictor(tmp_path / "adapter")
    assert loaded.card == trained.card
    loaded.save(tmp_path / "merged", merged=True)
    for predictor, slack in ((loaded, 0.05), (load_predictor(tmp_path / "merged"), 0.1)):
        for prior, wanted in zip(predictor.predict(questions), expected, strict=True):
            assert prior.location == pytest.approx(wanted.location, abs=slack)
    size = sum(f.stat().st_size for f in (tmp_path / "adapter").iterdir())
    assert size < 8e6
    assert {f.suffix for f in (tmp_path / "merged").rglob("*") if f.is_file()} <= {
        ".json",
        ".safetensors",
        ".jinja",
    }


def test_a_directory_without_a_predictor_is_an_error(tmp_path):
    with pytest.raises(ModelError, match=r"predictor\.json is missing"):
        load_predictor(tmp_path)
    (tmp_path / "predictor.json").write_text("{}")
    with pytest.raises(ModelError, match="not a predictor's card.*train again"):
        load_predictor(tmp_path)


def test_loss_is_the_evidence_that_decisions_use():
    family = get_family("beta")
    scores = np.random.default_rng(0).beta(4, 2, (5, 9))
    scores[1, 4:] = np.nan
    output = torch.tensor([[1.0, -1.0, -0.5, 0.1, -0.4]]).repeat(5, 1)
    prior = Prior(
        family="beta", location=(1, -1), spread=np.exp([-0.5, 0.1]).tolist(), correlation=np.tanh(-0.4)
    )
    priors = [prior] * 5
    expected = -(log_evidence(priors, family.log_likelihood(scores)) / (~np.isnan(scores)).sum(1)).mean()
    assert EvidenceLoss(family)(output, make_labels(family, scores)).item() == pytest.approx(
        expected, rel=1e-4
    )


def test_training_from_kept_states_is_what_a_whole_pass_predicts(trained):
    questions, _ = questions_and_scores(6, 5)
    changed = copy.deepcopy(trained)  # its own training may have gained nothing
    for parameter in (p for p in changed.network.parameters() if p.requires_grad):
        torch.nn.init.normal_(parameter, std=0.3)
    seen = FrozenStates.load(trained.card.settings).read(questions, tokens := {})
    network, base = changed.network, changed.base
    told = base.predict_normals(questions, seen)
    offset = to_outputs(told.location, told.covariance)
    collate = Collator(trained.tokenizer.pad_token_id)
    examples = [
        {"input_ids": encode(trained.tokenizer, q, 512), "tokens": tokens[q.id], "offset": np.float32(row)}
        for q, row in zip(questions, offset, strict=True)
    ]
    with torch.inference_mode(), network.without_lower_layers():
        location, covariance = to_normals(network(**collate(examples)).double().numpy())
    whole = changed.predict_normals(questions)
    assert location == pytest.approx(whole.location, abs=1e-4)
    assert covariance == pytest.approx(whole.covariance, abs=1e-4)
    assert np.abs(location - told.location).max() > 0.01


def test_fitted_on_more_questions_the_correction_stays(trained):
    fold, (questions, _) = questions_and_scores(40, 0), questions_and_scores(6, 5)
    again = refit(trained, fold)
    assert again.card.questions == 40
    assert {q.id for q in fold.questions} <= set(again.card.read)
    states = trained.states.read(questions)
    changes = []
    for model in (trained, again):
        told = model.base.predict_normals(questions, states)
        changes.append(model.predict_normals(questions).location - told.location)
    assert changes[1] == pytest.approx(changes[0], abs=1e-4)


@pytest.mark.parametrize("wrong", [{"depths": (0.5, 1.0)}, {"adapted_depths": (0.5,)}])
def test_lora_adapts_the_layers_above_two_thirds(wrong):
    (name,) = wrong
    with pytest.raises(ValidationError, match=name):
        PredictorSettings(**wrong)


def test_training_that_does_harm_is_undone(trunk, tmp_path):
    ruinous = LoraSettings(rank=2, learning_rate=1.0, batch_size=8, max_steps=2, evaluate_every=1)
    settings = SETTINGS.model_copy(update={"backbone": trunk, "lora": ruinous})
    predictor = fit_lora(questions_and_scores(16, 0), questions_and_scores(8, 1), settings, tmp_path)
    results = predictor.card.results
    assert results["tune_loss"] == results["start_tune_loss"]
    lora = [p for name, p in predictor.network.named_parameters() if "lora_B" in name]
    assert all((p == 0).all() for p in lora)
    questions, _ = questions_and_scores(6, 5)
    told = predictor.base.predict_normals(questions, predictor.states.read(questions))
    assert predictor.predict_normals(questions).location == pytest.approx(told.location, abs=1e-5)


@pytest.mark.suite
def test_two_processes_train_one_predictor(trunk, tmp_path):
    common = {"rank": 4, "alpha": 8, "learning_rate": 2e-3, "epochs": 6, "max_steps": 14, "evaluate_every": 7}
    logged = []

    def fit(folder, log=lambda step, values: None, **lora):
        settings = SETTINGS.model_copy(update={"backbone": trunk, "lora": LoraSettings(**common | lora)})
        train, tune = questions_and_scores(24, 0), questions_and_scores(8, 1)
        return fit_lora(train, tune, settings, tmp_path / folder, log)

    alone = fit("alone", batch_size=8)
    shared = fit("shared", lambda *step: logged.append(step), batch_size=4, processes=2)
    steps = [step for step, values in logged if "eval_loss" in values]
    assert steps == sorted(set(steps))  # only the first process logs
    (epoch,) = (values["epoch"] for step, values in logged if step == 7 and "eval_loss" in values)
    assert epoch == pytest.approx(7 * 2 * 4 / 24, abs=0.01)  # both took batches of four
    questions, _ = questions_and_scores(20, 2)
    means = [np.array([p.moments()[0] for p in model.predict(questions)]) for model in (alone, shared)]
    assert means[1] == pytest.approx(means[0], abs=0.1)  # as many questions a step, in another order
    shared.save(tmp_path / "stored")
    again = load_predictor(tmp_path / "stored").predict(questions)
    assert [p.moments()[0] for p in again] == pytest.approx(means[1], abs=5e-3)


@pytest.mark.suite
def test_a_training_process_that_fails_says_why(trunk, tmp_path):
    lora = LoraSettings(processes=2, targets=("no_such_layer",))
    settings = SETTINGS.model_copy(update={"backbone": trunk, "lora": lora})
    with pytest.raises(ModelError, match="No modules were targeted"):
        fit_lora(questions_and_scores(24, 0), questions_and_scores(8, 1), settings, tmp_path)
