"""Kinds of predictor on made-up questions, whose states are made up too: no model is loaded."""

import hashlib
import shutil

import numpy as np
import pytest

from data.errors import ConfigError, ModelError
from data.question import Question
from flows.config import load_config
from predictor.learned import comparison, kernel_predictor, regression
from predictor.learned.base import Fold
from predictor.learned.settings import PredictorSettings
from predictor.learned.states import FrozenStates
from predictor.learned.store import load_predictor

pytestmark = pytest.mark.slow

ENDLESS = Question.ask("Compute " + "12 + " * 2000 + "1.")
"""Too long to be read."""


class States:
    """Reads of a question how many terms it has, and what tells it from others; NaN for an endless one."""

    tokenizer = None

    def read(self, questions, tokens=None):
        rows = []
        for question in questions:
            noise = np.random.default_rng(int(hashlib.sha256(question.text.encode()).hexdigest()[:8], 16))
            terms = question.text.count("+") + 1
            rows.append(np.concatenate([[terms], 0.3 * noise.normal(size=3)]))
            rows[-1][:] = np.nan if question == ENDLESS else rows[-1]
        return np.array(rows, dtype=np.float32)

    def save(self, directory):
        directory.mkdir(parents=True, exist_ok=True)


@pytest.fixture(autouse=True)
def _states(monkeypatch):
    monkeypatch.setattr(FrozenStates, "load", lambda *_, **__: States())


def fold(count, seed, endless=False):
    """Sums, the longer the worse, and their scores."""
    rng = np.random.default_rng(seed)
    terms = rng.integers(2, 6, count)
    questions = [Question.ask(f"Compute {' + '.join(map(str, rng.integers(10, 99, n)))}.") for n in terms]
    questions = [*questions[:-1], ENDLESS] if endless else questions
    mean = (0.9 - 0.12 * terms)[:, None]
    return Fold(questions, rng.beta(8 * mean, 8 * (1 - mean), (count, 6)))


def fit(kind, train, tune, directory, **changes):
    return comparison.fit_and_compare(
        train,
        tune,
        PredictorSettings(family="beta", kind=kind, compare=(kind,), **changes),
        target=0.8,
        directory=directory,
    )


@pytest.mark.parametrize("kind", ["population", "text", "states"])
def test_what_is_compared_is_what_is_predicted(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "refit", lambda model, fold: model)
    tune = fold(20, 1, endless=True)
    # Scores that agree more than the population's prior expects ask for another strength than 1.
    tune = tune._replace(scores=np.repeat(tune.scores.mean(keepdims=True), 20, axis=0).repeat(6, axis=1))
    model = fit(kind, fold(60, 0), tune, tmp_path)
    (row,) = model.card.compared
    found = comparison.score_priors(model.predict(tune.questions), tune.scores, 0.8)
    assert (row.evidence, row.hit_score) == pytest.approx((found.evidence.mean(), found.hit.mean()))
    assert (model.card.strength == 1) == (kind == "population")
    if kind == "states":
        assert model.predict([ENDLESS]) == [model.card.population]


