"""Certificates: promises about a policy, tested on held-out questions.

Learn-then-Test (Angelopoulos et al., arXiv 2110.01052) over fixed sequences: policies whose risk rises
along a sequence are tested one by one on calibration questions until the first that fails. A later one
is only tested when all before it passed, so no correction for their number is due. There is a sequence
for each target; the full cap comes before all of them, and where it passes, they share delta equally
(a graphical test, Bretz et al., Stat. Med. 28, 2009): the chance that any certified policy breaks the
promise is at most delta.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data.candidates import Candidates
from data.contract import require_same_contract
from data.errors import ConfigError
from data.record import Record
from predictor.decision import Array
from predictor.families import BINS
from predictor.policies import AnyPolicy, Value
from predictor.prior import PriorBatch
from predictor.replay import Outcome, outcomes
from predictor.risk import questions_needed, refutation_p_value, risk_p_value

Loss = Literal["lost_hit", "lost_answer", "lost_accuracy"]
SIGNED: Loss = "lost_accuracy"
"""The loss that can be -1."""


class Tested(Record):
    """One policy of the sequence and its test on calibration questions."""

    policy: AnyPolicy
    tokens: float
    """Mean generated tokens a question on calibration questions."""
    rounds: float
    failures: dict[Loss, int]
    """Sum of each loss over calibration questions."""
    p_value: float
    """Chance of so few failures if the risk were epsilon; the largest over the losses."""
    level: float
    """Most that the p-value may be: delta, or this sequence's share of it."""
    passed: bool


class Group(Record):
    """Failures of the certified policy in one group of calibration questions; nothing is promised of it."""

    questions: int
    failures: dict[Loss, int]


class Certificate(Record):
    """A promise, the questions and the test that it rests on; JSON in and out."""

    contract: str
    """Fingerprint of the score contract."""
    questions: int
    """Calibration questions."""
    questions_digest: str
    """Digest of their ids."""
    epsilon: dict[Loss, float]
    """Risk of each loss that is promised of: the share of questions with it, not to be exceeded.
    ``lost_hit``: the full cap reaches the target, the policy does not. ``lost_answer``: the answer the
    full cap selects is right, the policy's is wrong. ``lost_accuracy``: the same less the answers that
    the policy has right and the full cap wrong. All on the same order of candidates."""
    delta: float
    """Chance that the promise is wrong all the same, over the draw of calibration questions."""
    target: float
    cap: int
    test: str = "Learn-then-Test, fixed sequences, exact tests"
    tried: tuple[Tested, ...]
    policy: AnyPolicy | None
    """The cheapest policy that passed; None if not even the full cap passes."""
    questions_needed: int | None
    """Where none passed: about how many calibration questions the first one needs."""
    groups: dict[str, Group]
    statement: str

    def require_contract(self, fingerprint: str) -> None:
        """Raise ContractError unless it speaks of these scores."""
        require_same_contract(self.contract, fingerprint, "certificate")


def require_risk(epsilon: Mapping[Loss, float], delta: float) -> None:
    """Raise ConfigError unless all lie strictly between 0 and 1, and there is a loss to promise of."""
    if not epsilon:
        raise ConfigError("nothing is promised: give a risk for lost_hit, lost_answer or lost_accuracy")
    for name, value in (*epsilon.items(), ("delta", delta)):
        if not 0 < value < 1:
            raise ConfigError(f"{name} is {value}; it must lie strictly between 0 and 1")


def aims(target: float) -> list[float]:
    """Targets at or above the one promised for.

    A policy that aims higher keeps answers that a first hit would lose.
    """
    higher = np.round((target + (1 - target) * np.array([0.25, 0.5, 0.75])) * BINS) / BINS
    return np.unique([target, *higher[higher < 1]]).tolist()  # a score of 1 shares the last bin


def price_sequences(
    target: float, cap: int, candidate_tokens: float, round_candidates: float, above: bool = True
) -> list[list[Value]]:
    """The policies that compete: a sequence a target, value of information at rising token prices.

    ``above`` adds targets above the one promised for. ``round_candidates`` is the price of a round, in
    candidates of average length.
    """
    prices = np.geomspace(1e-5, 0.05, 20) / candidate_tokens
    return [
        [
            Value(
                target=aim,
                cap=cap,
                token_price=float(price),
                candidate_tokens=candidate_tokens,
                round_price=float(price * candidate_tokens * round_candidates),
            )
            for price in prices
        ]
        for aim in (aims(target) if above else [target])
    ]


def drop_dominated(policies: Sequence[AnyPolicy], costs: Sequence[float]) -> list[AnyPolicy]:
    """The sequence without policies that cost no less on tune questions than one before them."""
    least = np.minimum.accumulate([np.inf, *costs[:-1]])
    return [policy for policy, price, before in zip(policies, costs, least, strict=True) if price < before]


def cost(outcome: Outcome, candidate_tokens: float, round_candidates: float) -> float:
    """Mean price of a question, in generated tokens: those drawn, and the rounds at their price."""
    return float((outcome.tokens + outcome.rounds * candidate_tokens * round_candidates).mean())


