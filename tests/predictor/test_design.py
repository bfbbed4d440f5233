import numpy as np
import pytest

from data.errors import ConfigError
from predictor.design import (
    DESIGN_ORDERS,
    best_selection,
    choose_target,
    cost,
    design,
    reference_selection,
    selections,
    sequence,
)
from predictor.goal import Goal, Reference
from predictor.policies import FixedN, Schedule
from predictor.prior import Prior, PriorBatch
from predictor.settings import CertifySettings, Prices
from tests.predictor.test_comparison import pool

SETTINGS = CertifySettings(orders=4)


def made(candidates=None, policy=None, **goal):
    found = pool(160) if candidates is None else candidates
    return design(policy or FixedN(cap=12), Goal(**goal), SETTINGS, found)


def test_policies_are_tested_from_the_safest_to_the_cheapest_and_each_saves():
    found = made(lose=0.05)
    losses = [np.mean(each.loss) for each in found.sequence]
    costs = [cost(each, 25.0, 0) for each in found.sequence]
    full = pool(160).tokens.sum(axis=1).mean()
    assert len(found.sequence) >= 4
    assert np.all(np.diff(costs) < 0)
    assert costs[0] < 0.96 * full + 25
    assert losses[-1] > losses[0]
    assert found.reference == FixedN(cap=12, selection=found.judge.selection)


def test_what_is_proposed_keeps_the_goal_and_is_the_cheapest_that_does():
    found = made(lose=0.05)
    fine = [c for m, c in zip(found.measured, found.costs, strict=True) if np.mean(m.loss) <= 0.05]
    assert np.mean(found.proposed.loss) <= 0.05
    assert cost(found.proposed, 0.25 * pool(160).tokens.mean(), 0) == pytest.approx(min(fine))
    assert found.needed > 10


def test_changes_need_no_verdict():
    shown = pool(160)
    unknown = shown._replace(correct=np.full(shown.correct.shape, np.nan))
    found, same = made(unknown), made(change=0.05)
    assert found.goal.change == 0.05
    assert found.judge.selection.kind == "weighted_vote"
    assert all(0 <= np.mean(m.loss) <= 1 for m in found.measured)
    assert same.sequence


def test_the_reference_is_what_the_user_runs():
    found = made(lose=0.05, reference=Reference(n=4, select="best_score"))
    assert found.reference.cap == 4
    assert found.reference.selection.kind == "best_score"
    assert found.sequence[0].tokens.mean() < found.measured[0].tokens.mean()
    with pytest.raises(ConfigError, match="has no scores"):
        made(pool(60, scored=False), reference=Reference(select="best_score"))


def test_rounds_are_bounded_on_average():
    assert all(each.rounds.mean() <= 1.5 for each in made(lose=0.1, rounds=1.5).sequence)


def test_a_goal_of_spending_takes_what_loses_least():
    found = made(spend=0.3)
    full = pool(160).tokens.sum(axis=1).mean()
    assert found.proposed.tokens.mean() <= 0.3 * full
    assert found.sequence == [found.proposed]
    cheap, dear = (made(price_per_point=worth).proposed for worth in (1e-4, 10.0))
    assert cheap.tokens.mean() < dear.tokens.mean()


def test_what_is_dear_is_spared():
    shown = pool(160)._replace(reward_tokens=np.full((160, 12), 100.0))

    def proposed(goal, **prices):
        found = design(FixedN(cap=12), goal, SETTINGS, shown, prices=Prices(**prices))
        return found.proposed

    goal = Goal(lose=0.05)
    assert proposed(goal, round=500.0).rounds.mean() < proposed(goal, round=0.0).rounds.mean()
    goal = Goal(lose=0.05, reference=Reference(select="majority"))
    free, dear = (proposed(goal, reward=price) for price in (0.0, 50.0))
    assert (free.policy.reads_scores, dear.policy.reads_scores) == (True, False)
    assert dear.tokens.mean() > free.tokens.mean()


def test_what_reads_a_prior_is_looked_at_again_before_it_is_chosen():
    """It was measured in few orders; the best of many of them was lucky in these."""
    shown = pool(120)
    priors = PriorBatch.of([Prior.centred(mean, 0.1) for mean in shown.scores.mean(axis=1)])
    found = design(FixedN(cap=12), Goal(lose=0.05), SETTINGS, shown, priors, reading=-100.0)
    chosen = [*found.sequence, found.proposed]
    assert any(each.policy.reads_prior for each in chosen)
    assert all(each.contender.orders >= DESIGN_ORDERS for each in chosen)
    # In few orders its rounds may lie below a bound that they pass in all of them.
    found = design(FixedN(cap=12), Goal(lose=0.05, rounds=1.11), SETTINGS, shown, priors, reading=-100.0)
    assert all(each.rounds.mean() <= 1.11 for each in [*found.sequence, found.proposed])


def test_a_policy_of_the_users_own_is_tested_as_it_is():
    own = Schedule(cap=12, target=0.6, start=2)
    (tested,) = design(own, Goal(lose=0.1), CertifySettings(choose=False, orders=2), pool(80)).sequence
    assert tested.policy == own


def test_a_target_is_chosen_where_the_first_hit_is_right_most_often():
    shown = pool(200)
    assert 0 < choose_target(shown) < 1
    misleading = shown._replace(scores=1 - shown.scores)
    assert choose_target(misleading) <= choose_target(shown)


def test_without_anything_to_choose_by_an_error_says_so():
    blank = pool(60, scored=False)
    with pytest.raises(ConfigError, match="neither scores nor answers"):
        made(blank._replace(answers=np.full(blank.answers.shape, -1)))


def test_the_best_selection_is_taken_and_another_where_it_is_named():
    shown = pool(200)
    options = selections(shown)
    best = best_selection(shown, options)
    assert reference_selection(Goal(), options, best) == best
    assert reference_selection(Goal(hit=0.1), options, best).kind == "best_score"
    assert reference_selection(Goal(reference=Reference(select="majority")), options, best).kind == "majority"


def test_what_costs_nearly_as_much_as_a_safer_policy_is_left_out():
    found = made(lose=0.05)
    costs = np.array([1.0, 0.97, 0.5, 0.49, 0.3])
    assert [m for m in sequence(found.measured[:5], costs) if m == 0] == []
