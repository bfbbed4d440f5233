"""Certificates: promises about a policy, tested on held-out questions.

Learn-then-Test (Angelopoulos et al., arXiv 2110.01052) over one fixed sequence: policies of all kinds,
ordered on other questions from the safest to the cheapest, are tested one by one until the first that fails.
A later one is only tested where all before it passed, so no correction for their number is due: the chance
that any certified policy breaks the promise is at most delta.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from data.arrays import Array
from data.contract import require_same_contract
from data.errors import ConfigError
from data.files import short_digest
from data.question import Question
from data.record import Record
from data.score_map import ScoreMap
from data.shapes import Shapes
from predictor.goal import Goal, Loss
from predictor.measured import Measured, run
from predictor.policies import AnyPolicy, FixedN
from predictor.risk import refutation_p_value, risk_p_value, upper_bound
from predictor.value_rule import Orders


class Tested(Record):
    """One policy of the sequence and its test on calibration questions."""

    policy: AnyPolicy
    tokens: float
    """Mean generated tokens a question on calibration questions."""
    rounds: float
    failures: dict[Loss, float]
    """Sum of each loss over calibration questions."""
    p_value: float
    """Chance of losses so small if the risk were epsilon."""
    level: float
    """Most that the p-value may be: delta."""
    passed: bool


class Group(Record):
    """Losses of the certified policy in one group of calibration questions; nothing is promised of it."""

    questions: int
    failures: dict[Loss, float]


class Certificate(Record):
    """A promise, the questions and the test that it rests on; JSON in and out."""

    contract: str
    """Fingerprint of the score contract."""
    questions: int
    """Calibration questions."""
    questions_digest: str
    """Digest of their ids."""
    epsilon: dict[Loss, float]
    """Risk of each loss that is promised of: the mean over questions, not to be exceeded; see `Loss`."""
    delta: float
    """Chance that the promise is wrong all the same, over the draw of calibration questions."""
    target: float
    """Score that is a hit."""
    cap: int
    test: str = "Learn-then-Test, one fixed sequence, bets on the mean loss over orders"
    tried: tuple[Tested, ...]
    policy: AnyPolicy | None
    """The cheapest policy that passed; where the goal promises nothing, what was chosen for it. None if none
    that saves passes."""
    questions_needed: int | None
    """Where nothing that saves passed: about how many calibration questions the first one needs."""
    groups: dict[str, Group]
    statement: str
    goal: Goal = Goal()
    reference: AnyPolicy | None = None
    """What it is held against: drawn where nothing is certified. None in earlier releases: the full cap."""
    proposed: AnyPolicy | None = None
    """What kept the goal on train and tune questions, tested or not."""
    orders: int = 1
    """Orders of a question's candidates that its loss is a mean over; 1: the pool's own."""
    bounds: dict[Loss, float] = Field(default_factory=dict)
    """Where nothing is promised: what its losses are at most, with confidence 1 - delta."""
    score_map: ScoreMap | None = None
    """What maps the contract's raw scores to those in [0, 1] that the policy reads."""
    shapes: Shapes | None = None
    """What its calibration questions look like: a question that does not is none it speaks of. None in
    earlier releases: then all are taken for alike."""

    made: datetime | None = None
    """When; None of one that no flow made."""
    uses: int | None = None
    """How often its questions have been certified on, this time included: each time ``delta`` was halved."""

    def covers(self, question: Question) -> bool:
        """Whether calibration questions looked like this one."""
        return self.shapes is None or self.shapes.has(question)

    def require_contract(self, fingerprint: str) -> None:
        """Raise ContractError unless it speaks of these scores."""
        require_same_contract(self.contract, fingerprint, "certificate")

    @property
    def certified(self) -> bool:
        """Whether something is promised."""
        return self.policy is not None and bool(self.epsilon)

    def to_ship(self, uncertified: bool = False) -> AnyPolicy:
        """The certified policy; where there is none the reference, or if ``uncertified`` what is proposed."""
        return self.policy or (self.proposed if uncertified else None) or self.fallback

    @property
    def fallback(self) -> AnyPolicy:
        """What may be shipped without a certificate: the reference."""
        return self.reference or FixedN(target=self.target, cap=self.cap)


