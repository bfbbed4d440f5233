import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.special import expit

from data.candidates import Candidates
from data.errors import ScoreError
from predictor.correctness import Correctness, reliability, training_rows

LAW = Correctness(knots=(0, 0.5, 1), log_odds=(-3, 0, 2), drawn=-0.4, prior=1.5)


def inputs(rng, size):
    return rng.random(size), 2.0 ** rng.integers(0, 7, size), rng.random(size)


def pool(rng, questions, n=32):
    """Candidates of questions whose answers and scores both get better with a hidden quality."""
    quality = rng.normal(0, 1.5, questions)
    right = (rng.random((questions, n)) < expit(quality)[:, None]).astype(float)
    # Given its score a candidate is right more often on a better question, and a maximum that took
    # many candidates speaks of a worse one.
    scores = expit(0.3 * quality[:, None] + right + rng.normal(0, 1, (questions, n)))
    tokens = np.ones_like(scores)
    shown = Candidates(scores, right, tokens, tokens, right.astype(np.int64))
    return shown, expit(quality + rng.normal(0, 1, questions))


def brier(predicted, correct):
    return np.nanmean((predicted - correct) ** 2)


def test_prediction_by_hand():
    told = LAW.predict([0.0, 0.25, 1.0], [1, 1, 8], [0.0, 0.2, 1.0])
    assert told == pytest.approx(expit([-3, -1.5 + 0.3, 2 - 0.4 * np.log(8) + 1.5]))


def test_a_known_law_is_recovered():
    rng = np.random.default_rng(0)
    told = inputs(rng, 15_000)
    found = Correctness.fit(*told, rng.random(15_000) < LAW.predict(*told))
    assert (found.drawn, found.prior) == pytest.approx((LAW.drawn, LAW.prior), abs=0.15)
    fresh = inputs(rng, 2000)
    assert np.abs(found.predict(*fresh) - LAW.predict(*fresh)).max() < 0.05


def test_it_is_calibrated_on_questions_it_was_not_fitted_on():
    rng = np.random.default_rng(1)
    rows, fresh = training_rows(*pool(rng, 1500)), training_rows(*pool(rng, 1500))
    found = Correctness.fit(*rows)
    *told, correct = fresh
    chance = found.predict(*told)
    for line in reliability(chance, correct):
        assert line.observed == pytest.approx(line.predicted, abs=0.06)
    for size in np.unique(told[1]):
        here = told[1] == size
        assert chance[here].mean() == pytest.approx(correct[here].mean(), abs=0.04)
    alone = Correctness.fit(rows[0], np.ones_like(rows[0]), np.zeros_like(rows[0]), rows[3])
    without = alone.predict(told[0], np.ones_like(chance), np.zeros_like(chance))
    assert (
        brier(chance, correct)
        < brier(without, correct)
        < brier(np.full_like(chance, correct.mean()), correct)
    )


def test_the_same_maximum_of_more_candidates_is_less_often_right():
    found = Correctness.fit(*training_rows(*pool(np.random.default_rng(2), 1000)))
    assert found.drawn < -0.2
    assert (np.diff(found.predict(np.full(6, 0.8), 2.0 ** np.arange(6), np.full(6, 0.5))) < 0).all()


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_whatever_the_data_the_chance_rises_with_the_maximum_and_not_with_the_number(seed):
    rng = np.random.default_rng(seed)
    best, drawn, before = inputs(rng, 40)
    best = best.round(1)  # ties make some of the knots one
    found = Correctness.fit(best, drawn, before, np.arange(40) % 2)
    grid = np.linspace(0, 1, 30)
    ones = np.ones(30)
    assert (np.diff(found.predict(grid, ones, ones)) >= 0).all()
    assert (np.diff(found.predict(ones, ones, grid)) >= 0).all()
    assert (np.diff(found.predict(ones, 1 + 50 * grid, ones)) <= 0).all()
    chance = found.predict(best, drawn, before)
    assert ((chance > 0) & (chance < 1)).all()
    assert Correctness.model_validate_json(found.model_dump_json()) == found


