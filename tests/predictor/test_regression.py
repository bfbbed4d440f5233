"""The regression on its own: what it makes of numbers beyond all that training saw."""

import numpy as np

from predictor.families import get_family
from predictor.network.regression import Regression, Shape, make_priors
from predictor.prior import fit_population


def test_few_questions_and_strange_ones_still_get_priors():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(size=24)
    scores = rng.beta(np.exp(1 - difficulty)[:, None] + 0.1, 2.0, (24, 16))
    apart = np.abs(difficulty[:, None] - difficulty)
    population, likelihood = fit_population(scores), get_family("beta").log_likelihood(scores)
    shape = Shape(weights=(1.0,), noise=(0.1, 0.1, 0.1, 0.1))
    fitted = Regression.fit([np.exp(-apart)], shape, likelihood, population)
    strange = np.array([[50.0, -50.0, 7.0, -3.0], [-50.0, 50.0, -7.0, 9.0]])
    known = fitted.arrays["left_out"]
    location, covariance = fitted.normals(np.concatenate([strange, known]))
    assert location[:2].min() >= location[2:].min() - 3 * np.ptp(location[2:])
    assert location[:2].max() <= location[2:].max() + 3 * np.ptp(location[2:])
    priors = make_priors(location, np.zeros(len(location)), covariance, population)
    assert all(0 < spread < 5 for prior in priors for spread in prior.spread)
