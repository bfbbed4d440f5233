import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from data.errors import ConfigError
from predictor import is_feasible, required_samples
from predictor.bound import required_from_log_miss

mus = st.floats(-1, 2)
sigmas = st.floats(0.01, 1)
targets = st.floats(0.05, 0.99)
confidences = st.floats(0.05, 0.99)
CAP = 64


def law_of(mu, sigma):
    return stats.truncnorm(-mu / sigma, (1 - mu) / sigma, mu, sigma)


@given(mu=mus, sigma=sigmas, s=targets, low=confidences, high=confidences)
def test_less_confidence_needs_no_more_samples(mu, sigma, s, low, high):
    low, high = sorted((low, high))
    assert required_samples(mu, sigma, s, low, CAP) <= required_samples(mu, sigma, s, high, CAP)


@given(low=mus, high=mus, sigma=sigmas, s=targets, alpha=confidences)
def test_a_better_law_needs_no_more_samples(low, high, sigma, s, alpha):
    low, high = sorted((low, high))
    assert required_samples(high, sigma, s, alpha, CAP) <= required_samples(low, sigma, s, alpha, CAP)


@given(mu=mus, sigma=sigmas, low=targets, high=targets, alpha=confidences)
def test_a_lower_target_needs_no_more_samples(mu, sigma, low, high, alpha):
    low, high = sorted((low, high))
    assert required_samples(mu, sigma, low, alpha, CAP) <= required_samples(mu, sigma, high, alpha, CAP)


@given(mu=mus, sigma=sigmas, s=targets, alpha=confidences)
def test_bound_is_the_smallest_number_that_does(mu, sigma, s, alpha):
    n = required_samples(mu, sigma, s, alpha, CAP)
    miss = law_of(mu, sigma).cdf(s)
    if is_feasible(mu, sigma, s, alpha, CAP):
        assert miss**n <= (1 - alpha) * (1 + 1e-9)
    else:
        assert n == CAP
        assert miss**CAP > (1 - alpha) * (1 - 1e-9)
    if n > 1:
        assert miss ** (n - 1) > (1 - alpha) * (1 - 1e-9)


@pytest.mark.slow
def test_simulated_maximum_reaches_the_target_as_often_as_promised():
    rng = np.random.default_rng(0)
    for mu, sigma, s, alpha in [(0.5, 0.2, 0.8, 0.9), (0.9, 0.3, 0.95, 0.95), (0.2, 0.1, 0.4, 0.8)]:
        n = required_samples(mu, sigma, s, alpha, 1000)
        draws = law_of(mu, sigma).rvs((20_000, n), random_state=rng)
        hits = (draws.max(axis=1) >= s).mean()
        assert hits >= alpha - 4 * np.sqrt(alpha * (1 - alpha) / 20_000)


@pytest.mark.parametrize(
    ("mu", "sigma", "expected", "feasible"),
    [(-5, 0.01, CAP, False), (9, 0.01, 1, True), (0.5, 0.005, CAP, False), (1.0, 0.01, 1, True)],
)
def test_sure_and_hopeless_laws(mu, sigma, expected, feasible):
    assert required_samples(mu, sigma, 0.9, 0.95, CAP) == expected
    assert is_feasible(mu, sigma, 0.9, 0.95, CAP) is feasible


def test_ceiling_forgives_rounding():
    n, feasible = required_from_log_miss(np.log(0.1), 0.9, CAP)
    assert (int(n), bool(feasible)) == (1, True)
    n, _ = required_from_log_miss(np.log(0.1), 0.99, CAP)
    assert int(n) == 2


def test_certain_and_impossible_hits_are_exact():
    n, feasible = required_from_log_miss([-np.inf, 0.0, -1e-300], 0.95, CAP)
    assert n.tolist() == [1, CAP, CAP]
    assert feasible.tolist() == [True, False, False]


def test_scalars_give_an_int_and_arrays_broadcast():
    assert isinstance(required_samples(0.5, 0.2, 0.9, 0.9, 8), int)
    assert required_samples(np.zeros((3, 1)), 0.2, [0.5, 0.9], 0.9, 8).shape == (3, 2)


@pytest.mark.parametrize(
    "arguments",
    [(0.5, 0.0, 0.9, 0.9, 8), (0.5, 0.1, 1.2, 0.9, 8), (0.5, 0.1, 0.9, 1.0, 8), (0.5, 0.1, 0.9, 0.9, 0)]
    + [(float("nan"), 0.1, 0.9, 0.9, 8)],
)
def test_impossible_arguments_are_named(arguments):
    with pytest.raises(ConfigError):
        required_samples(*arguments)
