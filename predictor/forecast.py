"""Before anything is spent: which goals can be certified, with how many questions, and what they save."""

import numpy as np

from data.candidates import Candidates
from data.record import Record
from predictor.design import Design, design
from predictor.goal import Goal
from predictor.policies import FixedN
from predictor.risk import questions_needed
from predictor.settings import CertifySettings

LOSE, CHANGE = (0.01, 0.02, 0.03, 0.05), (0.05, 0.1)
ENOUGH = 0.8  # of the greatest saving, for which the fewest questions are told


class GoalForecast(Record):
    """What a goal takes and gives, by questions that are there."""

    goal: str
    """Name of the goal, as `goal.lose`."""
    value: float
    expected_saving: float | None
    """Share of the reference's tokens; None where there is no question to tell by."""
    questions_needed: int | None
    """About how many calibration questions certify a policy that saves so much, in four of five projects.

    Where there is no question to tell by, how many one needs that loses nothing. None: no number will do.
    """
    saving_now: float | None
    """What can be expected to be certified with as many calibration questions as there are."""


def forecast(
    candidates: Candidates | None, calibration: int, settings: CertifySettings, delta: float = 0.1
) -> list[GoalForecast]:
    """Forecasts for several goals; of accuracy where there are verdicts.

    Parameters
    ----------
    candidates : of questions that may be looked at; None where there is none.
    calibration : calibration questions on hand.
    """
    goals = [("lose", value) for value in LOSE] + [("change", value) for value in CHANGE]
    if candidates is None:
        none = np.zeros(1)
        return [
            GoalForecast(
                goal=f"goal.{name}",
                value=value,
                expected_saving=None,
                questions_needed=questions_needed(none, value, delta),
                saving_now=None,
            )
            for name, value in goals
        ]
    found = []
    for name in ("lose", "change"):
        if name == "lose" and np.isnan(candidates.correct).all():
            continue
        policy = FixedN(cap=candidates.answers.shape[1])
        made = design(policy, Goal(**{name: 0.05, "delta": delta}), settings, candidates)
        found += forecast_of(made, calibration)
    return found


def forecast_of(made: Design, calibration: int) -> list[GoalForecast]:
    """Forecasts for several values of a goal that policies were measured for; none of hits or of spending."""
    values = {"lost_accuracy": LOSE, "changed": CHANGE}.get(made.goal.loss, ()) if made.goal.epsilon else ()
    return [_of_goal(made, value, calibration) for value in values]


def _of_goal(made: Design, value: float, calibration: int) -> GoalForecast:
    saved, needed = [0.0], [0]
    for each in made.measured[1:]:
        # One standard error more than was lost: the policy is chosen among many that were measured alike.
        cautious = np.minimum(each.known + each.known.std() / np.sqrt(each.known.size), 1.0)
        if (count := questions_needed(cautious, value, made.goal.delta)) is not None:
            saved.append(1 - float(each.tokens.mean() / made.measured[0].tokens.mean()))
            needed.append(count)
    shares, counts = np.array(saved), np.array(needed)
    most = shares.max()
    enough = counts[shares >= ENOUGH * most].min()
    return GoalForecast(
        goal=f"goal.{made.goal.name}",
        value=value,
        expected_saving=float(shares[(shares >= ENOUGH * most) & (counts == enough)].max()),
        questions_needed=int(enough) or None,
        saving_now=float(shares[counts <= calibration].max()),
    )
