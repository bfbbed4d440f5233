import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import minimize

from predictor import truncnorm

unit = st.floats(0, 1)


def reference(mu, sigma):
    return stats.truncnorm(-mu / sigma, (1 - mu) / sigma, mu, sigma)


def logpdf(x, mu, sigma):
    return stats.norm.logpdf(x, mu, sigma) - truncnorm.log_mass(np.asarray(mu), np.asarray(sigma))


def moments(mu, sigma):
    """Mean and standard deviation on a fine grid."""
    x = np.linspace(0, 1, 20_001)
    density = np.exp(logpdf(x, mu, sigma))
    mean = np.average(x, weights=density)
    return mean, np.sqrt(np.average((x - mean) ** 2, weights=density))


@pytest.mark.parametrize(("mu", "sigma"), [(9, 0.5), (-9, 0.5), (60, 1), (-60, 1), (0.5, 1e-3), (0.5, 300)])
def test_the_mass_inside_agrees_with_scipy_far_outside_too(mu, sigma):
    expected = stats.norm.logpdf(0.5, mu, sigma) - reference(mu, sigma).logpdf(0.5)
    assert truncnorm.log_mass(np.array(mu), np.array(sigma)) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(mu=st.floats(-1, 2), sigma=st.floats(0.05, 2), x=st.floats(0.001, 0.999))
def test_density_agrees_with_scipy(mu, sigma, x):
    assert logpdf(x, mu, sigma) == pytest.approx(reference(mu, sigma).logpdf(x), rel=1e-9, abs=1e-9)


@pytest.mark.slow
@given(mu=st.floats(-1, 2), sigma=st.floats(0.02, 1))
def test_fit_to_exact_moments_has_those_moments(mu, sigma):
    mean, std = moments(mu, sigma)
    fitted = moments(*(float(value[0]) for value in truncnorm.fit(mean, std**2 + mean**2)))
    assert fitted == (pytest.approx(mean, abs=2e-3), pytest.approx(std, abs=5e-3))


@pytest.mark.suite
@pytest.mark.slow
@example([0.99609375, 0.99804688, 0.99804688])
@example([0.0] * 7 + [0.9375, 0.3125])
@given(st.lists(unit, min_size=3, max_size=20))
def test_likelihood_is_as_high_as_an_optimiser_finds(scores):
    scores = np.array(scores)
    (mu,), (sigma,) = truncnorm.fit(scores.mean(), (scores**2).mean(), len(scores))

    def cost(p):
        return -logpdf(scores, p[0], np.exp(p[1])).sum()

    box = [truncnorm.MU_RANGE, tuple(np.log(truncnorm.SIGMA_RANGE))]
    start = [np.clip(scores.mean(), *truncnorm.MU_RANGE), np.log(max(scores.std(), 0.01))]
    found = minimize(cost, start, bounds=box, method="L-BFGS-B")
    assert cost([mu, np.log(sigma)]) <= found.fun + 0.05


@pytest.mark.suite
@pytest.mark.slow
@settings(max_examples=30)
@example([0.9609375, 0.97265625, 0.96875], (1.03, 0.29), 0.1)
@example([0.62890625] * 3, (0.77, 0.175), 0.1)
@example([0.1, 0.5, 0.9], (0.55, 0.005), 0.01)
@given(
    st.lists(unit, min_size=1, max_size=5)
    | st.tuples(unit, st.floats(0, 0.02)).map(
        lambda law: [max(law[0] - law[1] * step, 0) for step in range(3)]
    ),
    st.tuples(st.floats(0, 1.2), st.floats(0.005, 0.5)),
    st.sampled_from([0.02, 0.05, 0.1, 0.2]),
)
def test_map_is_as_likely_as_an_optimiser_finds_from_many_starts(scores, prior, tau):
    """Scores that nearly agree make a peak beside the prior's: the higher one is the estimate."""
    scores = np.array(scores)
    (mu,), (sigma,) = truncnorm.fit(scores.mean(), (scores**2).mean(), len(scores), *prior, 1 / tau**2)

    def cost(p):
        away = (p[0] - prior[0]) ** 2 + (np.exp(p[1]) - prior[1]) ** 2
        return -logpdf(scores, p[0], np.exp(p[1])).sum() + away / (2 * tau**2)

    box = [truncnorm.MU_RANGE, tuple(np.log(truncnorm.SIGMA_RANGE))]
    widths = (max(scores.std(), 0.005), 0.005, prior[1])
    starts = [prior, *((scores.mean(), width) for width in widths)]
    found = [minimize(cost, [mu, np.log(width)], bounds=box, method="L-BFGS-B").fun for mu, width in starts]
    assert cost([mu, np.log(sigma)]) <= min(found) + 1e-3


def test_map_moves_from_prior_to_data_as_scores_come_in():
    estimates = [truncnorm.fit(0.3, 0.3**2 + 0.01, n, 0.8, 0.1, 100.0)[0][0] for n in (0, 1, 5, 50)]
    assert estimates[0] == pytest.approx(0.8, abs=0.01)
    assert np.all(np.diff(estimates) < 0)
    assert estimates[-1] == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
def test_equal_scores_give_a_narrow_law_there(value):
    (mu,), (sigma,) = truncnorm.fit(value, value**2, 5)
    mean, std = moments(mu, sigma)
    assert mean == pytest.approx(value, abs=0.01)
    assert std < 0.01
