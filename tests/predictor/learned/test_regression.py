"""Regression on kernels: closed forms against brute force, the detector, and what is stored."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import ScoreError
from data.question import Question
from predictor.families import get_family
from predictor.learned import regression
from predictor.learned.card import ComparedKind
from predictor.learned.comparison import compare, recommend, score_priors
from predictor.learned.features import DistanceFeatures, WordFeatures, describe
from predictor.learned.normals import make_priors
from predictor.learned.out_of_distribution import OutOfDistribution, fit_detector
from predictor.learned.regression import NOISES, Regression, choose_weights, distance, mix, moments
from predictor.prior import Prior, fit_population, log_evidence

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def points():
    """Features of 60 questions, and scores that follow the first of them."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 5))
    mean = 1 / (1 + np.exp(-features[:, 0]))
    scores = rng.beta(12 * mean[:, None], 12 * (1 - mean[:, None]), (60, 10))
    population = fit_population(scores)
    return features, scores, population, get_family("beta").log_likelihood(scores)


def fitted(vectors, likelihood, population):
    features = DistanceFeatures.fit(vectors)
    gram = features.own()
    return features, gram, Regression.fit(gram, likelihood, population)


def test_leaving_one_out_is_a_fit_without_it(points):
    features, _, population, likelihood = points
    _, own, all_of_them = fitted(features, likelihood, population)
    target = moments(population, likelihood)
    # The closed form keeps the mean of all questions: leave it out of the comparison.
    centre = target.mean(axis=0)
    for row in (0, 17, 59):
        rest = np.delete(np.arange(60), row)
        predicted = []
        for column, noise in enumerate(all_of_them.arrays["noise"]):
            gram = own[np.ix_(rest, rest)] + noise * np.eye(59)
            weights = np.linalg.solve(gram, target[rest, column] - centre[column])
            predicted.append(centre[column] + own[row, rest] @ weights)
        assert all_of_them.arrays["left_out"][row] == pytest.approx(predicted, abs=1e-9)
    # And what is predicted of another question is the ridge regression's mean.
    asked, noises = own[:3, 5:], all_of_them.arrays["noise"]
    part = Regression.fit(own[5:, 5:], likelihood[5:], population)
    target = moments(population, likelihood[5:])
    for column, noise in enumerate(part.arrays["noise"]):
        weights = np.linalg.solve(own[5:, 5:] + noise * np.eye(55), (target - target.mean(axis=0))[:, column])
        expected = target.mean(axis=0)[column] + asked @ weights
        assert part.predict(asked)[:, column] == pytest.approx(expected, abs=1e-9)
    assert set(noises) <= set(NOISES)


def test_it_predicts_what_features_tell(points):
    features, scores, population, likelihood = points
    view, _, found = fitted(features[:40], likelihood[:40], population)
    location = found.predict(view.kernel(features[40:]))
    assert np.corrcoef(location[:, 0], scores[40:].mean(axis=1))[0, 1] > 0.7


def test_far_away_it_falls_back_to_the_average_and_says_so(points):
    features, _, population, likelihood = points
    view, _, found = fitted(features, likelihood, population)
    kernels = view.kernel(features[:5] + 0.01), view.kernel(features[:5] * 0 + 50.0)
    near, far = map(found.predict, kernels)
    inside, outside = map(distance, kernels)
    assert inside.max() < outside.min()
    centre = found.arrays["centre"]
    assert np.abs(far - centre).max() < np.abs(near - centre).max()


def test_a_group_that_obeys_another_law_is_out_of_distribution_sooner(points):
    features, scores, population, _ = points
    groups = np.array(["seen"] * 60 + ["odd"] * 60)
    both = np.concatenate([features, features + [0, 0, 0, 0, 4]])
    detectors = []
    for odd in (scores, 1 - scores):
        likelihood = get_family("beta").log_likelihood(np.concatenate([scores, odd]))
        _, own, regression = fitted(both, likelihood, population)
        detectors.append(fit_detector(own, regression, groups, likelihood, population))
    assert all(d.near < d.far for d in detectors)
    assert detectors[1].far < detectors[0].far


