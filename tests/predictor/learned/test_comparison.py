"""Every kind of predictor, fitted on real questions of the shipped pool, and how it behaves."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from data.folds import FoldSettings
from data.pool import Pool
from data.question import Question
from data.scores import load_scores
from predictor.learned import states as frozen_states
from predictor.learned.base import Fold
from predictor.learned.comparison import fit_and_compare, refit
from predictor.learned.settings import PredictorSettings
from predictor.learned.states import FrozenStates
from predictor.learned.store import load_predictor
from predictor.prior import PriorBatch
from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.suite]


@pytest.fixture(scope="module")
def table():
    return load_scores(Pool.open(str(ROOT / "data" / "pool")), FoldSettings())


@pytest.fixture(scope="module")
def folds(table):
    plain = table.select(np.array([not q.group.startswith("story") for q in table.questions]))
    parts = [plain.fold(name) for name in ("train", "tune", "test")]
    return [p.select(np.arange(len(p)) < n) for p, n in zip(parts, (400, 100, 50), strict=True)]


@pytest.fixture(scope="module")
def fitted(folds, tmp_path_factory):
    kinds = ("population", "text", "states")  # LoRA: tests/flows/test_loop.py
    settings = PredictorSettings(family="beta", dtype="float32", compare=kinds)
    train, tune, _ = folds
    return fit_and_compare(
        Fold(train.questions, train.scores),
        Fold(tune.questions, tune.scores),
        settings,
        target=0.85,
        directory=tmp_path_factory.mktemp("checkpoints"),
        cache=tmp_path_factory.mktemp("states"),
    )


def means_of(model, texts):
    return PriorBatch.of(model.predict([Question.ask(t) for t in texts])).moments[0]


def widths(model, texts):
    return np.mean([p.spread for p in model.predict([Question.ask(t) for t in texts])], axis=0)


def sums(terms, digits, count=8):
    rng = np.random.default_rng(10 * terms + digits)
    numbers = rng.integers(10 ** (digits - 1), 10**digits, (count, terms))
    return [f"Compute {' + '.join(map(str, row))}." for row in numbers]


def test_every_kind_is_compared_and_the_recommended_one_is_good(fitted, folds):
    card = fitted.card
    rows = {r.kind: r for r in card.compared}
    assert list(rows) == ["population", "text", "states"]
    assert min(r.behind for r in rows.values()) == 0
    assert rows["population"].behind > 2 * rows["population"].behind_error
    assert card.kind == "states"
    assert card.questions == 500
    test = folds[2]
    means = PriorBatch.of(fitted.predict(test.questions)).moments[0]
    assert spearmanr(means, test.scores.mean(axis=1)).statistic > 0.6


def test_no_prior_knows_its_own_scores(fitted, folds):
    """A question of the fit is foretold as if it had not been there: no better than an unseen one."""
    train, _, test = folds
    errors = []
    for fold in (train, test):
        means = PriorBatch.of(fitted.predict(fold.questions)).moments[0]
        errors.append(np.mean((means - fold.scores.mean(axis=1)) ** 2))
    assert errors[0] > 0.7 * errors[1]


def test_both_stored_forms_predict_the_same(fitted, folds, tmp_path):
    asked = [*folds[0].questions[:2], *folds[2].questions[:4]]
    expected = fitted.predict(asked)
    fitted.save(tmp_path / "small")
    fitted.save(tmp_path / "whole", merged=True)
    for place in ("small", "whole"):
        model = load_predictor(tmp_path / place)
        assert model.card == fitted.card
        for prior, wanted in zip(model.predict(asked), expected, strict=True):
            assert prior.location == pytest.approx(wanted.location, abs=1e-3)
            assert prior.spread == pytest.approx(wanted.spread, abs=1e-3)
    assert sum(f.stat().st_size for f in (tmp_path / "small").iterdir()) < 8e6
    stored = {f.suffix for f in (tmp_path / "whole").rglob("*") if f.is_file()}
    assert stored <= {".json", ".safetensors", ".jinja", ".md"}


def test_the_simple_kinds_are_stored_too(folds, tmp_path):
    train, tune, test = folds
    for kind in ("population", "text"):
        settings = PredictorSettings(family="beta", kind=kind, compare=(kind,))
        model = fit_and_compare(
            Fold(train.questions, train.scores),
            Fold(tune.questions, tune.scores),
            settings,
            target=0.85,
            directory=tmp_path,
        )
        model.save(tmp_path / kind)
        again = load_predictor(tmp_path / kind)
        assert again.card.kind == kind
        for one, other in zip(again.predict(test.questions), model.predict(test.questions), strict=True):
            assert one.location == pytest.approx(other.location, abs=1e-3)


def test_states_are_read_once(fitted, folds, tmp_path, monkeypatch):
    states = FrozenStates.load(fitted.card.settings, cache=tmp_path)
    asked = folds[2].questions[:6]
    first = states.read(asked)
    monkeypatch.setattr(frozen_states, "read_states", None)
    assert (states.read(asked[::-1])[::-1] == first).all()
    endless = Question.ask("Compute " + "12 + " * 20_000 + "1.")
    monkeypatch.undo()
    assert np.isnan(FrozenStates.load(fitted.card.settings).read([endless])).all()
    assert fitted.predict([endless]) == [fitted.card.population]


def test_more_terms_or_digits_never_get_a_better_prior(fitted):
    by_terms = [means_of(fitted, sums(terms, 2)).mean() for terms in (2, 3, 4)]
    by_digits = [np.mean([means_of(fitted, sums(terms, d)) for terms in (2, 3, 4)]) for d in (1, 2, 3)]
    assert by_terms == sorted(by_terms, reverse=True)
    assert by_digits == sorted(by_digits, reverse=True)


def test_white_space_changes_nothing_and_rewording_little(fitted):
    texts = sums(3, 2)
    before = means_of(fitted, texts)
    assert means_of(fitted, [f"  {t.replace(' ', '   ')}\n" for t in texts]) == pytest.approx(
        before, abs=1e-4
    )
    reworded = means_of(fitted, [t.replace("Compute", "Calculate") for t in texts])
    assert np.abs(reworded - before).mean() < 0.1


def test_another_domain_gets_a_wider_prior(fitted):
    other = (
        "Wer hat die Relativitätstheorie zuerst veröffentlicht, und wann war das?",
        "SELECT name FROM users WHERE id = 3 ORDER BY name;",
        "Write a poem of four lines about the sea in autumn.",
        "the the the the the the the",
    )
    assert (widths(fitted, other) > widths(fitted, sums(2, 2))).all()


def test_a_refit_is_as_strong_and_reads_more(fitted, folds):
    test = folds[2]
    more = refit(fitted, Fold(test.questions, test.scores))
    assert more.card.questions == 50
    assert more.card.kind == fitted.card.kind
    assert more.card.strength == fitted.card.strength
