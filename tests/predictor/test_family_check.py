import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from data.errors import ConfigError
from predictor.families import FAMILIES, FLOOR, get_family
from predictor.family_check import choose, compare_families
from predictor.prior import fit_population

TARGET = 0.9


def betas(rng, questions, n):
    mean, total = expit(rng.normal(1, 1, (questions, 1))), np.exp(rng.normal(1.5, 0.5, (questions, 1)))
    return rng.beta(mean * total, (1 - mean) * total, (questions, n))


def with_atoms(rng, questions, n):
    """Both atoms at .6 of the most that mean and dispersion allow, and a beta that keeps both moments."""
    mean, dispersion = expit(rng.normal(0.5, 1, (questions, 1))), expit(rng.normal(-0.5, 0.4, (questions, 1)))
    zero, one = 0.6 * (1 - mean) * dispersion, 0.6 * mean * dispersion
    inner = (mean - one) / (1 - zero - one)
    square = (mean**2 + dispersion * mean * (1 - mean) - one) / (1 - zero - one)
    total = inner * (1 - inner) / (square - inner**2) - 1
    scores = rng.beta(inner * total, (1 - inner) * total, (questions, n))
    ends = rng.random(scores.shape)
    return np.select([ends < zero, ends > 1 - one], [0.0, 1.0], scores)


def u_shaped(rng, questions, n):
    """exp(a x + b x^2) with b > 0, drawn from its own CDF."""
    x = np.linspace(0, 1, 2001)
    a, b = rng.normal(-7, 1.5, (questions, 1)), rng.normal(8, 0.5, (questions, 1))
    density = np.exp(a * x + b * x**2)
    cdf = density.cumsum(axis=1) / density.sum(axis=1, keepdims=True)
    return np.stack([np.interp(rng.random(n), row, x) for row in cdf])


@pytest.fixture(scope="module")
def fits():
    rng = np.random.default_rng(0)
    laws = {"beta": betas, "truncnorm": u_shaped, "atoms": with_atoms}
    return {
        name: compare_families(law(rng, 200, 20), law(rng, 200, 20), TARGET) for name, law in laws.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_family_that_made_the_scores_is_recognised(fits, name):
    assert choose(fits[name]) == name


@pytest.mark.parametrize("name", FAMILIES)
def test_the_true_family_is_calibrated(fits, name):
    true = fits[name][FAMILIES.index(name)]
    assert true.evidence == max(fit.evidence for fit in fits[name])
    assert true.implied_hits == pytest.approx(true.observed_hits, abs=0.03)
    assert true.pit_distance < 0.04
    assert true.tail_distance < 0.08
    assert true.hit_score > true.hit_score_prior


def test_a_wrong_family_shows_in_its_tail(fits):
    beta, truncnorm, _ = fits["beta"]
    assert truncnorm.tail_distance > 2 * beta.tail_distance


def test_a_small_case_agrees_with_scipy():
    train = betas(np.random.default_rng(1), 30, 6)
    tune = np.array([[0.2, 0.91, 0.9, 0.333, np.nan], [0.95, 0.5, 0.93, np.nan, np.nan]])
    (fit,) = compare_families(train, tune, TARGET, ["beta"])
    assert fit.prior == fit_population(train)

    points = get_family("beta").points
    mean, dispersion = expit(points).T
    total = 1 / dispersion - 1
    law = stats.beta(mean * total, (1 - mean) * total)
    s1, s2, rho = *fit.prior.spread, fit.prior.correlation
    covariance = [[s1**2, rho * s1 * s2], [rho * s1 * s2, s2**2]]
    prior = stats.multivariate_normal(fit.prior.location, covariance).pdf(points)
    prior /= prior.sum()

    def mass(score):
        low = np.floor(score * 200 + 1e-9) / 200
        return (1 - FLOOR) * (law.cdf(low + 0.005) - law.cdf(low)) + FLOOR / 200

    hit = (1 - FLOOR) * law.sf(TARGET) + FLOOR * 0.1
    first, second = prior * mass(0.2) * mass(0.91), prior * mass(0.95)
    p1, p2 = (first @ hit) / first.sum(), (second @ hit) / second.sum()
    assert fit.hit_scores == pytest.approx(
        [(np.log(p1) + np.log(1 - p1)) / 2, (np.log(1 - p2) + np.log(p2)) / 2], rel=1e-4
    )
    assert fit.hit_score == pytest.approx(np.mean(fit.hit_scores))
    p = prior @ hit
    assert fit.hit_score_prior == pytest.approx((np.log(p) + np.log(1 - p)) / 2, rel=1e-4)
    evidences = [
        np.log((first * mass(0.9) * mass(0.333)).sum()) / 4,
        np.log((second * mass(0.5) * mass(0.93)).sum()) / 3,
    ]
    assert fit.evidences == pytest.approx(evidences, rel=1e-4)
    assert fit.implied_hits == pytest.approx((p1 + p2) / 2, rel=1e-4)
    assert fit.observed_hits == 0.5
    assert fit.tail_distance is None


def test_chunks_make_no_difference(monkeypatch):
    rng = np.random.default_rng(2)
    train, tune = betas(rng, 20, 6), betas(rng, 23, 6)
    whole = compare_families(train, tune, TARGET, ["beta"])[0]
    monkeypatch.setattr("predictor.family_check.CHUNK", 5)
    split = compare_families(train, tune, TARGET, ["beta"])[0]
    assert split.hit_scores == pytest.approx(whole.hit_scores)
    assert split.pit_distance == pytest.approx(whole.pit_distance)


def test_questions_of_one_candidate_are_left_out():
    rng = np.random.default_rng(3)
    train, tune = betas(rng, 20, 6), betas(rng, 10, 6)
    alone = np.full((3, 6), np.nan)
    alone[:, 0] = 0.5
    mixed = compare_families(train, np.concatenate([alone, tune]), TARGET, ["beta"])[0]
    assert mixed.hit_scores == compare_families(train, tune, TARGET, ["beta"])[0].hit_scores


def fake(fit, family, hit_scores, evidences):
    return fit.model_copy(
        update={"family": family, "hit_scores": tuple(hit_scores), "evidences": tuple(evidences)}
    )


def test_the_choice_weighs_forecast_then_evidence_then_simplicity(fits):
    base = fits["beta"][0]
    rng = np.random.default_rng(4)
    common, noise = rng.normal(-0.5, 0.2, 100), rng.normal(0, 0.01, 100)
    worse = common - 0.1 + noise
    equal = common + noise - noise.mean()
    assert choose([fake(base, "beta", worse, common), fake(base, "atoms", common, worse)]) == "atoms"
    assert choose([fake(base, "beta", equal, worse), fake(base, "atoms", common, common)]) == "atoms"
    assert choose([fake(base, "atoms", common, equal), fake(base, "beta", equal, common)]) == "beta"


def test_too_few_questions_or_a_target_within_a_bin_are_refused():
    scores = betas(np.random.default_rng(5), 4, 4)
    for train, tune in ((scores[:0], scores), (scores, scores[:1]), (scores, scores[:, :1])):
        with pytest.raises(ConfigError, match="two tune questions"):
            compare_families(train, tune, TARGET, ["beta"])
    with pytest.raises(ConfigError, match="multiple of"):
        compare_families(scores, scores, 0.9012, ["beta"])
