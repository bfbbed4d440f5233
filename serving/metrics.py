"""What a person on call looks at: Prometheus series of the gateway."""

import numpy as np
from prometheus_client import Counter, Gauge, Histogram

from models.http_client import Observe
from predictor.decision import State
from predictor.policies import AnyPolicy
from predictor.prior import Prior, PriorBatch
from serving.draws import Answer, Ask

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
DECISIONS = Counter("optscale_decisions", "Decisions by action", ["action", "reason"])
REQUESTS = Counter("optscale_requests", "Answered requests by what ended them", ["ended", "status"])
REFUSED = Counter("optscale_refused", "Requests refused before anything is done for them", ["why"])
DEGRADED = Counter("optscale_degraded", "Answers given though something was away", ["why"])
CANDIDATES = Counter("optscale_candidates", "Candidates by their status", ["status"])
TOKENS = Counter(
    "optscale_tokens",
    "Tokens: generated, thrown_away and cancelled (both part of generated), reward, saved (against the cap)",
    ["kind"],
)
ROUNDS = Histogram("optscale_rounds", "Rounds of a request", buckets=(1, 2, 3, 4, 6, 8, 12, 16, 32))
EXPECTED_HITS = Counter(
    "optscale_expected_hits", "Sum of the chances of a hit within the cap, before drawing"
)
HITS = Counter("optscale_hits", "Answers whose score reached the target")
EXPLORED = Counter("optscale_explored", "Requests drawn to the full cap for the log")
LOST_HITS = Counter(
    "optscale_explored_lost_hits", "Of these, where the cap hit the target and the policy did not"
)
PROMISED_LOSS = Gauge(
    "optscale_promised_lost_hits", "Share of lost hits that the certificate allows", multiprocess_mode="max"
)
UPSTREAM = Histogram(
    "optscale_upstream_seconds", "Seconds of upstream requests", ["upstream"], buckets=SECONDS
)
UPSTREAM_ERRORS = Counter("optscale_upstream_errors", "Upstream requests that failed", ["upstream", "kind"])
IN_FLIGHT = Gauge("optscale_in_flight", "Requests under way", multiprocess_mode="livesum")
OVERHEAD = Histogram("optscale_decision_seconds", "Seconds spent on deciding, a request", buckets=SECONDS)


def observer(upstream: str) -> Observe:
    """What tells an upstream's requests to the series above; a cancelled one is neither fast nor wrong."""
    seconds_of = UPSTREAM.labels(upstream)

    def observe(seconds: float, error: BaseException | None) -> None:
        if error is None:
            seconds_of.observe(seconds)
        elif isinstance(error, Exception):
            UPSTREAM_ERRORS.labels(upstream, type(error).__name__).inc()

    return observe


def count_answer(answer: Answer, ask: Ask, promised: float) -> None:
    """Count what came of a question; ``promised`` is the target that a lost hit is counted at."""
    policy = ask.policy
    DECISIONS.labels(answer.decision.action, answer.decision.reason).inc()
    ROUNDS.observe(answer.rounds)
    OVERHEAD.observe(answer.decision_seconds)
    for draw in answer.draws:
        CANDIDATES.labels(draw.status).inc()
    for why in answer.degraded:
        DEGRADED.labels(why).inc()
    generated = sum(draw.tokens for draw in answer.draws)
    TOKENS.labels("generated").inc(generated)
    TOKENS.labels("thrown_away").inc(generated - (answer.chosen.tokens if answer.chosen else 0))
    TOKENS.labels("cancelled").inc(sum(draw.estimated_tokens for draw in answer.draws))
    TOKENS.labels("reward").inc(reward_tokens(answer))
    left = policy.cap - len(answer.draws)
    TOKENS.labels("saved").inc(generated / max(len(answer.draws), 1) * left)
    EXPECTED_HITS.inc(chance_of_hit(policy, answer.prior))
    seen = [draw.score or 0.0 for draw in answer.draws[: answer.seen]]
    if max(seen, default=0.0) >= policy.target:
        HITS.inc()
    if ask.explore and answer.ended == "decided" and not answer.degraded:
        EXPLORED.inc()
        if max(d.score or 0.0 for d in answer.draws) >= promised > max(seen, default=0.0):
            LOST_HITS.inc()


def reward_tokens(answer: Answer) -> int:
    """Tokens that the reward model read; equal texts were read once."""
    return sum(draw.found.tokens for draw in answer.draws if draw.found and not draw.repeated)


def chance_of_hit(policy: AnyPolicy, prior: Prior) -> float:
    """Chance that one of the cap's candidates reaches the target, before any is drawn."""
    start = State(np.empty((1, 0)), np.zeros(1, dtype=np.int64), PriorBatch.of([prior]))
    return 1 - float(start.no_hit(policy.target, policy.cap)[0, -1])