def test_what_nothing_was_learnt_of_gets_the_populations_prior(points):
    features, _, population, likelihood = points
    view, own, found = fitted(features, likelihood, population)
    groups = np.repeat(["a", "b", "c"], 20)
    detector = fit_detector(own, found, groups, likelihood, population)
    far = distance(view.kernel(features[:2] * 0 + 50.0))
    assert detector.share(far) == pytest.approx([1, 1])
    assert detector.share(found.arrays["distance"]).mean() < 0.1


def test_few_questions_and_strange_ones_still_get_priors():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(size=24)
    scores = rng.beta(np.exp(1 - difficulty)[:, None] + 0.1, 2.0, (24, 16))
    population, likelihood = fit_population(scores), get_family("beta").log_likelihood(scores)
    apart = np.abs(difficulty[:, None] - difficulty)
    found = Regression.fit(np.exp(-apart), likelihood, population)
    strange = np.array([[50.0, -50.0, 7.0, -3.0], [-50.0, 50.0, -7.0, 9.0]])
    location, covariance = found.normals(np.concatenate([strange, found.arrays["left_out"]]))
    reach = 3 * np.ptp(location[2:])
    assert location[:2].min() >= location[2:].min() - reach
    assert location[:2].max() <= location[2:].max() + reach
    priors = make_priors(location, covariance, np.zeros(len(location)), population)
    assert all(0 < spread < 5 for prior in priors for spread in prior.spread)


def test_spread_is_larger_where_questions_are_harder_to_tell():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 3))
    # What features tell is certain below their middle, and covered by noise above it.
    logit = 1.5 * features[:, 0] + rng.normal(size=200) * np.where(features[:, 0] > 0, 1.5, 0.1)
    mean = 1 / (1 + np.exp(-logit))
    scores = rng.beta(12 * mean[:, None], 12 * (1 - mean[:, None]), (200, 16))
    population, likelihood = fit_population(scores), get_family("beta").log_likelihood(scores)
    _, _, found = fitted(features, likelihood, population)
    predicted = found.arrays["left_out"]
    location, covariance = found.normals(predicted)
    low, high = (
        (predicted[:, 0] < np.quantile(predicted[:, 0], 0.3)),
        (predicted[:, 0] > np.quantile(predicted[:, 0], 0.7)),
    )
    assert covariance[high, 0, 0].mean() > 1.5 * covariance[low, 0, 0].mean()
    alike = np.broadcast_to(covariance.mean(axis=0), covariance.shape)
    evidence = [
        log_evidence(make_priors(location, c, np.zeros(200), population), likelihood).mean()
        for c in (covariance, alike)
    ]
    assert evidence[0] > evidence[1] + 0.02


def noisy(draws, count, seed):
    """Of each question few scores, and features that tell of its mean."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 5))
    mean = 1 / (1 + np.exp(-features[:, 0] - rng.normal(0, 0.4, count)))
    return features, rng.beta(12 * mean[:, None], 12 * (1 - mean[:, None]), (count, draws))


def perfect(seed):
    """Many questions have scores of 1 alone: laws at the grid's rim."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(120, 4))
    sure = rng.random(120) < 1 / (1 + np.exp(-2 * features[:, 0]))
    return features, np.where(sure[:, None], 1.0, rng.beta(5, 2, (120, 16)))


@pytest.mark.parametrize("family", ["beta", "truncnorm"])
@pytest.mark.parametrize(
    ("features", "scores"),
    [noisy(2, 60, 1), noisy(2, 200, 0), perfect(1), perfect(2)],
    ids=["few", "more", "perfect", "perfect again"],
)
def test_left_out_questions_are_predicted_better_than_by_one_prior_for_all(features, scores, family):
    population, likelihood = fit_population(scores, family), get_family(family).log_likelihood(scores)
    _, _, found = fitted(features, likelihood, population)
    location, covariance = found.normals(found.arrays["left_out"])
    priors = make_priors(location, covariance, np.zeros(len(location)), population)
    found, flat = (log_evidence(p, likelihood).mean() for p in (priors, [population] * len(priors)))
    assert found > flat


