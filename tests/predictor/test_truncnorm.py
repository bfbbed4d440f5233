import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import minimize

from predictor import truncnorm

mus = st.floats(-2, 3)
sigmas = st.floats(0.01, 3)
unit = st.floats(0, 1)


def reference(mu, sigma):
    return stats.truncnorm(-mu / sigma, (1 - mu) / sigma, mu, sigma)


def logpdf(x, mu, sigma):
    return stats.norm.logpdf(x, mu, sigma) - truncnorm.log_mass(mu, sigma)


@given(mu=st.floats(-1, 2), sigma=st.floats(0.05, 2), x=st.floats(0.001, 0.999))
def test_agrees_with_scipy_where_scipy_holds(mu, sigma, x):
    law = reference(mu, sigma)
    assert truncnorm.logcdf(x, mu, sigma) == pytest.approx(law.logcdf(x), rel=1e-9, abs=1e-12)
    assert logpdf(x, mu, sigma) == pytest.approx(law.logpdf(x), rel=1e-9, abs=1e-9)


@given(mu=st.floats(-0.5, 1.5), sigma=st.floats(0.1, 1))
def test_moments_agree_with_scipy(mu, sigma):
    mean, std = truncnorm.moments(mu, sigma)
    law = reference(mu, sigma)
    assert mean == pytest.approx(law.mean(), abs=1e-9)
    assert std == pytest.approx(law.std(), abs=1e-6)


@given(mu=mus, sigma=sigmas, q=unit)
def test_quantile_inverts_the_distribution(mu, sigma, q):
    x = truncnorm.ppf(q, mu, sigma)
    assert 0 <= x <= 1
    assert truncnorm.cdf(x, mu, sigma) == pytest.approx(q, abs=1e-7)


@pytest.mark.parametrize(("mu", "sigma"), [(9, 0.5), (-9, 0.5), (60, 1), (-60, 1), (0.5, 1e-3), (0.5, 300)])
def test_far_tails_stay_finite(mu, sigma):
    x = np.linspace(0.01, 0.99, 9)
    log_cdf = truncnorm.logcdf(x, mu, sigma)
    assert np.all(np.isfinite(log_cdf) | (np.abs(x - mu) > 30 * sigma))
    assert np.all(np.diff(log_cdf[np.isfinite(log_cdf)]) >= 0)
    mean, std = truncnorm.moments(mu, sigma)
    assert 0 <= mean <= 1
    assert 0 <= std <= 0.5


@given(mu=st.floats(-1, 2), sigma=st.floats(0.02, 1))
def test_fit_to_exact_moments_has_those_moments(mu, sigma):
    mean, std = truncnorm.moments(mu, sigma)
    fitted = truncnorm.moments(*truncnorm.fit(mean, std**2 + mean**2))
    assert fitted[0] == pytest.approx(mean, abs=2e-3)
    assert fitted[1] == pytest.approx(std, abs=5e-3)


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
    mean, std = truncnorm.moments(mu, sigma)
    assert mean == pytest.approx(value, abs=0.01)
    assert std < 0.01
