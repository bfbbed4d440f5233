"""Certificates: a promise on a policy that held-out questions were asked to refute.

Learn-then-Test (Angelopoulos et al., arXiv 2110.01052) over a fixed sequence: policies are ordered on
tune questions, from the full cap to the cheapest, and tested one by one on calibration questions
until the first that fails. A later one is only tested when all before it passed, so no correction for
their number is due: the chance that any certified policy breaks the promise is at most delta.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from predictor.contract import require_same_contract
from predictor.decision import Array
from predictor.errors import ConfigError
from predictor.policies import AnyPolicy, FixedN, Value
from predictor.prior import Beliefs
from predictor.replay import Candidates, Outcome, outcome
from predictor.settings import Settings

Loss = Literal["lost_hit", "lost_answer"]
LOSSES: tuple[Loss, ...] = ("lost_hit", "lost_answer")


class Tested(Settings):
    """One policy of the sequence and what calibration said of it."""

    policy: AnyPolicy
    tokens: float
    """Mean generated tokens a question on calibration questions."""
    rounds: float
    failures: dict[Loss, int]
    """Calibration questions on which the loss was 1."""
    p_value: float
    """Chance of so few failures if the risk were epsilon; the larger over the losses."""
    passed: bool


class Group(Settings):
    """How the certified policy did on one group of calibration questions; no promise is made of it."""

    questions: int
    failures: dict[Loss, int]


class Certificate(Settings):
    """What was promised, on which questions, with which test; JSON in and out."""

    contract: str
    """Fingerprint of the score contract."""
    questions: int
    """Calibration questions."""
    questions_digest: str
    """Digest of their ids."""
    epsilon: float
    """Risk: the share of questions with a loss that is promised not to be exceeded."""
    delta: float
    """Chance that the promise is wrong all the same, over the draw of calibration questions."""
    target: float
    cap: int
    losses: tuple[Loss, ...]
    """``lost_hit``: the full cap reaches the target, the policy does not. ``lost_answer``: the answer
    the full cap selects is right, the policy's is wrong. Both on the same order of candidates."""
    test: str = "Learn-then-Test, fixed sequence, exact binomial"
    tried: tuple[Tested, ...]
    policy: AnyPolicy | None
    """The cheapest policy that passed; None where not even the full cap can be told to."""
    questions_needed: int | None
    """Where none passed: about how many calibration questions the first one needs."""
    groups: dict[str, Group]
    statement: str

    def require_contract(self, fingerprint: str) -> None:
        """Raise ContractError unless it speaks of these scores."""
        require_same_contract(self.contract, fingerprint, "certificate")


def require_risk(epsilon: float, delta: float) -> None:
    """Raise ConfigError unless both lie strictly between 0 and 1."""
    for name, value in (("epsilon", epsilon), ("delta", delta)):
        if not 0 < value < 1:
            raise ConfigError(f"{name} is {value}; it must lie strictly between 0 and 1")


def risk_p_value(failures: int, questions: int, epsilon: float) -> float:
    """P(at most this many failures) if each question failed with chance epsilon; small speaks for it."""
    return float(binom.cdf(failures, questions, epsilon))


def refutation_p_value(failures: int, questions: int, epsilon: float) -> float:
    """P(at least ``failures`` of ``questions``) at risk epsilon: small speaks against the promise."""
    return float(binom.sf(failures - 1, questions, epsilon))


def questions_needed(failure_rate: float, epsilon: float, delta: float) -> int | None:
    """About how many questions certify a policy with this failure rate: ln(1/delta) / KL(r || epsilon).

    None where the rate is not below epsilon, so that no number will do.
    """
    if failure_rate >= epsilon:
        return None
    r = failure_rate
    divergence = (1 - r) * np.log((1 - r) / (1 - epsilon)) + (r * np.log(r / epsilon) if r else 0.0)
    return int(np.ceil(np.log(1 / delta) / divergence))


def ladder(target: float, cap: int, candidate_tokens: float, round_candidates: float) -> Sequence[AnyPolicy]:
    """The policies that compete: value of information at rising token prices, at and above the target.

    A target above the one promised for is how a policy keeps the answers that a first hit would lose.
    ``round_candidates`` is the price of a round, in candidates of average length.
    """
    targets = sorted({target, *(np.round((target + (1 - target) * np.array([0.25, 0.5, 0.75])) * 200) / 200)})
    prices = np.geomspace(1e-4, 0.1, 13) / candidate_tokens
    return [FixedN(target=target, cap=cap)] + [
        Value(
            target=float(aim),
            cap=cap,
            token_price=float(price),
            candidate_tokens=candidate_tokens,
            round_price=float(price * candidate_tokens * round_candidates),
        )
        for aim in targets
        for price in prices
    ]


