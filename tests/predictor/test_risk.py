import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from predictor.risk import questions_needed, refutation_p_value, risk_p_value, upper_bound


def losses(plus, n, minus=0, seed=0):
    found = np.concatenate([np.ones(plus), -np.ones(minus), np.zeros(n - plus - minus)])
    return np.random.default_rng(seed).permutation(found)


@pytest.mark.parametrize(
    ("plus", "minus", "size"), [(0.05, 0.0, 1.0), (0.06, 0.03, 1.0), (0.2, 0.17, 0.5), (0.5, 0.4, 0.3)]
)
@pytest.mark.parametrize("told", [False, True])
def test_a_broken_promise_passes_with_at_most_delta(plus, minus, size, told):
    """Losses whose mean is just epsilon: at most a tenth of the draws may pass."""
    epsilon, rng, passed = size * (plus - minus), np.random.default_rng(0), 0
    for _ in range(600):
        drawn, other = rng.choice([size, -size, 0.0], (2, 300), p=[plus, minus, 1 - plus - minus])
        passed += risk_p_value(drawn, epsilon, other if told else None) <= 0.1
    assert stats.binom.sf(passed - 1, 600, 0.1) > 1e-3
    assert passed > 3  # and it is no test that never passes


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=40), st.floats(0.01, 0.5))
def test_greater_losses_support_the_promise_less(values, epsilon):
    shown = np.array(values)
    worse = np.minimum(shown + 0.1, 1)
    assert risk_p_value(worse, epsilon) >= risk_p_value(shown, epsilon) - 1e-12
    assert refutation_p_value(worse, epsilon) <= refutation_p_value(shown, epsilon) + 1e-12
    assert 0 <= risk_p_value(shown, epsilon) <= 1


def test_a_kept_promise_passes_and_a_broken_one_is_refuted():
    kept, broken = losses(25, 1000, minus=25), losses(120, 1000, minus=20)
    assert risk_p_value(kept, 0.03) < 0.05
    assert refutation_p_value(kept, 0.03) > 0.5
    assert risk_p_value(broken, 0.03) > 0.5
    assert refutation_p_value(broken, 0.03) < 0.01


@pytest.mark.parametrize("minus", [0.0, 0.01, 0.1])
def test_a_true_promise_is_seldom_refuted_on_few_questions_too(minus):
    rng = np.random.default_rng(1)
    drawn = rng.choice([1.0, -1.0, 0.0], (500, 34), p=[0.01 + minus, minus, 0.99 - 2 * minus])
    refuted = sum(refutation_p_value(one, 0.01) <= 0.05 for one in drawn)
    assert stats.binom.sf(refuted - 1, 500, 0.05) > 1e-3


def test_losses_of_other_questions_make_the_test_stronger_where_they_are_alike():
    shown, other = losses(4, 300, seed=1), losses(4, 300, seed=2)
    assert risk_p_value(shown, 0.05, other) < risk_p_value(shown, 0.05)
    assert risk_p_value(np.zeros(60), 0.05, np.zeros(9)) < 0.1


@pytest.mark.parametrize(("plus", "minus", "epsilon"), [(10, 0, 0.03), (50, 40, 0.03), (0, 0, 0.05)])
def test_the_number_that_is_needed_certifies_in_most_draws(plus, minus, epsilon):
    shown = losses(plus, 1000, minus)
    needed = questions_needed(shown, epsilon, 0.1)
    rng = np.random.default_rng(3)
    passed = np.mean([risk_p_value(rng.choice(shown, needed), epsilon, shown) <= 0.1 for _ in range(200)])
    assert 0.65 < passed <= 1
    assert questions_needed(losses(40, 1000, 5), 0.03, 0.1) is None


@pytest.mark.slow
def test_a_bound_covers_the_mean_and_narrows_with_questions():
    rng, covered = np.random.default_rng(4), 0
    for _ in range(200):
        covered += upper_bound(rng.choice([1.0, 0.0], 150, p=[0.1, 0.9]), 0.1) >= 0.1
    assert covered >= 175
    assert upper_bound(losses(10, 100), 0.1) > upper_bound(losses(100, 1000), 0.1) > 0.1
    assert upper_bound(np.zeros(0), 0.1) == 1
