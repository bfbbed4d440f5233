"""Learn a stopping rule from pools: gradient-boosted trees that say what going on to the cap still gains.

Trees are few, small and strongly regularised, families of pools weigh alike, and more agreement may only mean
less to gain: what is learned has to hold on pools of other people.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor

from data.arrays import Array
from data.candidates import Candidates
from data.errors import ConfigError
from predictor.selection import Selection
from predictor.stopping import Source, StoppingRule, Trees
from predictor.votes import FEATURES, vote_features

CAPS = (8, 16, 32, 64, 100)
ROWS = 60_000  # of a family, whatever the number of its pools
ORDERS = 9
FALLING = ("lead_to_left", "lead_to_noise", "tail")  # the more of it, the less is to be gained


def fit_rule(name: str, pools: Sequence[tuple[Source, Candidates]]) -> StoppingRule:
    """Fit on the majority vote of every pool, at its own cap and at smaller ones.

    Parameters
    ----------
    pools : what each is, and its candidates; candidates whose verdict is unknown are taken for wrong.

    Raises
    ------
    ConfigError
        If there is no pool, or one has no verdicts.
    """
    if not pools:
        raise ConfigError("no pool to learn a rule from")
    families = Counter(source.family for source, _ in pools)
    rows, gains, weights = [], [], []
    for number, (source, candidates) in enumerate(pools):
        if np.isnan(candidates.correct).all():
            raise ConfigError(
                f"pool {source.name} has no verdicts; a rule learns from right and wrong answers"
            )
        n = candidates.answers.shape[1]
        caps = sorted({cap for cap in CAPS if cap < n} | {min(n, CAPS[-1])})
        for place, cap in enumerate(caps):
            orders, seed = max(2, ORDERS // len(caps)), 1000 * number + place
            features, gain = _examples(candidates, cap, orders, seed)
            size = ROWS // (families[source.family] * len(caps))
            kept = np.random.default_rng(0).permutation(len(gain))[:size]
            rows.append(features[kept])
            gains.append(gain[kept])
            weights.append(np.full(len(kept), 1 / (families[source.family] * len(caps) * len(kept))))
    weight = np.concatenate(weights)
    model = HistGradientBoostingRegressor(
        max_iter=60,
        max_leaf_nodes=4,
        min_samples_leaf=1000,
        l2_regularization=1.0,
        monotonic_cst=[-1 if feature in FALLING else 0 for feature in FEATURES],
        early_stopping=False,
        random_state=0,
    )
    model.fit(np.concatenate(rows), np.concatenate(gains), sample_weight=weight * len(weight) / weight.sum())
    return StoppingRule(name=name, trees=to_trees(model), sources=tuple(source for source, _ in pools))


def _examples(candidates: Candidates, cap: int, orders: int, seed: int) -> tuple[Array, Array]:
    """Features of every state before the cap in several orders, and the accuracy that the cap gains on it."""
    features, gains = [], []
    for order in range(orders):
        shown = candidates.shuffled(seed + order).first(cap)
        votes = Selection(kind="majority").count(shown.answers, None)
        right = np.take_along_axis(np.nan_to_num(shown.correct), votes.chosen, axis=1)
        features.append(vote_features(votes, cap)[:, :-1].reshape(-1, len(FEATURES)))
        gains.append((right[:, -1:] - right)[:, :-1].ravel())
    return np.concatenate(features), np.concatenate(gains)


def to_trees(model: HistGradientBoostingRegressor) -> Trees:
    """The fitted model as plain arrays, which predict without scikit-learn."""
    trees = [stage[0].nodes for stage in model._predictors]  # nowhere public; a test compares predictions
    return Trees.model_validate(
        {
            "base": float(np.ravel(model._baseline_prediction)[0]),
            "feature": [np.where(tree["is_leaf"], -1, tree["feature_idx"]).tolist() for tree in trees],
            "threshold": [np.where(tree["is_leaf"], 0.0, tree["num_threshold"]).tolist() for tree in trees],
            "left": [tree["left"].tolist() for tree in trees],
            "right": [tree["right"].tolist() for tree in trees],
            "value": [np.where(tree["is_leaf"], tree["value"], 0.0).round(7).tolist() for tree in trees],
        }
    )
