import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from predictor.risk import questions_needed, refutation_p_value, risk_p_value


def losses(plus, n, minus=0):
    return np.concatenate([np.ones(plus), -np.ones(minus), np.zeros(n - plus - minus)])


def test_losses_of_0_and_1_are_tested_by_exact_binomial_tails():
    def p_value(count, n):
        return risk_p_value(losses(count, n), 0.02, signed=False)

    assert p_value(0, 200) == pytest.approx(0.98**200)
    assert p_value(1, 200) == pytest.approx(0.98**200 + 200 * 0.02 * 0.98**199)
    # 200 questions allow one failure, 400 allow four
    assert p_value(1, 200) <= 0.1 < p_value(2, 200)
    assert p_value(4, 400) <= 0.1 < p_value(5, 400)
    refuted = [refutation_p_value(losses(count, 50), 0.02, signed=False) for count in (3, 0)]
    assert refuted == pytest.approx([1 - stats.binom.cdf(2, 50, 0.02), 1])


@given(st.floats(0, 0.049), st.floats(0.01, 0.5))
def test_as_many_questions_as_told_do_certify(rate, delta):
    shown = losses(round(rate * 1000), 1000)
    rate = shown.mean()
    needed = questions_needed(shown, 0.05, delta, signed=False)
    if needed is None:
        assert rate >= 0.05
    else:  # the Chernoff bound holds for every number, so the exact test passes where the count is whole
        assert risk_p_value(losses(int(rate * needed), needed), 0.05, signed=False) <= delta * 1.0001


@pytest.mark.parametrize(("plus", "minus"), [(0.05, 0.0), (0.06, 0.03), (0.2, 0.17), (0.5, 0.47)])
def test_a_broken_promise_passes_with_at_most_delta(plus, minus):
    """Net losses whose mean is just epsilon, .05 or .03: at most a tenth of the draws may pass."""
    epsilon, rng = plus - minus, np.random.default_rng(0)
    passed = []
    for _ in range(400):
        drawn = rng.choice([1.0, -1.0, 0.0], 300, p=[plus, minus, 1 - plus - minus])
        passed.append(risk_p_value(drawn, epsilon, signed=True) <= 0.1)
    assert stats.binom.sf(sum(passed) - 1, 400, 0.1) > 1e-3
    assert sum(passed) > 4  # and it is no test that never passes


def test_a_kept_promise_passes_and_a_broken_one_is_refuted():
    kept, broken = losses(25, 1000, minus=25), losses(120, 1000, minus=20)
    assert risk_p_value(kept, 0.03, signed=True) < 0.01
    assert refutation_p_value(kept, 0.03, signed=True) > 0.5
    assert risk_p_value(broken, 0.03, signed=True) > 0.5
    assert refutation_p_value(broken, 0.03, signed=True) < 0.01


def test_net_losses_without_any_change_are_as_good_as_no_failure():
    none = losses(0, 300, minus=1)
    assert risk_p_value(none, 0.02, signed=True) < risk_p_value(losses(1, 300), 0.02, signed=True)


@pytest.mark.parametrize("minus", [0.0, 0.002, 0.01, 0.03, 0.1])
def test_on_few_questions_too_a_true_promise_of_net_losses_is_seldom_refuted(minus):
    """Over all draws of 34 questions, exactly: at a mean loss of .01 at most a twentieth may be refuted."""
    n, level = 34, 0.0
    for up, down in ((u, d) for u in range(n + 1) for d in range(n + 1 - u)):
        chance = stats.multinomial.pmf([up, down, n - up - down], n, [0.01 + minus, minus, 0.99 - 2 * minus])
        if chance > 1e-9:
            level += chance * (refutation_p_value(losses(up, n, down), 0.01, signed=True) <= 0.05)
    assert level <= 0.05


def test_the_number_needed_where_nothing_changes_does():
    for epsilon, delta in ((0.05, 0.1), (0.02, 0.05), (0.3, 0.5)):
        needed = questions_needed(np.zeros(5), epsilon, delta, signed=True)
        assert risk_p_value(np.zeros(needed), epsilon, signed=True) <= delta
        assert risk_p_value(np.zeros(needed - 1), epsilon, signed=True) > delta


def test_the_number_needed_for_net_losses_does():
    shown = losses(50, 1000, minus=40)
    needed = questions_needed(shown, 0.03, 0.1, signed=True)
    scale = needed / 1000
    again = losses(round(50 * scale), needed, minus=round(40 * scale))
    assert risk_p_value(again, 0.03, signed=True) == pytest.approx(0.1, abs=0.05)
    assert questions_needed(losses(40, 1000, minus=5), 0.03, 0.1, signed=True) is None
