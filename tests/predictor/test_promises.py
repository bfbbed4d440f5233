"""What the policies promise, held against questions whose laws are known."""

import numpy as np
import pytest
from scipy import stats

from data.candidates import Candidates
from predictor import truncnorm
from predictor.bound import is_feasible, required_from_log_miss, required_samples
from predictor.certificate import certify
from predictor.contenders import of_policy
from predictor.goal import Goal, Judge
from predictor.measured import run
from predictor.policies import FixedN, Predictive, Quantile
from predictor.prior import PriorBatch, fit_population
from predictor.replay import replay
from predictor.selection import Selection
from predictor.state import State
from predictor.stopping import load_rule
from predictor.value_rule import Orders
from tests.predictor import populations

pytestmark = pytest.mark.slow

CAP, QUESTIONS = 32, 1000
MADE = {
    "beta": (populations.beta, "beta", 0.9),
    "atoms": (populations.atoms, "atoms", 0.95),
    "truncated normal": (populations.truncated, "truncnorm", 0.9),
}


@pytest.fixture(scope="module", params=MADE)
def world(request):
    """A prior fitted on some questions of a population, and others with their laws."""
    make, family, target = MADE[request.param]
    rng = np.random.default_rng(0)
    population = fit_population(make(rng, 400, 24, target).scores, family)
    asked = make(rng, QUESTIONS, CAP, target)
    return asked, PriorBatch.of([population] * QUESTIONS), target


def at_most(share, allowed, number):
    """Whether a share of ``number`` is consistent with at most ``allowed``: one-sided, 1 in 1,000."""
    return stats.binom.sf(round(share * number) - 1, number, allowed) > 1e-3


@pytest.mark.parametrize("floor", [3, 8])
@pytest.mark.parametrize("give_up", [0.0, 0.05])
def test_predictive_bound_keeps_its_mean_miss_probability(world, floor, give_up):
    asked, priors, target = world
    policy = Predictive(
        target=target, confidence=0.8, cap=CAP, floor=floor, give_up=give_up, batch=8, stop_on_hit=True
    )
    course = replay(policy, asked.scores, priors)
    feasible = course.feasible
    assert feasible.mean() > 0.3
    assert at_most((~course.hit[feasible]).mean(), 0.2, int(feasible.sum()))


def test_giving_up_loses_no_more_hits_than_its_level(world):
    asked, priors, target = world
    policy = FixedN(target=target, cap=CAP, stop_on_hit=True, batch=8, give_up=0.1)
    course = replay(policy, asked.scores, priors)
    lost = (asked.scores.max(axis=1) >= target) & ~course.hit
    stubborn = replay(policy.model_copy(update={"give_up": 0.0}), asked.scores)
    assert course.drawn.mean() < stubborn.drawn.mean()
    assert at_most(lost.mean(), 0.1, QUESTIONS)


@pytest.mark.parametrize("seen", [3, 10])
def test_quantile_bound_keeps_its_share_where_the_plug_in_does_not(world, seen):
    asked, priors, target = world
    confidence, risk = 0.9, 0.05
    state = State(asked.scores, np.full(QUESTIONS, seen), priors)
    policy = Quantile(target=target, confidence=confidence, cap=CAP, risk=risk, floor=seen)
    proposal = policy.propose(state)
    short = 1 - np.exp(asked.log_miss * proposal.required) < confidence
    feasible = proposal.feasible
    assert feasible.mean() > 0.2
    for asked_for in (feasible, feasible & (proposal.required > seen)):  # overall, and where it asks for more
        assert asked_for.sum() > 50
        assert at_most(short[asked_for].mean(), risk, int(asked_for.sum()))
    first = asked.scores[:, :seen]
    plugged = (*truncnorm.fit(first.mean(axis=1), (first**2).mean(axis=1), seen), target, confidence, CAP)
    fell = 1 - np.exp(asked.log_miss * np.asarray(required_samples(*plugged))) < confidence
    believed = np.asarray(is_feasible(*plugged))
    assert fell[believed].mean() > 2 * short[feasible].mean()


def test_the_bound_asks_for_more_than_the_known_law_and_for_less_than_five_times_as_much(world):
    asked, priors, target = world
    known, feasible = required_from_log_miss(asked.log_miss, 0.9, CAP)
    state = State(asked.scores, np.full(QUESTIONS, 5), priors)
    proposal = Quantile(target=target, confidence=0.9, cap=CAP, floor=5, risk=0.2).propose(state)
    both = feasible & proposal.feasible
    assert known[both].mean() < proposal.required[both].mean() < 5 * known[both].mean()


def test_outside_every_family_the_promise_fails_and_the_certificate_refuses():
    target = 0.95
    rng = np.random.default_rng(1)
    population = fit_population(populations.lures(rng, 400, 24, target).scores, "beta")
    asked = populations.lures(rng, 600, CAP, target)
    priors = PriorBatch.of([population] * 600)
    policy = FixedN(target=target, cap=CAP, stop_on_hit=True, batch=4, give_up=0.02)
    course = replay(policy, asked.scores, priors)
    lost = ((asked.scores.max(axis=1) >= target) & ~course.hit).mean()
    assert lost > 0.03  # what giving up promised does not hold
    blank, ones = np.full(asked.scores.shape, np.nan), np.ones(asked.scores.shape)
    none = np.full(asked.scores.shape, -1)
    shown = Candidates(asked.scores, blank, ones, ones, none)
    judge = Judge(loss="lost_hit", selection=Selection(), target=target)
    orders = Orders(shown, load_rule("public-1"), 0, judge, own=True)
    tested = run(of_policy("", policy, priors), orders, np.arange(600), 1)
    found = certify(
        [tested],
        orders,
        Goal(hit=0.02, target=target),
        reference=FixedN(target=target, cap=CAP),
        proposed=policy,
        orders=1,
        target=target,
        contract="c",
        question_ids=[str(i) for i in range(600)],
        groups=np.full(600, ""),
    )
    assert found.policy is None
    assert [t.passed for t in found.tried] == [False]