@pytest.mark.parametrize("kind", ["text", "states"])
def test_a_refit_that_goes_wrong_leaves_what_was_compared(kind, tmp_path, monkeypatch, caplog):
    train, tune = fold(60, 0), fold(20, 1)
    good = fit(kind, train, tune, tmp_path)
    assert good.card.questions == 80
    assert good.card.results["left_out_gain"] > 0
    assert not caplog.records
    fit_map = regression.fit_map
    wrong = lambda left_out, *rest: fit_map(left_out, *rest) + (3.0 if len(left_out) == 80 else 0)  # noqa: E731
    monkeypatch.setattr(regression, "fit_map", wrong)
    kept = fit(kind, train, tune, tmp_path)
    assert kept.card.questions == 60
    assert kept.card.compared[0].evidence == good.card.compared[0].evidence
    (record,) = caplog.records
    assert f"predictor {kind}, fitted again on 80 questions" in record.getMessage()
    whole = Fold([*train.questions, *tune.questions], np.concatenate([train.scores, tune.scores]))
    assert comparison.refit(good, whole) is None


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A folder a kind, and one of states that was fitted on fewer questions."""
    place = tmp_path_factory.mktemp("stored")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FrozenStates, "load", lambda *_, **__: States())
        for name, count in (*((kind, 40) for kind in KINDS), ("fewer", 30)):
            kind = name if name in KINDS else "states"
            fit(kind, fold(count, 0), fold(10, 1), place).save(place / name)
    return place


KINDS = ("population", "text", "states")


@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_kind_is_whole_or_an_error(kind, stored, tmp_path):
    asked, _ = fold(5, 2)
    assert len(load_predictor(stored / kind).predict(asked)) == 5
    files = [file.name for file in (stored / kind).iterdir()]
    for name in files:
        for number, harm in enumerate((lambda f: f.unlink(), cut, lambda f: f.write_bytes(b""))):
            folder = shutil.copytree(stored / kind, tmp_path / f"{number}-{name}")
            harm(folder / name)
            with pytest.raises(ModelError, match=folder.name):
                load_predictor(folder)


def cut(file):
    """What a full disk or a broken copy leaves."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("name", ["predictor.json", "regression.json", "regression.safetensors"])
@pytest.mark.parametrize(("one", "other"), [("text", "states"), ("states", "text"), ("states", "fewer")])
def test_a_predictor_of_several_is_an_error(name, one, other, stored, tmp_path):
    folder = shutil.copytree(stored / one, tmp_path / "mixed")
    shutil.copy(stored / other / name, folder)
    with pytest.raises(ModelError, match=r"mixed is not whole, or its files are of several.*train again"):
        load_predictor(folder)


def test_what_older_versions_wrote_says_what_to_do(stored, tmp_path):
    with pytest.raises(ConfigError, match="rivals is unknown; allowed: .*compare"):
        load_config(None, ("predictor.rivals=[population,words]",))
    folder = shutil.copytree(stored / "states", tmp_path / "old")
    card = (folder / "predictor.json").read_text()
    for old in (card.replace('"kind": "states"', '"kind": "stack"'), card.replace('"compare"', '"rivals"')):
        assert old != card
        (folder / "predictor.json").write_text(old)
        with pytest.raises(ModelError, match="or one of an older version: train again"):
            load_predictor(folder)


def test_saving_that_is_cut_off_leaves_no_predictor(stored, tmp_path, monkeypatch):
    """Not even where one was before, of which a half would be left."""
    text = load_predictor(stored / "text")
    text.save(tmp_path)
    monkeypatch.setattr(kernel_predictor, "save_file", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        text.save(tmp_path)
    with pytest.raises(ModelError, match=r"predictor\.json is missing"):
        load_predictor(tmp_path)


def test_another_kind_is_saved_over_one(stored, tmp_path):
    for kind in ("states", "population", "text"):
        model = load_predictor(stored / kind)
        model.save(tmp_path)
        assert load_predictor(tmp_path).card == model.card


def test_questions_that_cannot_be_read_are_an_error_of_the_kinds_that_read(tmp_path):
    scores = np.full((12, 6), 0.5)
    with pytest.raises(ConfigError, match="states: all questions are too long.*max_length 512"):
        fit("states", Fold([ENDLESS] * 12, scores), fold(8, 1), tmp_path)
    unread = fit("states", fold(20, 0), Fold([ENDLESS] * 12, scores), tmp_path)
    assert unread.card.strength == 1


@pytest.mark.parametrize("kind", ["text", "states"])
def test_the_fewest_questions_that_are_read_make_a_predictor(kind, tmp_path):
    questions, scores = fold(8, 0)
    model = fit(kind, Fold([*questions[:1], *[ENDLESS] * 7], scores), fold(4, 1), tmp_path)
    assert len(model.predict(questions)) == 8
