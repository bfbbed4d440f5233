"""From a chat request to its answer: what is asked of Best-of-N, and what is told of it."""

import asyncio
import contextlib
import math
import random
import time
from collections.abc import AsyncIterator
from statistics import median
from typing import Any, Literal, NamedTuple

import numpy as np
from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor
from opentelemetry.trace import TracerProvider
from pydantic import TypeAdapter, ValidationError

from data.contract import ScoreContract, require_same_contract
from data.decision_log import DecisionLog
from data.errors import ConfigError, OptScaleError
from data.validation import explain
from models.generator.http import AsyncHttpGenerator
from models.http_client import require_served
from models.reward.http import AsyncHttpRewardModel
from predictor.decision import decide
from predictor.policies import AnyPolicy
from predictor.prior import Prior
from serving import metrics
from serving.best_of_n import SEEDS, BestOfN, PriorSource
from serving.bundle import BundleCard
from serving.chat import ChatRequest, ChatResponse, Explanation, Tokens, Usage, make_response
from serving.draws import Answer, Ask, log_row
from serving.errors import RequestError
from serving.settings import GatewaySettings

_POLICY: TypeAdapter[AnyPolicy] = TypeAdapter(AnyPolicy)


class Outcome(NamedTuple):
    """An answered request."""

    response: ChatResponse
    question_id: str