def certify(
    sequence: Sequence[Measured],
    calibration: Orders,
    goal: Goal,
    *,
    reference: AnyPolicy,
    proposed: AnyPolicy,
    orders: int,
    target: float,
    contract: str,
    question_ids: Sequence[str],
    groups: NDArray[np.str_],
    one_a_group: bool = False,
    needed: int | None = None,
    score_map: ScoreMap | None = None,
) -> Certificate:
    """Test policies one by one until the first that fails; the last that passed is certified.

    Where the goal promises nothing, the last is taken and its loss is bounded. The reference loses nothing
    against itself: where no other passes, it is what may be shipped.

    Parameters
    ----------
    sequence : from the safest to the cheapest, each with its losses on other questions.
    calibration : candidates of questions that nothing was chosen on, judged as the goal says.
    orders : of a question's candidates that its loss is a mean over.
    question_ids, groups : (questions,)
    one_a_group : let one question of each group count, since questions of a group are alike.
    needed : about how many questions certify what is proposed.
    score_map : what made the scores of raw ones.

    Raises
    ------
    ConfigError
        If there is no question, or no loss is known.
    """
    # Bets are placed in the order of the ids' hashes, which nothing that is lost depends on.
    hashes = np.array([hashlib.sha256(key.encode()).hexdigest() for key in question_ids])
    rows = hashes.argsort()
    if one_a_group:
        named = np.array([group or key for group, key in zip(groups, question_ids, strict=True)])
        rows = rows[np.sort(np.unique(named[rows], return_index=True)[1])]
    if not rows.size:
        raise ConfigError("a certificate needs at least one calibration question")
    loss, epsilon = goal.loss, goal.epsilon
    tried: list[Tested] = []
    results: list[Measured] = []
    for other in sequence if epsilon else sequence[-1:]:
        found = run(other.contender, calibration, rows, orders)
        if not found.known.size:
            raise ConfigError(f"no calibration question tells what is lost ({loss}): name another goal")
        p_value = risk_p_value(found.known, epsilon[loss], other.known) if epsilon else 0.0
        tried.append(
            Tested(
                policy=other.policy,
                tokens=float(found.tokens.mean()),
                rounds=float(found.rounds.mean()),
                failures={loss: float(found.known.sum())},
                p_value=p_value,
                level=goal.delta,
                passed=p_value <= goal.delta,
            )
        )
        results.append(found)
        if not tried[-1].passed:
            break
    passed = [place for place, test in enumerate(tried) if test.passed]
    policy = tried[passed[-1]].policy if passed else None
    bounds = {} if epsilon else {loss: upper_bound(results[-1].known, goal.delta)}
    return Certificate(
        contract=contract,
        questions=len(rows),
        questions_digest=short_digest("".join(sorted(question_ids[row] for row in rows))),
        epsilon=epsilon,
        delta=goal.delta,
        target=target,
        cap=reference.cap,
        tried=tuple(tried),
        policy=policy,
        questions_needed=needed,
        groups=_by_group(results[passed[-1]], loss, groups[rows]) if passed else {},
        statement=_state(policy, goal, reference, bounds, len(rows), needed, one_a_group),
        goal=goal,
        reference=reference,
        proposed=proposed,
        orders=orders,
        bounds=bounds,
        score_map=score_map,
    )


def _by_group(found: Measured, loss: Loss, groups: NDArray[np.str_]) -> dict[str, Group]:
    lost = {str(name): found.loss[groups == name] for name in np.unique(groups)}
    return {n: Group(questions=len(v), failures={loss: float(np.nansum(v))}) for n, v in lost.items()}


def refuted(certificate: Certificate, loss: Array) -> dict[Loss, float]:
    """For each loss that is promised of, the chance of other questions' losses if the promise held."""
    known = loss[~np.isnan(loss)]
    return {name: refutation_p_value(known, risk) for name, risk in certificate.epsilon.items()}


_EVENTS: Mapping[Loss, str] = {
    "lost_hit": "misses a target score that {reference} reach on at most {risk} of questions",
    "changed": "answers differently from {reference} on at most {risk} of questions",
    "lost_accuracy": "gives right answers to at most {risk} of questions fewer than {reference}",
}


def describe(policy: AnyPolicy) -> str:
    """A reference in words."""
    chosen = policy.selection.kind.replace("_", " ")
    return f"{'all ' if policy.cap > 1 else ''}{policy.cap} candidates by {chosen}"


def _state(
    policy: AnyPolicy | None,
    goal: Goal,
    reference: AnyPolicy,
    bounds: Mapping[Loss, float],
    questions: int,
    needed: int | None,
    grouped: bool,
) -> str:
    held = describe(reference)
    confidence = _percent(1 - Decimal(str(goal.delta)))
    if not goal.epsilon:
        (name, bound) = next(iter(bounds.items()))
        return (
            f"Nothing is promised: the goal was {goal.name.replace('_', ' ')}. Against {held}, what is lost "
            f"({name.replace('_', ' ')}) is at most {bound:.1%} of questions, with confidence {confidence}."
        )
    name, risk = next(iter(goal.epsilon.items()))
    if policy is None:
        enough = "no number of questions like these will do: what saves here loses more"
        if needed:
            enough = f"about {needed} calibration questions would do where there are {questions}"
        asked = f"{risk:g} ({name.replace('_', ' ')})"
        instead = f"{held.capitalize()} may be shipped."
        return f"No policy that saves is certified at risk {asked}: {enough}. {instead}"
    unit, counted = ("questions", "questions") if not grouped else ("groups", "one question a group")
    return (
        f"With confidence {confidence} over the draw of calibration {unit}, the policy "
        f"{_EVENTS[name].format(reference=held, risk=_percent(Decimal(str(risk)), 1))}. This is an average "
        f"over {counted} exchangeable with the calibration {unit} (drawn alike, under the same contract): it "
        f"promises nothing of a single question or group."
    )


def _percent(share: Decimal, decimals: int = 0) -> str:
    """With so many decimals, or exactly: rounded, it could promise more than was certified."""
    return max(f"{share:.{decimals}%}", f"{(100 * share).normalize():f}%", key=len)