def certify(
    first: AnyPolicy,
    sequences: Sequence[Sequence[AnyPolicy]],
    candidates: Candidates,
    priors: PriorBatch | None,
    *,
    price: Callable[[Outcome], float] = lambda outcome: float(outcome.tokens.mean()),
    target: float,
    cap: int,
    epsilon: Mapping[Loss, float],
    delta: float,
    contract: str,
    question_ids: Sequence[str],
    groups: NDArray[np.str_],
) -> Certificate:
    """Test ``first``, then the sequences, on calibration questions in the pool's own order of candidates.

    Of those that pass the cheapest by ``price`` is chosen. Where no answer is known, nothing is promised
    of answers.

    Raises
    ------
    ConfigError
        If epsilon or delta is out of range, or there is no question.
    """
    if np.isnan(candidates.correct).all():
        epsilon = {loss: risk for loss, risk in epsilon.items() if loss == "lost_hit"}
    require_risk(epsilon, delta)
    if not len(candidates.scores):
        raise ConfigError("a certificate needs at least one calibration question")
    # All at once, since policies beside each other share most of the work.
    entries = dict(enumerate([first, *(policy for sequence in sequences for policy in sequence)]))
    results = outcomes(entries, candidates, priors, target=target)
    tried: dict[int, Tested] = {}

    def passes(entry: int, level: float) -> bool:
        tried[entry] = _test(entries[entry], results[entry], epsilon, level)
        return tried[entry].passed

    needed, start = None, 1
    if passes(0, delta):
        for sequence in sequences:
            all(passes(start + place, delta / len(sequences)) for place in range(len(sequence)))
            start += len(sequence)
    else:
        losses = {name: _known(getattr(results[0], name)) for name in epsilon}
        each = [questions_needed(losses[n], risk, delta, n == SIGNED) for n, risk in epsilon.items()]
        needed = None if None in each else max(n for n in each if n is not None)
    passed = [entry for entry, test in tried.items() if test.passed]
    best = min(passed, key=lambda entry: price(results[entry]), default=None)
    return Certificate(
        contract=contract,
        questions=len(candidates.scores),
        questions_digest=hashlib.sha256("".join(sorted(question_ids)).encode()).hexdigest()[:16],
        epsilon=dict(epsilon),
        delta=delta,
        target=target,
        cap=cap,
        tried=tuple(tried.values()),
        policy=None if best is None else entries[best],
        questions_needed=needed,
        groups={} if best is None else _by_group(results[best], epsilon, groups),
        statement=_state(best is not None, epsilon, delta, cap, needed),
    )


def _test(policy: AnyPolicy, outcome: Outcome, epsilon: Mapping[Loss, float], level: float) -> Tested:
    losses = {name: _known(getattr(outcome, name)) for name in epsilon}
    p_value = max(risk_p_value(losses[name], risk, name == SIGNED) for name, risk in epsilon.items())
    return Tested(
        policy=policy,
        tokens=float(outcome.tokens.mean()),
        rounds=float(outcome.rounds.mean()),
        failures={name: int(values.sum()) for name, values in losses.items()},
        p_value=p_value,
        level=level,
        passed=p_value <= level,
    )


def _by_group(outcome: Outcome, losses: Iterable[Loss], groups: NDArray[np.str_]) -> dict[str, Group]:
    def of(inside: NDArray[np.bool_]) -> Group:
        failures = {name: int(np.nansum(getattr(outcome, name)[inside])) for name in losses}
        return Group(questions=int(inside.sum()), failures=failures)

    return {str(name): of(groups == name) for name in np.unique(groups)}


def refuted(certificate: Certificate, outcome: Outcome) -> dict[Loss, float]:
    """For each loss, the chance of so many failures on other questions if the promise held."""
    return {
        name: refutation_p_value(_known(getattr(outcome, name)), risk, name == SIGNED)
        for name, risk in certificate.epsilon.items()
    }


def _known(losses: Array) -> Array:
    return losses[~np.isnan(losses)]


_EVENTS: Mapping[Loss, str] = {
    "lost_hit": "misses a target score that all {cap} candidates reach on at most {risk} of questions",
    "lost_answer": (
        "gives a wrong answer where the best of all {cap} candidates is right on at most {risk} of questions"
    ),
    "lost_accuracy": (
        "gives right answers to at most {risk} of questions fewer than the best of all {cap} candidates"
    ),
}


def _state(certified: bool, epsilon: Mapping[Loss, float], delta: float, cap: int, needed: int | None) -> str:
    if not certified:
        asked = " and ".join(f"{risk:g} ({name.replace('_', ' ')})" for name, risk in epsilon.items())
        enough = f"about {needed} are needed" if needed else "no number of questions like these will do"
        return f"No policy is certified at risk {asked}: too few calibration questions; {enough}."
    risks = {name: _percent(Decimal(str(risk)), 1) for name, risk in epsilon.items()}
    events = "; it ".join(_EVENTS[name].format(cap=cap, risk=risk) for name, risk in risks.items())
    return (
        f"With confidence {_percent(1 - Decimal(str(delta)))} over the draw of calibration questions, the "
        f"policy {events}. This is an average over questions exchangeable with the calibration questions "
        "(drawn alike, scored under the same contract): it promises nothing of a single question or group."
    )


def _percent(share: Decimal, decimals: int = 0) -> str:
    """With so many decimals, or exactly: rounded, it could promise more than was certified."""
    return max(f"{share:.{decimals}%}", f"{(100 * share).normalize():f}%", key=len)
