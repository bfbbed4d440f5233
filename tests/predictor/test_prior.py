import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from data.errors import ConfigError, ScoreError
from predictor.families import get_family
from predictor.prior import Prior, evidence_slopes, fit_population, log_evidence, posterior_moments

BETA = get_family("beta")


def test_every_law_is_a_distribution_over_the_bins():
    assert np.exp(BETA.log_mass).sum(axis=0) == pytest.approx(1.0)
    centres = (BETA.edges[1:] + BETA.edges[:-1]) / 2
    wide = BETA.std > 0.02
    means = centres @ np.exp(BETA.log_mass)
    assert np.abs(means - BETA.mean)[wide].max() < 0.003


@given(st.integers(1, 199), st.integers(0, len(BETA.mean) - 1))
def test_miss_probability_is_the_mass_below_the_target(edge, law):
    target = edge / 200
    miss = np.exp(BETA.log_miss(target)[law])
    assert miss == pytest.approx(np.exp(BETA.log_mass[:edge, law]).sum(), abs=1e-9)


@pytest.mark.parametrize("target", [0.0, 0.9512, 1.0, 1.2])
def test_a_target_inside_a_bin_is_an_error(target):
    with pytest.raises(ConfigError, match="multiple of"):
        BETA.log_miss(target)


def test_scores_on_an_edge_count_as_reaching_it():
    assert BETA.bin(0.95) == 190
    assert BETA.bin(np.nextafter(0.95, 0)) == 189
    assert BETA.bin([0.0, 1.0]).tolist() == [0, 199]


def test_missing_scores_add_nothing_to_the_likelihood():
    with_gap = BETA.log_likelihood([[0.3, np.nan, 0.8]])
    assert with_gap == pytest.approx(BETA.log_likelihood([[0.3, 0.8]]))


def test_prior_has_the_moments_it_was_centred_on():
    for mean, std in [(0.8, 0.1), (0.5, 0.3), (0.95, 0.05)]:
        told = Prior.centred(mean, std, spread=0.15).moments()
        assert told == pytest.approx((mean, std), abs=0.02)


def test_population_prior_recovers_the_population():
    rng = np.random.default_rng(1)
    mean = 1 / (1 + np.exp(-rng.normal(1.0, 0.8, 400)))
    total = 6.0
    scores = rng.beta(mean[:, None] * total, (1 - mean[:, None]) * total, (400, 24))
    prior = fit_population(scores)
    assert prior.location[0] == pytest.approx(1.0, abs=0.15)
    assert prior.spread[0] == pytest.approx(0.8, abs=0.15)
    assert prior.location[1] == pytest.approx(np.log(1 / total), abs=0.6)
    other = Prior(location=(-1.0, 0.0), spread=(0.5, 0.5))
    likelihood = BETA.log_likelihood(scores)
    assert log_evidence([prior] * 400, likelihood).mean() > log_evidence([other] * 400, likelihood).mean()


def test_more_strength_narrows_the_prior():
    weak = Prior(location=(0.0, 0.0), spread=(1.0, 1.0), strength=0.25)
    strong = weak.model_copy(update={"strength": 4.0})
    spread = [np.exp(p.log_weights()) @ BETA.points[:, 0] ** 2 for p in (weak, strong)]
    assert spread[0] > 4 * spread[1]


def test_log_mass_follows_the_beta_distribution():
    at = int(np.abs(BETA.points - [0.0, 0.0]).sum(axis=1).argmin())
    mean, dispersion = 1 / (1 + np.exp(-BETA.points[at]))
    total = 1 / dispersion - 1
    law = stats.beta(mean * total, (1 - mean) * total)
    assert np.exp(BETA.log_mass[:100, at]).sum() == pytest.approx(law.cdf(0.5), abs=1e-5)


def test_without_scores_the_posterior_is_the_prior():
    prior = Prior(location=(0.5, -2.0), spread=(0.6, 0.8), correlation=-0.5)
    mean, covariance = posterior_moments(prior, np.zeros((1, len(BETA.mean))))
    assert mean[0] == pytest.approx(prior.location, abs=0.02)
    assert np.diag(covariance[0]) ** 0.5 == pytest.approx(prior.spread, rel=0.03)
    assert covariance[0, 0, 1] == pytest.approx(-0.5 * 0.6 * 0.8, rel=0.05)


def test_scores_narrow_the_posterior_around_their_law():
    scores = stats.beta(9, 3).rvs((1, 200), random_state=0)
    prior = Prior(location=(0.0, -1.0), spread=(2.0, 2.0))
    mean, covariance = posterior_moments(prior, BETA.log_likelihood(scores))
    assert mean[0, 0] == pytest.approx(np.log(3), abs=0.15)
    assert mean[0, 1] == pytest.approx(np.log(1 / 12), abs=0.3)  # dispersion 1 / 13
    assert np.diag(covariance[0]).max() < 0.1


@pytest.mark.parametrize("scores", [[], np.empty((0, 4))])
def test_no_questions_have_no_population(scores):
    with pytest.raises(ScoreError, match="no questions"):
        fit_population(scores)


@given(
    st.tuples(
        st.floats(-6, 6), st.floats(-7, 3), st.floats(-2.5, 1.5), st.floats(-2.5, 1.5), st.floats(-1.8, 1.8)
    ),
    st.lists(st.floats(0, 1), max_size=9),
)
def test_evidence_and_its_slopes_are_those_of_priors(output, scores):
    likelihood = BETA.log_likelihood([[*scores, np.nan]])

    def evidence(output):
        spread, correlation = np.exp(output[2:4]), float(np.tanh(output[4]))
        prior = Prior(location=tuple(output[:2]), spread=tuple(spread), correlation=correlation)
        return log_evidence([prior], likelihood)[0]

    at = np.array([output])
    found, slopes = evidence_slopes(BETA, at[:, :2], np.exp(at[:, 2:4]), np.tanh(at[:, 4]), likelihood)
    assert found[0] == pytest.approx(evidence(at[0]), rel=1e-9, abs=1e-9)
    steps = 1e-5 * np.eye(5)
    climbed = [(evidence(at[0] + step) - evidence(at[0] - step)) / 2e-5 for step in steps]
    assert slopes[0] == pytest.approx(climbed, rel=1e-4, abs=1e-4)
