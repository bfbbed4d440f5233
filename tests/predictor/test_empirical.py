import json

import numpy as np
import pytest
from scipy.special import logsumexp

from data.candidates import Candidates
from data.errors import ConfigError, ModelError, ScoreError
from predictor import families
from predictor.decision import decide
from predictor.empirical import MAX_LAWS, fit_empirical, load_family, save_family
from predictor.families import FAMILIES, get_family
from predictor.family_check import choose, compare_families
from predictor.planning import ReferenceQuestions, estimate
from predictor.policies import Predictive, Value
from predictor.prior import Prior, PriorBatch, fit_population
from predictor.replay import replay


def heaps(rng, questions, n):
    """Right answers score near .93 and wrong ones anywhere below .7: two heaps that no beta has."""
    right = rng.random((questions, n)) < rng.beta(0.5, 0.5, (questions, 1))
    return np.where(right, rng.normal(0.93, 0.01, (questions, n)), rng.beta(2, 3, (questions, n)) * 0.7)


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    train, tune = heaps(rng, 300, 24), heaps(rng, 200, 24)
    return train, tune, fit_empirical(train)


def test_laws_are_distributions_with_the_moments_of_their_scores(fitted):
    train, _, family = fitted
    masses = np.exp(family.log_mass)
    assert masses.sum(axis=0) == pytest.approx(1.0)
    assert np.abs(family.mean - train.mean(axis=1)).max() < 0.02
    assert np.abs(family.std - train.std(axis=1)).max() < 0.06
    assert family.points.shape == (300, 2)
    assert get_family(family.name) is family


def test_scores_at_the_ends_stay_there():
    family = fit_empirical([[1.0] * 20, [0.0] * 20])
    masses = np.exp(family.log_mass)
    assert masses[-20:, 0].sum() > 0.95
    assert masses[:20, 1].sum() > 0.95
    assert np.isfinite(family.points).all()


def test_the_population_weighs_all_laws_alike_and_a_prior_moves_weight_to_its_place(fitted):
    _, _, family = fitted
    population = fit_population([[0.5]], family.name)
    weights = np.exp(population.log_weights())
    assert np.quantile(weights, [0.1, 0.9]) * len(weights) == pytest.approx([1, 1], rel=0.05)
    high = population.model_copy(update={"location": (2.5, population.location[1]), "spread": (0.5, 2.0)})
    assert high.moments()[0] > population.moments()[0] + 0.15


def test_a_question_that_is_a_law_itself_is_told_of_by_the_others(fitted):
    train, tune, family = fitted
    assert family.own_laws(train).tolist() == list(range(len(train)))
    assert set(family.own_laws(tune)) == set(get_family("beta").own_laws(train)) == {-1}
    population = fit_population([[0.5]], family.name)

    def evidence(scores, others):
        return logsumexp(population.log_weights() + family.log_likelihood(scores, others), axis=1)

    seen, left_out, new = evidence(train, False), evidence(train, True), evidence(tune, True)
    error = np.hypot(left_out.std() / len(left_out) ** 0.5, new.std() / len(new) ** 0.5)
    assert abs(left_out.mean() - new.mean()) < 3 * error
    assert (seen - left_out).min() > 0
    assert (seen - left_out).mean() > 5  # what a law knows of its own question
    priors = PriorBatch.of([population] * len(train)).without(family.own_laws(train))
    weights = np.exp(priors[:7].table[priors[:7].index])
    assert weights.sum(axis=1) == pytest.approx(1)
    assert np.diag(weights) == pytest.approx(0)


def test_a_forecast_from_the_laws_own_questions_is_not_too_good(fitted):
    train, tune, family = fitted
    population = fit_population([[0.5]], family.name)
    policy = Value(target=0.9, cap=24, token_price=0.01)
    zeros = np.zeros(train.shape)
    reference = ReferenceQuestions(
        Candidates(train, zeros, zeros + 1, zeros, zeros.astype(int)), np.ones(len(train)), population
    )
    priors = PriorBatch.of([population] * len(tune))
    taken = replay(policy, tune, priors).drawn.sum()
    knowing = estimate(policy, priors, reference, seed=1).candidates
    told = estimate(policy, priors, reference._replace(laws=family.own_laws(train)), seed=1).candidates
    assert told.low < taken < told.high
    assert knowing.mean < told.mean - 0.1 * taken


@pytest.mark.slow
def test_it_is_chosen_where_no_shape_fits_and_foretells_hits_better(fitted):
    train, tune, family = fitted
    fits = compare_families(train, tune, 0.9, (*FAMILIES, family.name))
    assert choose(fits) == family.name
    scores = {fit.family: fit.hit_score for fit in fits}
    assert scores[family.name] > max(scores[name] for name in FAMILIES) + 0.02


def test_it_decides_like_any_family(fitted):
    train, _, family = fitted
    prior = fit_population(train, family.name)
    policy = Predictive(target=0.9, confidence=0.9, cap=32)
    lost, open_ = (decide(policy, scores, prior) for scores in ([0.2] * 12, [0.93, 0.3] * 6))
    assert open_.action == "accept"
    assert lost.action == "sample"
    assert decide(policy, [], prior).required_samples > 1
    oracle = PriorBatch.oracle(prior, train[:5])
    assert oracle.moments[0] == pytest.approx(train[:5].mean(axis=1), abs=0.05)


def test_more_questions_than_laws_are_sampled():
    rng = np.random.default_rng(1)
    family = fit_empirical(rng.beta(2, 2, (MAX_LAWS + 50, 4)))
    assert len(family.mean) == MAX_LAWS
    scores = rng.beta(2, 2, (MAX_LAWS + 50, 8))
    scores[rng.permutation(len(scores))[:500], 3:] = np.nan
    drawn = fit_empirical(scores).made_of.sum(axis=1)
    assert ((drawn == 8).sum(), (drawn == 3).sum()) == (MAX_LAWS - 450, 450)  # who shows most comes first
    missing = np.where(rng.random((40, 6)) < 0.3, np.nan, 0.5)
    missing[0] = np.nan  # a question without a score has no law
    assert len(fit_empirical(missing).mean) == 39


def test_it_comes_back_from_its_file_and_an_altered_file_is_refused(fitted, tmp_path, monkeypatch):
    _, _, family = fitted
    save_family(family.name, tmp_path)
    save_family("beta", tmp_path / "nowhere")  # of a family of this release there is nothing to write
    monkeypatch.setattr(families, "_registered", {})
    prior = Prior(family=family.name, location=(0, 0), spread=(1, 1))
    with pytest.raises(ConfigError, match="not loaded"):
        prior.moments()
    load_family(tmp_path)
    assert get_family(family.name).log_mass == pytest.approx(family.log_mass)
    assert prior.moments()[0] > 0
    document = json.loads((tmp_path / "family.json").read_text())
    document["bins"][0][0] = 3
    (tmp_path / "family.json").write_text(json.dumps(document))
    with pytest.raises(ModelError, match="was changed"):
        load_family(tmp_path)
    for broken in (
        "{",
        "{}",
        json.dumps({"name": family.name, "bins": [[-1]]}),
        '{"name": "x", "bins": [[]]}',
    ):
        (tmp_path / "family.json").write_text(broken)
        with pytest.raises(ModelError):
            load_family(tmp_path)


@pytest.mark.parametrize("scores", [np.empty((0, 4)), np.full((3, 4), np.nan)])
def test_no_scores_make_no_family(scores):
    with pytest.raises(ScoreError, match="no question has a score"):
        fit_empirical(scores)
