"""From a question's text and the scores so far to a decision."""

from predictor.bound import is_feasible, required_samples
from predictor.contract import ScoreContract
from predictor.decision import Decision, Policy, decide
from predictor.errors import OptScaleError
from predictor.policies import FixedN, OptScale, load_policy
from predictor.prior import Prior
from predictor.question import Question

__all__ = [
    "Decision",
    "FixedN",
    "OptScale",
    "OptScaleError",
    "Policy",
    "Prior",
    "Question",
    "ScoreContract",
    "decide",
    "is_feasible",
    "load_policy",
    "required_samples",
]
