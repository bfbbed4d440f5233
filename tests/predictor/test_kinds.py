"""Kinds of predictor on made-up questions, whose states are made up too: no model is loaded."""

import hashlib

import numpy as np
import pytest

from predictor.network import kernel_predictor, rivals
from predictor.network.settings import PredictorSettings
from predictor.question import Question

ENDLESS = Question.ask("Compute " + "12 + " * 2000 + "1.")
"""Too long to be read."""


class States:
    """Reads of a question how many terms it has, and what tells it from others; NaN for an endless one."""

    def read(self, questions):
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
    for module in (kernel_predictor, rivals):
        monkeypatch.setattr(module.FrozenStates, "load", lambda *_, **__: States())


def fold(count, seed, endless=False):
    """Sums, the longer the worse, and their scores."""
    rng = np.random.default_rng(seed)
    terms = rng.integers(2, 6, count)
    questions = [Question.ask(f"Compute {' + '.join(map(str, rng.integers(10, 99, n)))}.") for n in terms]
    questions = [*questions[:-1], ENDLESS] if endless else questions
    mean = (0.9 - 0.12 * terms)[:, None]
    return questions, rng.beta(8 * mean, 8 * (1 - mean), (count, 6))


def fit(kind, train, tune, directory, **changes):
    return rivals.fit_rivals(
        train,
        tune,
        PredictorSettings(family="beta", kind=kind, rivals=(kind,), **changes),
        target=0.8,
        contract="c",
        data_digest="d",
        directory=directory,
    )


@pytest.mark.parametrize("kind", ["population", "words", "ridge", "stack"])
def test_what_is_compared_is_what_is_told(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(rivals, "refit", lambda model, *_: model)
    tune = fold(20, 1, endless=True)
    # Scores that agree more than the population's prior expects ask for another strength than 1.
    tune = (tune[0], np.repeat(tune[1].mean(keepdims=True), 20, axis=0).repeat(6, axis=1))
    model = fit(kind, fold(60, 0), tune, tmp_path)
    (row,) = model.card.rivals
    told = rivals.tell(model.predict(tune[0]), tune[1], 0.8)
    assert (row.evidence, row.hit_score) == pytest.approx((told.evidence.mean(), told.hit.mean()))
    assert (model.card.strength == 1) == (kind == "population")
    if kind in ("ridge", "stack"):
        assert model.predict([ENDLESS]) == [model.card.population]