def test_separable_answers_stay_finite():
    best = np.linspace(0, 1, 50)
    found = Correctness.fit(best, np.ones(50), np.full(50, 0.5), best > 0.5)
    assert found.predict([0.0, 1.0], [1, 1], [0.5, 0.5]) == pytest.approx([0.0, 1.0], abs=0.2)


def test_a_constant_prior_and_a_single_size_do_no_harm():
    rng = np.random.default_rng(3)
    best = rng.random(4000)
    found = Correctness.fit(best, np.ones(4000), np.full(4000, 0.6), rng.random(4000) < best)
    inner = np.array([0.2, 0.5, 0.8])
    assert found.predict(inner, np.ones(3), np.full(3, 0.6)) == pytest.approx(inner, abs=0.07)


def test_what_is_not_known_is_left_out():
    rng = np.random.default_rng(4)
    told = inputs(rng, 60)
    correct = np.where(np.arange(60) < 40, np.arange(60) % 2, np.nan)
    assert Correctness.fit(*told, correct) == Correctness.fit(*(v[:40] for v in told), correct[:40])


@pytest.mark.parametrize("correct", [[1.0, 1.0], [0.0, np.nan], [np.nan, np.nan]])
def test_without_right_and_wrong_answers_there_is_nothing_to_learn(correct):
    with pytest.raises(ScoreError, match="some of both"):
        Correctness.fit([0.2, 0.9], [1, 1], [0.5, 0.5], correct)


def test_values_out_of_range_are_errors():
    with pytest.raises(ScoreError, match="best scores"):
        LAW.predict([1.2], [1], [0.5])
    with pytest.raises(ScoreError, match="prior means"):
        LAW.predict([0.2], [1], [-1])
    with pytest.raises(ScoreError, match="at least one"):
        LAW.predict([0.2], [0], [0.5])
    with pytest.raises(ValidationError, match="rise"):
        Correctness(knots=(0, 1), log_odds=(1, 0), drawn=0, prior=0)
    with pytest.raises(ValidationError, match="rise"):
        Correctness(knots=(0, 1), log_odds=(0, 1, 2), drawn=0, prior=0)


def test_training_rows_are_prefixes():
    scores = np.array([[0.2, 0.9, 0.1, 0.3], [0.4, 0.4, 0.3, 0.8]])
    right = np.array([[1, 0, 1, 1], [0, 1, 1, np.nan]])
    shown = Candidates(scores, right, scores, scores, np.zeros((2, 4), np.int64))
    best, drawn, before, correct = training_rows(shown, np.array([0.6, 0.7]))
    assert best.tolist() == [0.2, 0.4, 0.9, 0.4, 0.9, 0.8]
    assert drawn.tolist() == [1, 1, 2, 2, 4, 4]
    assert before.tolist() == [0.6, 0.7] * 3
    assert correct[:5].tolist() == [1, 0, 0, 0, 0]
    assert np.isnan(correct[5])


def test_reliability_by_hand():
    chance = np.array([0.1, 0.1, 0.1, 0.9, 0.9, 0.5])
    lines = reliability(chance, np.array([0, 0, 1, 1, 1, np.nan]), bins=2)
    assert [line.number for line in lines] == [3, 2]
    assert [line.predicted for line in lines] == pytest.approx([0.1, 0.9])
    assert [line.observed for line in lines] == pytest.approx([1 / 3, 1.0])
    assert reliability(np.array([0.5]), np.array([np.nan])) == []


@given(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=200), st.integers(1, 12))
def test_bins_hold_every_row_once_and_rise(chances, bins):
    chance = np.array(chances)
    lines = reliability(chance, (np.arange(len(chance)) % 2).astype(float), bins)
    assert sum(line.number for line in lines) == len(chance)
    assert len(lines) <= bins
    assert (np.diff([line.predicted for line in lines]) > -1e-12).all()
