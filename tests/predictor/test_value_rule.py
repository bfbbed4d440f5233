import numpy as np

from predictor.selection import Selection
from predictor.stopping import load_rule
from predictor.value_rule import Orders, ValueRule, first_stop, fit_value_rules
from tests.predictor.test_comparison import pool

MAJORITY = Selection(kind="majority")


def spent_and_right(rule, orders, rows, order=50):
    shown = orders.show(MAJORITY, order, rows)
    drawn, _ = rule.stop(shown)
    return drawn.mean(), np.take_along_axis(shown.right, drawn[:, None] - 1, axis=1).mean()


def test_the_first_stop_is_taken_and_the_last_total_is_one():
    stops = np.array([[False, True, False], [False, False, False], [True, True, True]])
    drawn, rounds = first_stop(stops, np.array([1, 4, 9]))
    assert drawn.tolist() == [4, 9, 1]
    assert rounds.tolist() == [2, 3, 1]


def test_a_higher_price_draws_less_and_no_price_draws_all_that_helps():
    orders = Orders(pool(300, 16, spread=(0.5, 0.5), scored=False), load_rule("public-1"))
    cheap, middle, dear = fit_value_rules(orders, np.arange(200), MAJORITY, (0.001, 0.1, 2.0))
    rows = np.arange(200, 300)
    drawn, right = zip(*(spent_and_right(rule, orders, rows) for rule in (cheap, middle, dear)), strict=True)
    assert drawn[0] > drawn[1] > drawn[2]
    assert right[0] > right[2]


def test_unknown_verdicts_are_left_out_of_the_fit():
    known = pool(80, 8, scored=False)
    correct = np.vstack([known.correct, np.full((20, 8), np.nan)])
    both = known.select(np.r_[np.arange(80), np.arange(20)])._replace(correct=correct)
    one, other = (
        fit_value_rules(
            Orders(candidates, load_rule("public-1")), np.arange(len(candidates.answers)), MAJORITY, (0.1,)
        )
        for candidates in (known, both)
    )
    assert len(one[0].intercept) == len(other[0].intercept) == len(one[0].totals) - 1
    assert np.isfinite(other[0].intercept).all()


def test_a_rule_is_json_in_and_out():
    orders = Orders(pool(60, 8), load_rule("public-1"))
    (rule,) = fit_value_rules(orders, np.arange(60), Selection(kind="weighted_vote"), (0.1,))
    assert ValueRule.model_validate_json(rule.model_dump_json()) == rule
