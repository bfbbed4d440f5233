import numpy as np
import pytest

from data.candidates import Candidates
from data.errors import ConfigError
from predictor.comparison import PRODUCT, compare, gain_over, lower_hull
from predictor.contenders import LADDER
from predictor.stopping import fixed_sizes, load_rule, totals

RULE = load_rule("public-1")


def pool(questions=120, n=12, seed=0, scored=True, spread=(1.0, 1.0)):
    """Questions of every difficulty; wrong answers scatter; scores say something."""
    rng = np.random.default_rng(1000 + seed)  # not the numbers that orders are drawn by
    right = rng.random((questions, n)) < rng.beta(*spread, questions)[:, None]
    answers = np.where(right, 0, rng.integers(1, 9, right.shape))
    scores = (
        np.clip(rng.normal(0.4, 0.2, right.shape) + 0.2 * right, 0, 1)
        if scored
        else np.full(right.shape, np.nan)
    )
    tokens = rng.integers(50, 150, right.shape).astype(float)
    return Candidates(scores, right.astype(float), tokens, np.zeros(right.shape), answers)


@pytest.fixture(scope="module")
def rows():
    return compare(pool(), RULE, folds=np.arange(120) % 3, orders=4).rows


def by(rows, **fields):
    return [row for row in rows if all(getattr(row, name) == value for name, value in fields.items())]


def test_every_selection_has_every_rung_at_six_settings_or_more(rows):
    for selection in ("best_score", "majority", "weighted_vote"):
        for policy in LADDER:
            if policy == "fixed schedule" and selection == "majority":
                continue  # it stops by a score
            assert len(by(rows, selection=selection, policy=policy, chosen=False)) >= 6, (selection, policy)
            assert len(by(rows, selection=selection, policy=policy, chosen=True)) == 1
        assert len(by(rows, selection=selection, policy=PRODUCT)) == 1


def test_fixed_n_draws_n_in_one_round_and_the_full_cap_changes_nothing(rows):
    for row in by(rows, policy="fixed N", chosen=False):
        assert row.draws == int(row.setting)
        assert row.rounds == 1
        assert row.gain is None
    for row in by(rows, policy="fixed N", setting="12"):
        assert row.changed == 0
    assert [
        int(r.setting) for r in by(rows, policy="fixed N", selection="majority", chosen=False)
    ] == fixed_sizes(12)


def test_no_more_accuracy_is_lost_than_answers_change(rows):
    full = {row.selection: row.accuracy for row in by(rows, policy="fixed N", setting="12")}
    for row in rows:
        assert row.changed >= full[row.selection] - row.accuracy - 1e-9, row


def test_one_candidate_is_as_right_as_candidates_are_on_average(rows):
    expected = pool(n=12).correct.mean()
    for row in by(rows, policy="fixed N", setting="1"):
        assert row.accuracy == pytest.approx(expected, abs=0.06)


def test_questions_that_are_clear_or_hopeless_leave_tokens_to_save():
    found = compare(pool(200, 16, spread=(0.3, 0.3), scored=False), RULE, folds=np.arange(200) % 4, orders=4)
    (product,) = by(found.rows, policy=PRODUCT)
    full = by(found.rows, policy="fixed N", setting="16")[0]
    assert found.selection == "majority"
    assert product.tokens < 0.7 * full.tokens
    assert product.accuracy > full.accuracy - 0.03
    assert product.rounds <= len(totals(16))


@pytest.mark.slow
def test_what_is_fitted_on_one_pool_is_measured_on_another():
    found = compare(pool(60, seed=1), RULE, fit=pool(seed=2), orders=2)
    assert by(found.rows, policy="learned on the own questions", chosen=True)
    with pytest.raises(ConfigError, match="either folds"):
        compare(pool(), RULE)


def test_without_verdicts_nothing_is_said_of_accuracy():
    unknown = pool(60)._replace(correct=np.full((60, 12), np.nan))
    rows = compare(unknown, RULE, folds=np.arange(60) % 3, orders=2).rows
    assert {(row.accuracy, row.gain, row.chosen) for row in rows} == {(None, None, False)}
    assert any(row.changed > 0 for row in rows)


def test_a_cheaper_row_of_equal_accuracy_gains_what_it_saves():
    rng = np.random.default_rng(0)
    right = (rng.random((2, 500)) < np.array([[0.2], [0.6]])).astype(float)
    tokens = np.repeat([[100.0], [400.0]], 500, axis=1)
    mixed = (
        right[0] + right[1]
    ) / 2  # a policy that draws either with even odds, at four fifths of the price
    gains = gain_over(
        np.vstack([tokens, np.full(500, 200.0)]), np.vstack([right, mixed]), np.array([True, True, False])
    )
    assert gains[2].tokens == pytest.approx(0.2)
    assert gains[2].low < 0.2 < gains[2].high
    assert gains[0].tokens == gains[1].tokens == pytest.approx(0)


def test_no_gain_is_told_above_the_best_of_the_hull():
    right = np.array([[0.0] * 6 + [1] * 4, [0.0] * 4 + [1] * 6, [0.0] * 2 + [1] * 8])
    gains = gain_over(np.ones((3, 10)), right, np.array([True, True, False]))
    assert gains[2] is None


def test_a_hull_leaves_out_what_a_mixture_beats():
    x, y = lower_hull(np.array([0.1, 0.2, 0.3, 0.25]), np.array([1.0, 5.0, 3.0, 9.0]))
    assert x.tolist() == [0.1, 0.3]
    assert y.tolist() == [1.0, 3.0]


@pytest.mark.slow
def test_rows_of_groups_weigh_up_to_those_of_all():
    groups = np.array(["a", "b", "b"] * 40)
    found = compare(pool(), RULE, folds=np.arange(120) % 3, orders=2, groups=groups).rows
    alone = compare(pool(), RULE, folds=np.arange(120) % 3, orders=2).rows
    assert by(found, group=None) == alone
    names = {row.policy for row in by(found, group="a")}
    assert PRODUCT in names
    for row in by(found, group="a"):
        key = {name: getattr(row, name) for name in ("policy", "selection", "setting", "chosen")}
        (whole,), (other,) = by(alone, **key), by(found, group="b", **key)
        for name in ("draws", "tokens", "rounds", "accuracy", "changed"):
            parts = getattr(row, name) / 3 + 2 * getattr(other, name) / 3
            assert parts == pytest.approx(getattr(whole, name)), (row.policy, name)
    single = by(found, policy="fixed N", setting="1")
    assert {row.group for row in single} == {None, "a", "b"}