class Gateway:
    """Answers chat requests with the best of as many candidates as the policy asks for."""

    def __init__(
        self, card: BundleCard, settings: GatewaySettings, prior_source: PriorSource, population: Prior
    ) -> None:
        self.card, self.settings = card, settings
        self.generator = AsyncHttpGenerator(settings.generator)
        self.reward = AsyncHttpRewardModel(settings.reward)
        self.contract = ScoreContract(
            **self.generator.identity,
            **self.reward.identity,
            sampling=settings.generator.sampling,
            aggregation=settings.reward.aggregation,
            decimals=card.contract.decimals,
        )
        require_same_contract(card.contract.fingerprint, self.contract.fingerprint, "gateway settings")
        self.best_of_n = BestOfN(
            self.generator,
            self.reward,
            prior_source,
            self.contract,
            population,
            per_request=settings.per_request,
            agreement=settings.agreement if settings.without_reward == "agreement" else None,
            prior_timeout=settings.predictor_timeout,
            observe_generator=metrics.observer("generator"),
            observe_reward=metrics.observer("reward model"),
        )
        log, folder = settings.log, settings.log.location()
        self.log = None if folder is None else DecisionLog(folder, log.rows, log.seconds, log.files)
        self.in_flight = 0
        self.latest: list[float] = []  # seconds of the last requests
        self.asked, self.missing = -math.inf, list[str]()  # when it was asked what is away, and what was
        self.asking = asyncio.Lock()
        self.chance = random.SystemRandom()
        if card.certificate is not None and card.certificate.policy is not None:
            metrics.PROMISED_LOSS.set(card.certificate.epsilon.get("lost_hit", 1.0))
        decide(card.policy, [], population)  # fills the tables that every decision reads

    @contextlib.asynccontextmanager
    async def running(self, tracer_provider: TracerProvider | None = None) -> AsyncIterator[None]:
        """Trace the upstream clients and write the log until the block ends; then close them."""
        clients = [self.generator.client, self.reward.client]
        for client in clients:
            http: Any = client._client  # of OpenAI's client it is what can be traced
            HTTPX2ClientInstrumentor.instrument_client(http, tracer_provider)
        async with contextlib.AsyncExitStack() as stack:
            for client in clients:
                stack.push_async_callback(client.close)
            if self.log is not None:
                await stack.enter_async_context(self.log.running())
            yield

    async def away(self) -> list[str]:
        """What does not answer now, in words; empty where all is in order.

        Anybody may ask; the servers are asked every other second at most.
        """
        asked = (
            ("generator", self.generator.client, self.settings.generator),
            ("reward model", self.reward.client, self.settings.reward),
        )

        async def ask(name: str, client: Any, settings: Any) -> str | None:
            try:
                async with asyncio.timeout(5):
                    await require_served(client.with_options(max_retries=0), settings)
            except (OptScaleError, TimeoutError) as error:
                return f"{name}: {error or 'does not answer'}"
            return None

        async with self.asking:
            if time.monotonic() > self.asked + 2:
                self.missing = [why for why in await asyncio.gather(*(ask(*one) for one in asked)) if why]
                self.asked = time.monotonic()
            return self.missing

    async def answer(self, request: ChatRequest, request_id: str) -> Outcome:
        """Answer a request.

        Raises
        ------
        RequestError
            If it cannot be answered: as it is, now, or at all.
        """
        if self.in_flight >= self.settings.requests:
            metrics.REFUSED.labels("overload").inc()
            busy = f"{self.in_flight} requests are under way; try later"
            raise RequestError(429, busy, "overloaded_error", headers={"retry-after": self._retry_after()})
        self.in_flight += 1
        metrics.IN_FLIGHT.inc()
        started = time.monotonic()
        try:
            ask = self._ask(request)
            return await self._answer(request, request_id, ask, started)
        finally:
            self.in_flight -= 1
            metrics.IN_FLIGHT.dec()

    async def _answer(self, request: ChatRequest, request_id: str, ask: Ask, started: float) -> Outcome:
        # A copy would keep the cached fingerprint of the original.
        sampled = ScoreContract.model_validate(self.contract.model_dump() | {"sampling": ask.sampling})

        def record(answer: Answer) -> None:
            certified = self.card.certificate if ask.policy == self.card.policy else None
            metrics.count_answer(answer, ask, certified.target if certified else ask.policy.target)
            if answer.ended == "disconnected":
                metrics.REQUESTS.labels(answer.ended, 499).inc()
            if self.log is not None and answer.draws:
                seconds = time.monotonic() - started
                self.log.add(log_row(answer, ask, sampled, request_id, seconds, self.settings.log.text))

        answer = await self.best_of_n.answer(ask, on_cancel=record)
        record(answer)
        seconds = time.monotonic() - started
        self.latest = [*self.latest[-49:], seconds]
        if answer.chosen is None or answer.chosen.candidate is None:
            refusal = _no_answer(answer)
            metrics.REQUESTS.labels(answer.ended, refusal.status_code).inc()
            raise refusal
        metrics.REQUESTS.labels(answer.ended, 200).inc()
        candidate = answer.chosen.candidate
        explanation = self._explain(answer, ask, sampled, request_id, seconds)
        prompt = max(draw.candidate.prompt_tokens for draw in answer.draws if draw.candidate)
        generated = explanation.tokens.generated
        usage = Usage(prompt_tokens=prompt, completion_tokens=generated, total_tokens=prompt + generated)
        finish: Literal["stop", "length"] = "stop" if candidate.status == "complete" else "length"
        response = make_response(request.model, candidate.text or "", finish, usage, explanation)
        return Outcome(response, ask.question.id)

    def _ask(self, request: ChatRequest) -> Ask:
        """What a request asks of Best-of-N."""
        if request.model != self.settings.generator.model:
            message = f"there is no model {request.model!r} here; GET /v1/models lists what there is"
            raise RequestError(404, message, param="model")
        wishes, settings = request.optscale, self.settings
        sampling = request.sampling(settings.generator.sampling)
        if request.seed is not None and not settings.generator.seeds:
            raise _bad("the generator behind this server takes no seed", "seed")
        deadline = (wishes and wishes.deadline) or settings.deadline
        if deadline > settings.longest_deadline:
            raise _bad(f"a deadline is at most {settings.longest_deadline:g} s here", "optscale.deadline")
        budget = wishes.token_budget if wishes else None
        if budget is not None and budget < sampling.max_tokens:
            raise _bad(
                f"a token budget must have room for one candidate of max_tokens, {sampling.max_tokens}",
                "optscale.token_budget",
            )
        policy = self._policy(request)
        # What asks for something special is no draw of what is certified, and a seed asks to be repeated.
        plain = wishes is None and request.seed is None and policy == self.card.policy
        plain &= sampling == settings.generator.sampling
        share = settings.log.explore if plain and self.log is not None else 0.0
        return Ask(
            question=request.question(),
            policy=policy,
            sampling=sampling,
            seed=(self.chance.randrange(SEEDS) if request.seed is None else request.seed) % SEEDS,
            deadline=asyncio.get_running_loop().time() + deadline,
            token_budget=budget,
            ahead=settings.ahead if wishes is None or wishes.ahead is None else wishes.ahead,
            explore=self.chance.random() < share,
            share=share,
            more={} if request.user is None else {"user": request.user},
        )

    def _policy(self, request: ChatRequest) -> AnyPolicy:
        policy, wishes = self.card.policy, request.optscale
        changes: dict[str, Any] = {}
        if request.n is not None:
            if request.n > policy.cap:
                raise _bad(f"n is the most candidates that are drawn, at most {policy.cap} here", "n")
            changes |= {"cap": request.n, "floor": min(policy.floor, request.n)}
        if wishes is not None and wishes.target is not None:
            changes["target"] = wishes.target
        if wishes is not None and wishes.confidence is not None:
            if "confidence" not in type(policy).model_fields:
                raise _bad(f"the policy here, {policy.kind}, has no confidence", "optscale.confidence")
            changes["confidence"] = wishes.confidence
        if not changes:
            return policy
        try:
            changed = _POLICY.validate_python(policy.model_dump() | changes)
            metrics.chance_of_hit(changed, self.best_of_n.population)  # the family knows no other targets
            return changed
        except (ValidationError, ConfigError) as error:
            raise _bad(_first_line(error), "optscale") from error

    def _explain(
        self, answer: Answer, ask: Ask, sampled: ScoreContract, request_id: str, seconds: float
    ) -> Explanation:
        chosen, draws, policy = answer.chosen, answer.draws, ask.policy
        assert chosen is not None
        generated = sum(draw.tokens for draw in draws)
        score = chosen.score
        # A token budget may shorten a round before it ends the drawing.
        as_certified = policy == self.card.policy and sampled == self.contract
        as_certified &= ask.token_budget is None and not answer.degraded
        certificate = self.card.certificate
        chance = None
        if self.card.correctness is not None and score is not None and sampled == self.contract:
            drawn = sum(draw.candidate is not None for draw in answer.shown)
            told = self.card.correctness.predict(score, drawn, answer.prior.moments()[0])
            chance = float(np.squeeze(told))
        return Explanation(
            request_id=request_id,
            prior=answer.prior,
            rounds=answer.rounds,
            drawn=answer.seen,
            scores=[draw.score for draw in draws[: answer.seen]],
            cancelled=sum(draw.status == "cancelled" for draw in draws),
            decision=answer.decision,
            ended=answer.ended,
            degraded=list(answer.degraded),
            score=score,
            target=policy.target,
            cap=policy.cap,
            hit=score is not None and score >= policy.target,
            chance_correct=chance,
            explored=ask.explore,
            contract=sampled.fingerprint,
            promise=certificate.statement if certificate and certificate.policy and as_certified else None,
            tokens=Tokens(
                generated=generated,
                thrown_away=generated - chosen.tokens,
                cancelled_estimate=sum(draw.estimated_tokens for draw in draws),
                reward=metrics.reward_tokens(answer),
            ),
            seconds=seconds,
        )

    def _retry_after(self) -> str:
        """Seconds in which a request under way has probably ended."""
        return str(max(1, math.ceil(median(self.latest))) if self.latest else 1)


def _no_answer(answer: Answer) -> RequestError:
    """Why there is nothing to answer with."""
    reason = f": {_first_line(answer.error)}" if answer.error else ""
    match answer.ended:
        case "deadline":
            return RequestError(504, f"no candidate was ready by the deadline{reason}", "timeout_error")
        case "reward model":
            return RequestError(503, f"the reward model gave no score{reason}", "upstream_error")
    if getattr(answer.error, "status_code", None) in {400, 413, 422}:
        return RequestError(400, f"the generator refused the request{reason}")
    return RequestError(502, f"the generator gave no candidate{reason}", "upstream_error")


def _bad(message: str, param: str) -> RequestError:
    return RequestError(400, message, param=param)


def _first_line(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        return explain(error.errors()[:1], AnyPolicy)
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
