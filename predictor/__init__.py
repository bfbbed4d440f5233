"""From a question's text and the scores so far to a decision."""

from data.candidates import Candidates
from data.contract import ScoreContract
from data.errors import OptScaleError
from data.question import Question
from predictor.bound import is_feasible, required_samples
from predictor.certificate import Certificate, certify
from predictor.decision import Decision, decide
from predictor.policies import FixedN, OptScale, Predictive, Quantile, Schedule, Value, load_policy
from predictor.policy_base import Policy
from predictor.prior import Prior, PriorBatch
from predictor.replay import replay
from predictor.state import State

__all__ = [
    "Candidates",
    "Certificate",
    "Decision",
    "FixedN",
    "OptScale",
    "OptScaleError",
    "Policy",
    "Predictive",
    "Prior",
    "PriorBatch",
    "Quantile",
    "Question",
    "Schedule",
    "ScoreContract",
    "State",
    "Value",
    "certify",
    "decide",
    "is_feasible",
    "load_policy",
    "replay",
    "required_samples",
]
