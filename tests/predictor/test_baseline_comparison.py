"""Baselines have their best settings in the report's table, chosen on tune questions."""

from itertools import product

import numpy as np
import pytest

from data.folds import FoldSettings
from data.pool import Pool
from data.scores import load_scores
from predictor.baseline_comparison import SHIPPED, averaged, compare
from predictor.certificate import cost
from predictor.policies import Schedule, Value
from predictor.prior import PriorBatch, fit_population
from predictor.scored_questions import ScoredQuestions
from predictor.settings import Terms
from tests.helpers import make_pool

pytestmark = pytest.mark.slow

CAP, GOAL = 8, 0.6


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """Terms that aim at .6, a pool's folds, and a policy that stops at .9 only."""
    location = tmp_path_factory.mktemp("compared") / "pool"
    make_pool(location, questions=240, candidates=CAP)
    terms = Terms(target=GOAL, cap=CAP, orders=2, round_candidates=2.0, answers=True)
    table = load_scores(Pool.open(str(location)), FoldSettings())
    population = fit_population(table.fold("train").scores)
    shipped = Value(target=0.9, cap=CAP, token_price=2e-4, candidate_tokens=13, round_price=0.002)
    return terms, table, shipped, population


def rows_of(setting, reading=0.0):
    terms, table, shipped, population = setting
    test, tune = table.fold("test"), table.fold("tune")
    tune, test = (ScoredQuestions(fold, PriorBatch.of([population] * len(fold))) for fold in (tune, test))
    rows, found = compare(terms, test, tune, shipped, population, reading)
    return {row.policy: row for row in rows}, found


def schedule_of(found):
    return next(name for name in found if "schedule" in name)


def test_the_schedule_is_the_cheapest_that_hits_the_goal_as_often_in_as_few_rounds(setting):
    terms, table, shipped, population = setting
    _, found = rows_of(setting)
    tune, test = table.fold("tune"), table.fold("test")
    (goal,) = averaged(terms, {"": shipped}, tune, PriorBatch.of([population] * len(tune))).values()
    settings = {
        (start, factor, last): Schedule(target=GOAL, cap=last, start=start, factor=factor)
        for start, factor, last in product(
            (1, 2, 3, 4, 5, 6, CAP), (1.0, 1.5, 2.0, 3.0, 4.0), range(2, CAP + 1)
        )
    }
    seen = averaged(terms, settings, tune, None)
    price = float(tune.candidates(CAP).tokens.mean())
    fits = [
        k
        for k, o in seen.items()
        if o.hit.mean() >= goal.hit.mean() and o.rounds.mean() <= goal.rounds.mean()
    ]
    best = min(cost(seen[k], price, terms.round_candidates) for k in fits)
    on_test = averaged(terms, settings, test, None)
    cheapest = [k for k in fits if cost(seen[k], price, terms.round_candidates) <= best + 1e-9]
    ours = found[schedule_of(found)].tokens.mean()
    assert min(abs(ours - on_test[k].tokens.mean()) for k in cheapest) < 1e-9
    assert ours < 0.8 * found[SHIPPED].tokens.mean()  # what stopping at another's target would hide


def test_what_priors_read_is_counted_for_those_who_read_them(setting):
    free, _ = rows_of(setting)
    read, found = rows_of(setting, reading=40.0)
    name = schedule_of(found)
    assert read[SHIPPED].saved == free[SHIPPED].saved
    share = 40 / found[name].tokens.mean()
    gone = free[SHIPPED].saved_after_reading.mean - read[SHIPPED].saved_after_reading.mean
    assert gone == pytest.approx(share)
    assert read[name].saved_after_reading.mean == 0


def test_a_baseline_that_cannot_do_as_well_says_so_and_names_its_setting(setting):
    rows, _ = rows_of(setting)
    assert {"OptScale-0, .95", "OptScale-t, .95"} <= set(rows)
    goal = rows[SHIPPED]
    for name, row in rows.items():
        if name.startswith("best") and name.endswith(", more rounds"):
            assert row.means.rounds.mean > goal.means.rounds.mean - 0.3
        if name.startswith("best"):
            assert row.setting


def test_a_schedule_with_as_many_right_answers_may_stop_above_the_goal(setting):
    rows, found = rows_of(setting)
    (name,) = [name for name in rows if "as many right" in name]
    assert found[name].tokens.mean() >= found[schedule_of(found)].tokens.mean()
    assert not np.isnan(found[name].correct).any()
