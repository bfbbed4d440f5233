import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from data.candidates import Candidates
from data.errors import ConfigError
from predictor import FixedN, decide
from predictor.baselines import (
    Beacon,
    _index_table,
    adaptive_consistency,
    answers_known,
    early_stopping_consistency,
    expected_gain,
)
from predictor.decision import State
from predictor.replay import outcome, replay

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


# --- answers


def test_a_pool_without_answers_is_told():
    assert answers_known(candidates([[1, -1], [2, 3]]))
    assert not answers_known(candidates([[1, -1], [-1, -1]]))


def test_adaptive_consistency_by_hand():
    found = adaptive_consistency(
        candidates(
            [
                [0, 0, 0, 0, 1, 1],  # 4 : 0 has a chance of 1 - 2^-5 = .97
                [1, 0, 0, 0, 0, 0],  # 5 : 1 only has .94
                [-1, -1, -1, -1, -1, -1],
                [1, -1, 1, 1, 1, 0],
            ],
            scores=[[0.1, 0.2, 0.9, 0.3, 0.1, 0.99]] * 4,
            tokens=[[1, 2, 3, 4, 5, 6]] * 4,
        ),
        6,
        target=0.95,
    )
    assert found.draws.tolist() == found.rounds.tolist() == [4, 6, 6, 5]
    assert found.correct.tolist() == [1, 1, 0, 0]
    assert found.hit.tolist() == [0, 1, 1, 0]
    assert found.lost_hit.tolist() == [1, 0, 0, 1]
    assert found.lost_answer.tolist() == [0, 0, 0, 1]  # the best-scored is the last: right in rows 2 and 4
    assert found.tokens.tolist() == found.waited.tolist() == [10, 21, 21, 15]
    assert found.reward_tokens.tolist() == [20, 42, 42, 30]
    assert not found.promised.any()
    assert not found.kept.any()


def test_early_stopping_by_hand():
    found = early_stopping_consistency(
        candidates(
            [
                [1, 0, 0, 0, 2, 2, 2],  # the second window of 2 agrees
                [-1, -1, 0, 1, 1, 1, 2],  # silence is no agreement
                [1, 0, 0, 1, 1, 0, 0],  # never; the majority of all
            ],
            tokens=[[1, 2, 3, 4, 5, 6, 7]] * 3,
        ),
        7,
        2,
        target=0.5,
    )
    assert found.draws.tolist() == [4, 6, 7]
    assert found.rounds.tolist() == [2, 3, 4]
    assert found.waited.tolist() == [6, 12, 19]
    assert found.correct.tolist() == [1, 0, 1]
    assert found.hit.tolist() == [1, 1, 1]


@given(rows, st.sampled_from([0.8, 0.95, 0.99]))
def test_adaptive_consistency_stops_as_soon_as_the_beta_law_allows(answers, confidence):
    shown = candidates(answers)
    found = adaptive_consistency(shown, CAP, confidence, target=0.9)
    for row, drawn, right in zip(answers, found.draws.astype(int), found.correct, strict=True):
        for n in range(1, drawn + 1):
            votes = sorted((row[:n].count(a) for a in set(row[:n]) - {-1}), reverse=True)
            lead, second = [*votes, 0, 0][:2]
            assert (stats.beta(lead + 1, second + 1).sf(0.5) >= confidence) == (n == drawn) or n == CAP
        most = {a for a in set(row[:drawn]) - {-1} if row[:drawn].count(a) == lead}
        assert right in {float(a == 0) for a in most or {-1}}


@given(rows, st.integers(1, CAP + 2))
def test_early_stopping_stops_at_the_first_window_of_one_answer(answers, window):
    found = early_stopping_consistency(candidates(answers), CAP, window, target=0.9)
    for row, drawn in zip(answers, found.draws.astype(int), strict=True):
        windows = [row[a : a + window] for a in range(0, CAP - window + 1, window)]
        ends = [(n + 1) * window for n, w in enumerate(windows) if len(set(w)) == 1 and w[0] >= 0]
        assert drawn == min([*ends, CAP])


@given(st.integers(1, CAP), st.integers(0, 3))
def test_unanimous_answers_stop_at_the_least(cap, answer):
    shown = candidates([[answer] * CAP])
    assert adaptive_consistency(shown, cap, target=0.9).draws[0] == min(4, cap)
    assert early_stopping_consistency(shown, cap, 3, target=0.9).draws[0] == min(3, cap)


def test_losses_are_paired_with_the_best_of_the_cap_as_in_a_replay():
    rng = np.random.default_rng(2)
    shown = candidates(rng.integers(-1, 2, (50, CAP)), rng.random((50, CAP)))
    sure = adaptive_consistency(shown, 8, 1.0, target=0.8)  # never sure enough: all of the cap
    whole = outcome(FixedN(cap=8, target=0.8), Candidates(*(v[:, :8] for v in shown)))
    for name in ("draws", "tokens", "reward_tokens", "hit", "lost_hit"):
        assert getattr(sure, name).tolist() == getattr(whole, name).tolist()
    assert (sure.lost_answer == ((whole.correct == 1) & (sure.correct == 0))).all()


def test_where_correctness_is_not_known_neither_is_the_loss():
    shown = candidates([[0] * 6])._replace(correct=np.full((1, 6), np.nan))
    found = adaptive_consistency(shown, 6, target=0.9)
    assert np.isnan([found.correct[0], found.lost_answer[0]]).all()


def test_a_cap_beyond_the_pool_is_an_error():
    for rule in (adaptive_consistency, early_stopping_consistency):
        with pytest.raises(ConfigError, match="cap of 7"):
            rule(candidates([[0] * 6]), 7, target=0.9)