def cost(found: Outcome, candidate_tokens: float, round_candidates: float) -> float:
    """Mean price of a question, in generated tokens: those drawn, and the rounds at their price."""
    return float((found.tokens + found.rounds * candidate_tokens * round_candidates).mean())


def order(policies: Sequence[AnyPolicy], found: Sequence[Outcome], costs: Sequence[float]) -> list[AnyPolicy]:
    """The fixed sequence, from tune outcomes: from the dearest to the cheapest, without those beaten.

    A policy stays if no other costs as little and loses as little. The first is the one given first.
    """
    risks = [max(_rates(o).values()) for o in found]
    places = sorted(range(1, len(policies)), key=lambda i: (costs[i], risks[i]))
    kept, least = [], np.inf
    for place in places:
        if risks[place] < least:
            kept.append(place)
            least = risks[place]
    return [policies[0], *(policies[i] for i in reversed(kept))]


def certify(
    sequence: Sequence[AnyPolicy],
    candidates: Candidates,
    beliefs: Beliefs | None,
    *,
    target: float,
    cap: int,
    epsilon: float,
    delta: float,
    contract: str,
    question_ids: Sequence[str],
    groups: NDArray[np.str_],
) -> Certificate:
    """Test the sequence on calibration questions, in the pool's own order of candidates.

    Raises
    ------
    ConfigError
        If epsilon or delta is out of range, the sequence is empty, or there is no question.
    """
    require_risk(epsilon, delta)
    if not sequence or not len(candidates.scores):
        raise ConfigError("a certificate needs at least one policy and one calibration question")
    tried: list[Tested] = []
    best: tuple[AnyPolicy, Outcome] | None = None
    losses = LOSSES if not np.isnan(candidates.correct).all() else LOSSES[:1]
    for policy in sequence:
        found = outcome(policy, candidates, beliefs, target)
        counted = {name: _count(getattr(found, name)) for name in losses}
        p_value = max(risk_p_value(bad, of, epsilon) for bad, of in counted.values())
        tried.append(
            Tested(
                policy=policy,
                tokens=float(found.tokens.mean()),
                rounds=float(found.rounds.mean()),
                failures={name: bad for name, (bad, _) in counted.items()},
                p_value=p_value,
                passed=p_value <= delta,
            )
        )
        if p_value > delta:
            break
        best = policy, found
    fewest = min(of for _, of in counted.values())
    first = tried[0]
    needed = None if best else questions_needed(max(first.failures.values()) / fewest, epsilon, delta)
    by_group = {}
    if best is not None:
        for name in np.unique(groups):
            inside = groups == name
            failures = {loss: _count(getattr(best[1], loss)[inside])[0] for loss in losses}
            by_group[str(name)] = Group(questions=int(inside.sum()), failures=failures)
    digest = hashlib.sha256("".join(sorted(question_ids)).encode()).hexdigest()[:16]
    return Certificate(
        contract=contract,
        questions=len(candidates.scores),
        questions_digest=digest,
        epsilon=epsilon,
        delta=delta,
        target=target,
        cap=cap,
        losses=losses,
        tried=tuple(tried),
        policy=best[0] if best else None,
        questions_needed=needed,
        groups=by_group,
        statement=_state(best is not None, losses, epsilon, delta, cap, needed),
    )


def refuted(certificate: Certificate, found: Outcome) -> dict[Loss, float]:
    """For each loss, the chance of so many failures on other questions if the promise held."""
    counted = {name: _count(getattr(found, name)) for name in certificate.losses}
    return {name: refutation_p_value(bad, of, certificate.epsilon) for name, (bad, of) in counted.items()}


def _rates(found: Outcome) -> dict[str, float]:
    values = {name: getattr(found, name) for name in LOSSES}
    return {name: float(np.nanmean(v)) for name, v in values.items() if not np.isnan(v).all()}


def _count(losses: Array) -> tuple[int, int]:
    known = losses[~np.isnan(losses)]
    return int(known.sum()), known.size


_WORDS: Mapping[Loss, str] = {
    "lost_hit": "misses a target score that all {cap} candidates reach",
    "lost_answer": "gives a wrong answer where the best of all {cap} candidates is right",
}


def _state(
    found: bool, losses: Sequence[Loss], epsilon: float, delta: float, cap: int, needed: int | None
) -> str:
    if not found:
        more = f"about {needed} are needed" if needed else "no number of questions like these will do"
        return f"No policy is certified at risk {epsilon:g}: too few calibration questions; {more}."
    events = " and ".join(f"{_WORDS[name].format(cap=cap)} for at most {epsilon:.1%}" for name in losses)
    return (
        f"With confidence {1 - delta:.0%} over the draw of calibration questions, the policy {events} of "
        "questions. This is an average over questions exchangeable with the calibration questions (drawn "
        "alike, scored under the same contract): it promises nothing of a single question or group."
    )