def test_features_that_tell_the_same_together_tell_as_much_as_each():
    """Three networks that see the same of a question, in mixtures of their kernels."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(120, 6))
    mean = 1 / (1 + np.exp(-1.5 * hidden[:, 0]))
    scores = rng.beta(5 * mean[:, None], 5 * (1 - mean[:, None]), (120, 8))
    population, likelihood = fit_population(scores), get_family("beta").log_likelihood(scores)
    own = []
    for _ in range(3):  # a few of a network's numbers are far larger than the rest
        seen = (hidden @ rng.normal(size=(6, 60)) + rng.normal(size=(120, 60))) * rng.lognormal(0, 2, 60)
        own.append(DistanceFeatures.fit(seen).own())
    evidence = []
    for kernels in (own, *([kernel] for kernel in own)):
        weights = choose_weights(kernels, moments(population, likelihood))
        found = Regression.fit(mix(kernels, weights), likelihood, population)
        priors = make_priors(*found.normals(found.arrays["left_out"]), np.zeros(120), population)
        evidence.append(log_evidence(priors, likelihood).mean())
    assert evidence[0] > max(evidence[1:]) - 0.05


@settings(max_examples=25)
@given(seed=st.integers(0, 99), reach=st.sampled_from([0.01, 0.3, 3.0, 100.0]))
def test_the_map_is_fitted_on_the_evidence_of_its_predictions(seed, reach):
    """As they are clipped: with steps far too large as well."""
    _, scores = noisy(3, 12, seed)
    population, likelihood = fit_population(scores), get_family("beta").log_likelihood(scores)
    left_out = moments(population, likelihood) + np.random.default_rng(seed).normal(0, 0.02, (12, 4))
    away = np.random.default_rng(seed).normal(0, reach, 45)

    def evidence(moved):
        found = Regression({"left_out": left_out, "map": moved}).normals(left_out)
        return log_evidence(make_priors(*found, np.zeros(12), population), likelihood).mean()

    losses = []

    def minimise(loss, still, **_):
        losses.extend([loss(still)[0], loss(away)[0] - away @ away / (2 * 0.1**2 * 12)])
        return SimpleNamespace(x=away, fun=np.inf)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regression, "minimize", minimise)
        start = regression.fit_map(left_out, moments(population, likelihood), likelihood, population)
    assert losses[0] == pytest.approx(-evidence(start))
    assert losses[1] == pytest.approx(-evidence(start + away.reshape(9, 5)), rel=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e9])
def test_the_map_stays_where_the_optimiser_finds_nothing_better(value, points, monkeypatch):
    features, _, population, likelihood = points
    found = []
    for result in (
        SimpleNamespace(x=np.full(45, value), fun=value),
        SimpleNamespace(x=np.zeros(45), fun=-1e9),
    ):
        monkeypatch.setattr(regression, "minimize", lambda *_, result=result, **__: result)
        found.append(fitted(features, likelihood, population)[2].arrays["map"])
    assert found[0] == pytest.approx(found[1])


def test_priors_widen_to_the_populations():
    population = Prior(location=(1.0, -2.0), spread=(1.2, 0.9), correlation=-0.4)
    covariance = np.array([[0.25, 0.02], [0.02, 0.16]])
    share = OutOfDistribution(near=0.2, far=0.6).share(np.array([0.1, 0.3, 0.6, 0.9]))
    assert share == pytest.approx([0, 0.25, 1, 1])
    own, part, all_, _ = make_priors(
        np.tile([2.0, -3.0], (4, 1)), np.tile(covariance, (4, 1, 1)), share, population
    )
    assert own.location == (2.0, -3.0)
    assert own.spread == pytest.approx((0.5, 0.4))
    assert all_.location == pytest.approx(population.location)
    assert all_.spread == pytest.approx(population.spread)
    assert all_.correlation == pytest.approx(population.correlation)
    assert own.spread[0] < part.spread[0] < all_.spread[0]


def test_descriptions_count_terms_and_digits():
    few, many = describe([Question.ask("Compute 3 + 4."), Question.ask("Compute 31 + 4 - 512 + 8.")])
    _, words, numbers, digits, longest, signs = np.expm1(many[:6])
    assert (words, numbers, digits, longest, signs) == pytest.approx((1, 4, 7, 3, 3))
    assert (many[2:6] > few[2:6]).all()
    assert describe([Question.ask("  Compute 3 +\n4. ")])[0] == pytest.approx(few)


def test_features_are_their_arrays(points):
    vectors, *_ = points
    texts = [f"Compute {n} + {n * 7 % 13} and tell the sum" for n in range(30)]
    dense, words = DistanceFeatures.fit(vectors), WordFeatures.fit(texts)
    for features, asked in ((dense, vectors[:3]), (words, ["Compute 3 + 4", "unheard of"])):
        again = type(features)(features.arrays)
        assert again.kernel(asked) == pytest.approx(features.kernel(asked))
        assert again.own() == pytest.approx(features.own())
        assert np.diag(again.own()) == pytest.approx(np.ones(len(again.own())))
    assert words.kernel(["zzz"]).max() == 0


def test_texts_that_share_no_term_have_words_all_the_same():
    words = WordFeatures.fit(["one", "two", "three"])
    assert words.own() == pytest.approx(np.eye(3))


def test_questions_that_are_all_alike_are_predicted_as_the_average(points):
    _, _, population, likelihood = points
    alike = np.full((60, 5), 0.3, dtype=np.float32).astype(float)
    view, own, found = fitted(alike, likelihood, population)
    detector = fit_detector(own, found, np.repeat(["a", "b", "c"], 20), likelihood, population)
    kernel = view.kernel(np.concatenate([alike[:1], alike[:1] + 1]))
    predicted = found.predict(kernel)
    assert predicted == pytest.approx(np.tile(found.arrays["centre"], (2, 1)))
    priors = make_priors(*found.normals(predicted), detector.share(distance(kernel)), population)
    assert np.isfinite(priors[0].location).all()


def test_a_question_without_a_score_is_left_out_of_the_comparison():
    scores = np.array([[0.9, 0.8, np.nan], [np.nan] * 3])
    prior = Prior.centred(0.8, 0.1)
    one, both = score_priors([prior], scores[:1], 0.85), score_priors([prior] * 2, scores, 0.85)
    assert [field.tolist() for field in both] == [field.tolist() for field in one]
    with pytest.raises(ScoreError, match="no question"):
        score_priors([prior], scores[1:], 0.85)


def test_the_cheapest_within_noise_is_recommended():
    def compared(kind, behind, hit_behind):
        values = {"evidence": -behind, "hit_score": -hit_behind, "seconds": 1.0}
        errors = {"behind_error": 0.1, "hit_behind_error": 0.1}
        return ComparedKind(kind=kind, behind=behind, hit_behind=hit_behind, **values, **errors)

    rows = [compared("population", 1, 1), compared("text", 0.05, 0.3), compared("states", 0.08, 0.09)]
    assert recommend([*rows, compared("lora", 0, 0)]) == "states"
    assert recommend([*rows[:2], compared("lora", 0, 0)]) == "lora"
    assert recommend([compared("text", 0.05, 0), compared("states", 0, 0.5)]) == "text"


def test_scores_of_kinds_are_paired_and_proper():
    rng = np.random.default_rng(0)
    scores = rng.beta(9, 3, (200, 8))
    right, wrong = Prior.centred(0.75, 0.12), Prior.centred(0.4, 0.12)
    kinds = (("population", wrong), ("text", right))
    found = {kind: score_priors([prior] * 200, scores, 0.85) for kind, prior in kinds}
    rows = {r.kind: r for r in compare(found, dict.fromkeys(found, 1.0))}
    assert rows["text"].behind == rows["text"].hit_behind == 0
    assert rows["population"].behind > 4 * rows["population"].behind_error
    assert rows["population"].hit_behind > 4 * rows["population"].hit_behind_error
    chance = (scores >= 0.85).mean()
    assert rows["text"].hit_score <= chance * np.log(chance) + (1 - chance) * np.log(1 - chance) + 0.05
