import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from data.candidates import Candidates
from predictor import decide
from predictor.beacon import (
    Beacon,
    _index_table,
    expected_gain,
)
from predictor.replay import replay
from predictor.state import State

CAP = 12
rows = st.lists(st.lists(st.integers(-1, 3), min_size=CAP, max_size=CAP), min_size=1, max_size=6)


def candidates(answers, scores=None, right=0, tokens=None):
    """Candidates whose answer is right where it is number ``right``."""
    answers = np.array(answers)
    scores = np.full(answers.shape, 0.5) if scores is None else np.array(scores, float)
    tokens = np.ones(answers.shape) if tokens is None else np.array(tokens, float)
    return Candidates(scores, (answers == right).astype(float), tokens, 2 * tokens, answers)


def index(cap, drawn, z):
    table, axis = _index_table(cap)
    return np.interp(np.arcsinh(z), axis, table[drawn])


# --- BEACON


@given(st.lists(st.floats(0, 1), min_size=3, max_size=20), st.sampled_from([0.0, 1e-3]))
def test_the_posterior_predictive_is_the_students_t_of_conjugacy(scores, prior_scale):
    mean, scale = Beacon(outlier=0, prior_scale=prior_scale).predictive(_one(scores))
    n, values = len(scores), np.array(scores)
    alpha, beta = -0.5 + n / 2, prior_scale + ((values - values.mean()) ** 2).sum() / 2
    assert mean[0] == pytest.approx(values.mean())
    assert scale[0] == pytest.approx(np.sqrt((n + 1) * beta / (n * alpha)), abs=1e-9)


def test_an_outlier_below_counts_as_the_centre():
    plain, robust = (Beacon(outlier=q).predictive(_one([0.8, 0.82, 0.84, 0.0])) for q in (0, 0.01))
    assert plain[0][0] == pytest.approx(0.615)
    assert robust[0][0] == pytest.approx(0.82)  # 0 < 0.82 + 0.0231 t(2, 1%) = 0.66
    assert robust[1][0] == pytest.approx(np.sqrt(1.25 * 0.0008 / 3))
    kept = Beacon().predictive(_one([0.8, 0.82, 0.84, 0.7]))
    assert kept[0][0] == pytest.approx(0.79)


def _one(scores):
    return State(np.array([scores]), np.array([len(scores)]))


@pytest.mark.parametrize(("z", "degrees"), [(0.0, 2), (0.7, 2), (1.5, 5), (-1.0, 9), (3.0, 30)])
def test_the_gain_of_one_step_is_the_integral(z, degrees):
    law = stats.t(degrees)
    found = integrate.quad(lambda u: (u - z) * law.pdf(u), z, np.inf)[0]
    assert expected_gain(np.array([z]), degrees)[0] == pytest.approx(found, rel=1e-6)


@pytest.mark.parametrize("drawn", [3, 6, 11])
def test_with_one_draw_left_the_index_is_the_gain_of_one_step(drawn):
    for z in (0.0, 0.4, 1.0, 1.6):
        assert index(drawn + 1, drawn, z) == pytest.approx(
            expected_gain(np.array([z]), drawn - 1)[0], rel=0.01
        )


@pytest.mark.slow
@pytest.mark.parametrize(("drawn", "z"), [(3, 0.5), (3, 1.0), (5, 1.0), (9, 1.5)])
def test_with_two_draws_left_the_index_is_that_of_the_recursion(drawn, z):
    law, after = stats.t(drawn - 1), drawn + 1

    def net(price):
        """Gain of a draw, and of another where that pays, less the price; straight from the posterior."""

        def second(u):
            mean = u / after
            square = (drawn - 1) * drawn / after + u**2 * drawn / after  # sum of squares that has scale 1
            scale = np.sqrt((1 + 1 / after) * square / (after - 1))
            return max(scale * expected_gain(np.array([(max(z, u) - mean) / scale]), drawn)[0] - price, 0.0)

        parts = [(-np.inf, -20), (-20, 0), (0, z), (z, 20), (20, np.inf)]
        more = sum(integrate.quad(lambda u: second(u) * law.pdf(u), *p, limit=200)[0] for p in parts)
        return expected_gain(np.array([z]), drawn - 1)[0] - price + more

    found = index(drawn + 2, drawn, z)
    assert net(found * 0.97) > 0 > net(found * 1.03)


def test_the_index_falls_with_the_best_score_and_rises_with_the_draws_left():
    short, _ = _index_table(8)
    long, axis = _index_table(16)
    assert (np.diff(long[3:16], axis=1) < 0).all()
    near = np.sinh(axis[:30])
    assert all(index(16, 5, z) >= index(8, 5, z) >= expected_gain(np.array([z]), 4)[0] * 0.99 for z in near)
    assert not short[8].any()


def test_beacon_by_hand():
    # One draw left: mean .5, scale sqrt(4/3) * .1, z = .1 / scale; it goes on below the gain of one step.
    scores, scale = [0.4, 0.5, 0.6], np.sqrt(4 / 3) * 0.1
    gain = scale * expected_gain(np.array([0.1 / scale]), 2)[0]
    assert decide(Beacon(cap=4, cost=0.97 * gain), scores).more == 1
    stopped = decide(Beacon(cap=4, cost=1.03 * gain), scores)
    assert (stopped.action, stopped.more) == ("accept", 0)
    assert decide(Beacon(cap=4), []).more == 3
    assert decide(Beacon(cap=9, cost=1e-4, batch=2), scores).more == 2
    assert decide(Beacon(cap=9, cost=1e-4), [0.7] * 3).more == 0
    assert decide(Beacon(cap=9, cost=1e-4, prior_scale=1e-4), [0.7] * 3).more == 1


@given(st.integers(0, 2**32 - 1), st.floats(1e-4, 0.1), st.floats(1, 10))
@settings(deadline=None, max_examples=25)
def test_a_dearer_sample_is_never_drawn_more_often(seed, cost, factor):
    scores = np.random.default_rng(seed).beta(3, 2, (20, CAP))
    cheap, dear = (replay(Beacon(cap=CAP, cost=c), scores) for c in (cost, cost * factor))
    assert (dear.drawn <= cheap.drawn).all()
    assert ((cheap.drawn >= 3) & (cheap.drawn <= CAP)).all()


def test_on_its_own_model_beacon_beats_every_fixed_number():
    rng = np.random.default_rng(0)
    # Precisions and means far more spread than the scores of a question: close to Jeffreys' prior.
    scale = np.exp(rng.normal(0, 1.5, 4000))
    scores = rng.normal(rng.normal(0, 5, 4000), scale, (CAP, 4000)).T
    values = (scores - scores.min()) / np.ptp(scores)
    cost = 0.15 / np.ptp(scores)
    course = replay(Beacon(cap=CAP, cost=cost, outlier=0), values)
    fixed = [values[:, :n].max(axis=1) - cost * n for n in range(3, CAP + 1)]
    gain = (course.best - cost * course.drawn) - np.array(fixed)
    assert (gain.mean(axis=1) > 2 * gain.std(axis=1) / np.sqrt(4000)).all()
