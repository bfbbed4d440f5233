"""Which policies to test, from what they spend and lose on questions that may be looked at."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data.arrays import Array
from data.candidates import Candidates
from data.errors import ConfigError
from predictor.contenders import Contender, informed, of_policy
from predictor.families import BINS
from predictor.goal import Goal, Judge
from predictor.measured import Measured, measure, run
from predictor.policies import AnyPolicy, FixedN
from predictor.prior import PriorBatch
from predictor.risk import questions_needed
from predictor.selection import Selection, accuracy, choose_weights
from predictor.settings import CertifySettings, Prices
from predictor.stopping import load_rule
from predictor.value_rule import Orders

DESIGN_ORDERS = 8
REFERENCE = "reference"
AIMS = (0.6,)  # quantiles of the best score, that value of information aims at
TARGETS = (0.5, 0.6, 0.7, 0.8, 0.9)  # quantiles of the best score, that targets are chosen among
STEP = 0.95  # a policy is tested where it costs at most this share of the one before


class Design(NamedTuple):
    """What was learnt on train and tune questions: how success is judged, and which policies to test."""

    goal: Goal
    """With its default named."""
    judge: Judge
    reference: AnyPolicy
    measured: list[Measured]
    """Every policy that can be shipped, at each setting, with its loss against the reference."""
    costs: Array
    """(policies,) generated tokens a question, rounds at their price, and what the predictor reads."""
    sequence: list[Measured]
    """From the safest to the cheapest."""
    proposed: Measured
    """The cheapest that keeps the goal on these questions."""

    @property
    def needed(self) -> int | None:
        """About how many calibration questions certify what is proposed."""
        known, risk = self.proposed.known, next(iter(self.goal.epsilon.values()), None)
        return None if risk is None or not known.size else questions_needed(known, risk, self.goal.delta)


def selections(seen: Candidates) -> list[Selection]:
    """Majority; with scores the best score and the weighted vote that is right most often."""
    found = [Selection(kind="majority")]
    if not np.isnan(seen.scores).all():
        found = [Selection(kind="best_score"), *found, choose_weights(seen)]
    return found


def best_selection(seen: Candidates, options: Sequence[Selection]) -> Selection:
    """The one that is right most often with all candidates; the weighted vote where no verdict is known."""
    if np.isnan(seen.correct).all():
        return options[0] if (seen.answers < 0).all() else options[-1]
    return max(options, key=lambda option: accuracy(option, seen))


def cheapest(measured: Sequence[Measured], costs: Array, most: float) -> int:
    """Place of the cheapest that loses at most ``most`` in the mean; of what loses least where none does."""
    losses = np.array([np.nanmean(each.loss) for each in measured])
    fine = np.flatnonzero(losses <= most + 1e-12)
    return int(fine[costs[fine].argmin()] if fine.size else losses.argmin())


def sequence(measured: Sequence[Measured], costs: Array) -> list[int]:
    """Places of the policies to test, from the safest to the cheapest; the first measured is the reference.

    Safe is what has lost little, its standard error added. A policy that costs nearly as much as a safer one
    is left out.
    """
    safety = np.array([_bound(each.known) for each in measured])
    found, last = list[int](), float(costs[0])
    for place in np.lexsort((costs, safety)).tolist():
        if costs[place] <= STEP * last:
            found.append(place)
            last = float(costs[place])
    return found


def _bound(known: Array) -> float:
    return float(known.mean() + known.std() / np.sqrt(max(known.size, 1))) if known.size else np.inf


def design(
    policy: AnyPolicy,
    goal: Goal,
    settings: CertifySettings,
    candidates: Candidates,
    priors: PriorBatch | None = None,
    reading: float = 0.0,
    shuffled: bool = True,
    prices: Prices = Prices(),  # noqa: B008 - it is frozen
) -> Design:
    """What the goal is held against, and the policies to test, from questions that may be looked at.

    Parameters
    ----------
    candidates : up to the policy's cap, of questions that may be looked at, with their priors.
    reading : tokens that the predictor reads a question.
    prices : in generated tokens, by which the cheapest policy is chosen.
    shuffled : whether candidates may be taken in other orders than the pool's own.
    """
    cap = policy.cap
    if np.isnan(candidates.scores).all() and (candidates.answers < 0).all():
        raise ConfigError(
            "the pool has neither scores nor answers: there is nothing to choose a candidate by"
        )
    known = not np.isnan(candidates.correct).all()
    goal = goal.resolve(known)
    if goal.loss == "lost_accuracy" and not known:
        raise ConfigError(
            f"goal.{goal.name} counts right answers, and the pool has no verdict: name goal.change, or "
            "import verdicts or reference answers"
        )
    if goal.loss == "lost_hit" and np.isnan(candidates.scores).all():
        raise ConfigError("goal.hit counts scores at a target, and the pool has none: name another goal")
    options = selections(candidates)
    best = best_selection(candidates, options)
    selection = reference_selection(goal, options, best)
    reference = FixedN(target=policy.target, cap=min(goal.reference.n or cap, cap), selection=selection)
    target = policy.target
    if goal.hit is not None:
        target = goal.target or choose_target(candidates)
        reference = reference.model_copy(update={"target": target})
    judge = Judge(loss=goal.loss, n=reference.cap, selection=selection, target=target)
    orders = Orders(candidates, load_rule(settings.rule), 0, judge, not shuffled)
    rows, tokens = np.arange(len(candidates.answers)), float(candidates.tokens.mean())
    held = of_policy(REFERENCE, reference, None)
    measured, number = [run(held, orders, rows, 1)], DESIGN_ORDERS if shuffled else 1
    if settings.choose:
        # Another selection would change answers that stopping early does not.
        for chosen in [selection] if goal.loss == "changed" else dict.fromkeys((selection, best)):
            more: list[Contender] = []
            # One prior for all says nothing of a question that its scores and answers do not.
            if priors is not None and len(priors.table) > 1 and chosen.reads_scores:
                best_scores = np.nanmax(candidates.scores, axis=1)
                aims = np.round(BINS * np.array([target, *np.quantile(best_scores, AIMS)])) / BINS
                aims = np.unique(np.clip(aims, 1 / BINS, 1 - 1 / BINS))
                more = informed(cap, chosen, aims.tolist(), tokens, priors)
            measured += [m for m in measure(orders, rows, chosen, more, number) if m.contender.policy]
    else:
        measured.append(run(of_policy("config's policy", policy, priors), orders, rows, 1))
    measured = [m for m in measured if m.contender.policy and m.contender.policy.cap <= cap]
    round_price = tokens * settings.round_candidates if prices.round is None else prices.round
    scoring = prices.reward * float(candidates.reward_tokens.mean()) / tokens
    while True:
        if settings.choose and goal.rounds is not None:
            measured = [m for m in measured if m.rounds.mean() <= goal.rounds]
        costs = np.array([cost(m, round_price, prices.predictor * reading, scoring) for m in measured])
        if not settings.choose:
            picked = [place for place, m in enumerate(measured) if m.contender.policy == policy]
            proposed = picked[-1]
        elif goal.epsilon:
            picked = sequence(measured, costs)
            proposed = cheapest(measured, costs, next(iter(goal.epsilon.values())))
        else:
            proposed = spend(goal, measured, tokens * cap, prices.million)
            picked = [proposed]
        # Of many policies that were measured in few orders, the one that looks best was lucky: look again.
        lucky = [place for place in {*picked, proposed} if measured[place].contender.orders < number]
        if not lucky:
            tested = [measured[place] for place in picked]
            return Design(goal, judge, reference, measured, costs, tested, measured[proposed])
        for place in lucky:
            measured[place] = run(measured[place].contender, orders, rows, number)


def cost(measured: Measured, round_price: float, reading: float, scoring: float = 0.0) -> float:
    """Mean price of a question, in generated tokens.

    ``reading`` is what a prior of the question costs, ``scoring`` what the score of a generated token does.
    """
    policy = measured.policy
    drawn = measured.tokens * (1 + scoring * policy.reads_scores)
    return float((drawn + round_price * measured.rounds).mean()) + reading * policy.reads_prior


def spend(goal: Goal, measured: Sequence[Measured], full: float, million: float) -> int:
    """The place of the policy that loses least for what may be spent, or that is worth most at its price."""
    losses = np.array([np.nanmean(m.loss) for m in measured])
    tokens = np.array([m.tokens.mean() for m in measured])
    if goal.price_per_point is not None:
        return int((1e-3 * million * tokens + 100 * goal.price_per_point * losses).argmin())
    assert goal.spend is not None
    fine = np.flatnonzero(tokens <= goal.spend * full)
    return int(fine[losses[fine].argmin()]) if fine.size else int(tokens.argmin())


def reference_selection(goal: Goal, options: Sequence[Selection], best: Selection) -> Selection:
    """The one that the goal names, with the weights chosen for it; the best where it names none.

    Raises
    ------
    ConfigError
        If it names one that needs scores, and there are none.
    """
    if goal.hit is not None and goal.reference.select is None:
        return next(option for option in options if option.kind == "best_score")
    if goal.reference.select is None:
        return best
    for option in options:
        if option.kind == goal.reference.select:
            return option
    raise ConfigError(f"goal.reference.select is {goal.reference.select}, and the pool has no scores")


def choose_target(seen: Candidates) -> float:
    """The score whose first hit is right most often, of some quantiles of the best scores.

    A target that is never wrong to stop at is worth more than one that is easy to reach: what counts is how
    often the first candidate that reaches it is right, or, where none does, the best one. Without a verdict
    it is the median.
    """
    best = np.nanmax(seen.scores, axis=1)
    targets = np.unique(np.clip(np.round(np.quantile(best, TARGETS) * BINS), 1, BINS - 1)) / BINS
    if np.isnan(seen.correct).all():
        return float(targets[len(targets) // 2])
    right, scores = [], np.nan_to_num(seen.scores)
    for target in targets:
        reached = scores >= target
        place = np.where(reached.any(axis=1), reached.argmax(axis=1), scores.argmax(axis=1))
        right.append(np.nanmean(np.take_along_axis(seen.correct, place[:, None], axis=1)))
    return float(targets[int(np.argmax(right))])
