import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor

from data.errors import ConfigError
from predictor.learned.stopping_rule import fit_rule, to_trees
from predictor.selection import Selection
from predictor.stopping import Source
from predictor.votes import FEATURES, vote_features
from tests.predictor.test_comparison import pool


def named(name, family, candidates):
    shape = candidates.answers.shape
    source = Source(
        name=name, family=family, source="simulated", licence="none", questions=shape[0], candidates=shape[1]
    )
    return source, candidates


def test_exported_trees_predict_what_the_library_does():
    rng = np.random.default_rng(0)
    x = rng.random((3000, 4))
    model = HistGradientBoostingRegressor(max_iter=20, max_leaf_nodes=6).fit(x, x[:, 0] * x[:, 1] - x[:, 2])
    asked = rng.random((500, 4))
    np.testing.assert_allclose(to_trees(model).predict(asked), model.predict(asked), atol=1e-5)


def test_a_rule_learns_that_agreement_leaves_little_to_gain():
    pools = [named(str(k), "ab"[k % 2], pool(400, 16, seed=k, scored=False)) for k in range(2)]
    rule = fit_rule("simulated", pools)
    assert [source.questions for source in rule.sources] == [400, 400]
    votes = Selection(kind="majority").count(np.array([[1] * 16, list(range(16))]), None)
    gain = rule.gain(vote_features(votes, 16))
    assert gain[0, 7] < gain[1, 7]
    assert vote_features(votes, 16).shape[-1] == len(FEATURES)


def test_a_pool_without_verdicts_is_refused():
    unknown = pool(20, 8)._replace(correct=np.full((20, 8), np.nan))
    with pytest.raises(ConfigError, match="has no verdicts"):
        fit_rule("r", [named("a", "a", unknown)])
    with pytest.raises(ConfigError, match="no pool"):
        fit_rule("r", [])
