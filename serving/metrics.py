"""What a person on call looks at: Prometheus series of the gateway."""

import numpy as np
from prometheus_client import Counter, Gauge, Histogram

from predictor.certificate import Certificate
from predictor.policies import AnyPolicy
from predictor.prior import Prior, PriorBatch
from predictor.state import State
from serving.alarms import Alarms
from serving.draws import Answer

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
DECISIONS = Counter("optscale_decisions", "Decisions by action", ["action", "reason"])
REQUESTS = Counter("optscale_requests", "Answered requests by what ended them", ["ended", "status"])
FEEDBACK = Counter("optscale_feedback", "Verdicts on answers", ["verdict"])
REFUSED = Counter("optscale_refused", "Requests refused before anything is done for them", ["why"])
PASSTHROUGH = Counter("optscale_passthrough", "Requests that the generator answered alone", ["why", "status"])
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
ALARM = Gauge(
    "optscale_alarm",
    "Whether the monitor has seen the statistic leave its limits",
    ["statistic"],
    multiprocess_mode="mostrecent",
)
LOOKED = Gauge(
    "optscale_monitor_timestamp_seconds",
    "When the monitor last looked, seconds since 1970; 0: never at this champion",
    multiprocess_mode="mostrecent",
)
CERTIFIED = Gauge(
    "optscale_certificate_timestamp_seconds",
    "When what is promised was certified, seconds since 1970; 0: nothing is promised, or when is not known",
    multiprocess_mode="mostrecent",
)
CERTIFICATE_USES = Gauge(
    "optscale_certificate_uses",
    "How often its questions were certified on, this time included",
    multiprocess_mode="mostrecent",
)
UPSTREAM = Histogram(
    "optscale_upstream_seconds", "Seconds of upstream requests", ["upstream"], buckets=SECONDS
)
UPSTREAM_ERRORS = Counter("optscale_upstream_errors", "Upstream requests that failed", ["upstream", "kind"])
KEY_REQUESTS = Counter("optscale_key_requests", "Requests to OpenAI's routes by API key", ["key"])
KEY_TOKENS = Counter("optscale_key_tokens", "Generated tokens by API key", ["key"])
LOG_LOST = Counter("optscale_log_lost", "Decisions that could not be written to the log")
TRAINED_AT = Gauge(
    "optscale_trained_timestamp_seconds",
    "When retrain last made a challenger, seconds since 1970; 0: not yet",
    multiprocess_mode="mostrecent",
)
CHAMPION_SINCE = Gauge(
    "optscale_champion_since_seconds", "When the champion was named, from 1970", multiprocess_mode="max"
)
IN_FLIGHT = Gauge("optscale_in_flight", "Requests under way", multiprocess_mode="livesum")
OVERHEAD = Histogram("optscale_decision_seconds", "Seconds spent on deciding, a request", buckets=SECONDS)


def show_alarms(found: Alarms, version: str | None, certificate: Certificate | None) -> None:
    """What the monitor found of the champion that is served, and how old and used its certificate is."""
    known = found if found.version == version else Alarms()  # not of another, who is champion no more
    standing = {alarm.statistic for alarm in known.standing}
    for statistic in found.statistics:
        ALARM.labels(statistic).set(statistic in standing)
    LOOKED.set(known.looked.timestamp() if known.looked else 0)
    promised = certificate if certificate is not None and certificate.certified else None
    CERTIFIED.set(promised.made.timestamp() if promised and promised.made else 0)
    CERTIFICATE_USES.set((promised.uses or 0) if promised else 0)


def observe(upstream: str, seconds: float, error: BaseException | None) -> None:
    """Count a request to an upstream; a cancelled one is neither fast nor wrong."""
    if error is None:
        UPSTREAM.labels(upstream).observe(seconds)
    elif isinstance(error, Exception):
        UPSTREAM_ERRORS.labels(upstream, type(error).__name__).inc()


def count_answer(answer: Answer, promised: float) -> None:
    """Count what came of a question; ``promised`` is the target that a lost hit is counted at."""
    policy, tokens, drawn = answer.ask.policy, answer.tokens, len(answer.draws)
    DECISIONS.labels(answer.decision.action, answer.decision.reason).inc()
    ROUNDS.observe(answer.rounds)
    OVERHEAD.observe(answer.decision_seconds)
    for draw in answer.draws:
        CANDIDATES.labels(draw.status).inc()
    for why in answer.degraded:
        DEGRADED.labels(why.partition(":")[0]).inc()  # what a server said of it is no label
    TOKENS.labels("generated").inc(tokens.generated)
    TOKENS.labels("thrown_away").inc(tokens.thrown_away)
    TOKENS.labels("cancelled").inc(tokens.cancelled_estimate)
    TOKENS.labels("reward").inc(tokens.reward)
    TOKENS.labels("saved").inc(tokens.generated / max(drawn, 1) * (policy.cap - drawn))
    if answer.prior is not None:
        EXPECTED_HITS.inc(chance_of_hit(policy, answer.prior))
    best = max((draw.score or 0.0 for draw in answer.draws[: answer.seen]), default=0.0)
    if best >= policy.target:
        HITS.inc()
    if answer.ask.explore and answer.ended == "decided" and not answer.degraded:
        EXPLORED.inc()
        if max(draw.score or 0.0 for draw in answer.draws) >= promised > best:
            LOST_HITS.inc()


def chance_of_hit(policy: AnyPolicy, prior: Prior) -> float:
    """Chance that one of the cap's candidates reaches the target, before any is drawn."""
    return 1 - float(undrawn(prior).no_hit(policy.target, policy.cap)[0, -1])


def undrawn(prior: Prior) -> State:
    """A question of which nothing was drawn."""
    return State(np.empty((1, 0)), np.zeros(1, dtype=np.int64), PriorBatch.of([prior]))
