"""From a chat request to its answer: what is asked of Best-of-N, and what is said of its answer."""

import asyncio
import contextlib
import math
import random
import time
from collections import deque
from collections.abc import AsyncIterator
from statistics import median
from typing import Any

from cachetools import TTLCache
from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor
from opentelemetry.trace import TracerProvider
from pydantic import TypeAdapter, ValidationError

from data.contract import UNSCORED, ScoreContract, require_same_contract
from data.decision_log import DecisionLog
from data.errors import ConfigError, OptScaleError
from data.validation import explain
from models.generator.http import AsyncHttpGenerator
from models.http_client import require_served
from models.reward.http import AsyncHttpRewardModel
from predictor.decision import decide
from predictor.policies import AnyPolicy
from serving import metrics
from serving.best_of_n import SEEDS, BestOfN
from serving.bundle import Bundle
from serving.chat import ChatRequest, ChatResponse, Explanation, Options, make_response
from serving.draws import Answer, Ask, log_row
from serving.errors import RequestError
from serving.keys import CALLER
from serving.priors import PriorSource
from serving.settings import GatewaySettings

_POLICY: TypeAdapter[AnyPolicy] = TypeAdapter(AnyPolicy)


class Gateway:
    """Answers chat requests with the best of as many candidates as the policy asks for."""

    def __init__(self, bundle: Bundle, settings: GatewaySettings, prior_source: PriorSource) -> None:
        self.card, self.settings = bundle.card, bundle.resolve(settings)
        settings.require_usable(self.card.policy)
        self.generator = AsyncHttpGenerator(self.settings.generator)
        self.reward_model: AsyncHttpRewardModel | None = None
        scored, expected, population = UNSCORED, self.card.contract.unscored(), None
        if (reward := self.settings.reward) is not None:
            self.reward_model = AsyncHttpRewardModel(reward)
            scored = {**self.reward_model.identity, "aggregation": reward.aggregation}
            scored |= {"decimals": self.card.contract.decimals, "scale": self.card.contract.scale}
            expected, population = self.card.contract, bundle.population()
        self.contract = ScoreContract(
            **self.generator.identity, sampling=settings.generator.sampling, **scored
        )
        require_same_contract(expected.fingerprint, self.contract.fingerprint, "gateway settings")
        self.best_of_n = BestOfN(
            self.generator,
            self.reward_model,
            None if population is None else prior_source,
            self.contract,
            population,
            per_request=settings.per_request,
            agreement=settings.agreement if settings.without_reward == "agreement" else None,
            score_map=self.card.score_map,
            prior_timeout=settings.predictor_timeout,
        )
        log, folder = settings.log, settings.log.location()
        self.log = None if folder is None else DecisionLog(folder, log.rows, log.seconds, log.files, log.days)
        self.in_flight = 0
        self.latest: deque[float] = deque(maxlen=50)  # seconds of requests
        self.known_away: TTLCache[str, list[str]] = TTLCache(1, ttl=2)
        self.asking = asyncio.Lock()
        self.chance = random.SystemRandom()
        if self.card.certificate is not None and self.card.certificate.policy is not None:
            metrics.PROMISED_LOSS.set(self.card.certificate.epsilon.get("lost_hit", 1.0))
        decide(self.card.policy, [], population)  # fills the tables that every decision reads

    @contextlib.asynccontextmanager
    async def running(self, tracer_provider: TracerProvider | None = None) -> AsyncIterator[None]:
        """Trace the upstream clients and write the log until the block ends; then close them."""
        async with contextlib.AsyncExitStack() as stack:
            for _, model in self._upstreams():
                client = model.client
                http: Any = client._client  # of OpenAI's client it is what can be traced
                HTTPX2ClientInstrumentor.instrument_client(http, tracer_provider)
                stack.push_async_callback(client.close)
            if self.log is not None:
                await stack.enter_async_context(self.log.running())
            yield

    def _upstreams(self) -> list[tuple[str, AsyncHttpGenerator | AsyncHttpRewardModel]]:
        """The servers that are asked, by what they are called."""
        reward = [] if self.reward_model is None else [("reward model", self.reward_model)]
        return [("generator", self.generator), *reward]

    async def away(self) -> list[str]:
        """What does not answer now, in words; empty where all is in order.

        Anybody may ask; the servers are asked every other second at most.
        """
        async with self.asking:
            away = self.known_away.get("now")
            if away is None:
                answers = await asyncio.gather(*(_why_away(*one) for one in self._upstreams()))
                away = self.known_away["now"] = [why for why in answers if why]
            return away

    async def answer(self, request: ChatRequest, request_id: str) -> ChatResponse:
        """Answer a request.

        Raises
        ------
        RequestError
            If it cannot be answered: as it is, now, or at all.
        """
        if self.in_flight >= self.settings.requests:
            metrics.REFUSED.labels("overload").inc()
            busy = f"{self.in_flight} requests are under way; try later"
            soon = max(1, math.ceil(median(self.latest))) if self.latest else 1  # when one has probably ended
            raise RequestError(429, busy, "overloaded_error", headers={"retry-after": str(soon)})
        self.in_flight += 1
        try:
            with metrics.IN_FLIGHT.track_inprogress():
                return await self._answer(request, request_id)
        finally:
            self.in_flight -= 1

    async def _answer(self, request: ChatRequest, request_id: str) -> ChatResponse:
        started, ask = time.monotonic(), self._ask(request)
        # A copy would keep the cached fingerprint of the original.
        sampled = ScoreContract.model_validate(self.contract.model_dump() | {"sampling": ask.sampling})
        certificate = self.card.certificate if ask.policy == self.card.policy else None

        def record(answer: Answer, status: int = 499) -> None:
            seconds = time.monotonic() - started
            if (caller := CALLER.get()) is not None:
                caller.tokens += answer.tokens.generated
            metrics.count_answer(answer, certificate.target if certificate else ask.policy.target)
            metrics.REQUESTS.labels(answer.ended, status).inc()
            if self.log is not None and answer.draws:
                promise = certificate.statement if certificate and certificate.certified else None
                text, version = self.settings.log.text, self.card.model_version
                self.log.add(log_row(answer, sampled, request_id, seconds, text, version, promise))

        answer = await self.best_of_n.answer(ask, on_cancel=record)
        seconds = time.monotonic() - started
        self.latest.append(seconds)
        if answer.chosen is None:
            error = _no_answer(answer)
            record(answer, error.status_code)
            raise error
        record(answer, 200)
        prompt = max(draw.candidate.prompt_tokens for draw in answer.draws)
        explanation = self._explain(answer, sampled, request_id, seconds)
        return make_response(request.model, answer.chosen.candidate, prompt, explanation)

    def _ask(self, request: ChatRequest) -> Ask:
        """What a request asks of Best-of-N."""
        settings, options = self.settings, request.optscale or Options()
        sampling, policy = request.sampling(settings.generator.sampling), self._policy(request, options)
        if request.seed is not None and not settings.generator.seeds:
            raise _bad("the generator behind this server takes no seed", "seed")
        deadline = options.deadline or settings.deadline
        if deadline > settings.longest_deadline:
            raise _bad(f"a deadline is at most {settings.longest_deadline:g} s here", "optscale.deadline")
        if options.token_budget is not None and options.token_budget < sampling.max_tokens:
            raise _bad(
                f"a token budget must have room for one candidate of max_tokens, {sampling.max_tokens}",
                "optscale.token_budget",
            )
        # What asks for something special is no draw of what is certified, and a seed asks to be repeated.
        plain = request.optscale is None and request.seed is None and policy == self.card.policy
        plain &= sampling == settings.generator.sampling
        share = settings.log.explore if plain and self.log is not None else 0.0
        return Ask(
            question=request.question(),
            policy=policy,
            sampling=sampling,
            seed=(self.chance.randrange(SEEDS) if request.seed is None else request.seed) % SEEDS,
            deadline=asyncio.get_running_loop().time() + deadline,
            token_budget=options.token_budget,
            ahead=settings.ahead if options.ahead is None else options.ahead,
            explore=self.chance.random() < share,
            explore_share=share,
            extra_fields={} if request.user is None else {"user": request.user},
        )

    def _policy(self, request: ChatRequest, options: Options) -> AnyPolicy:
        """The bundle's policy with what the request says of it."""
        policy = self.card.policy
        changes = options.model_dump(include={"target", "confidence"}, exclude_none=True)
        if "target" in changes and self.reward_model is None:
            raise _bad("nothing scores candidates here, so there is no target", "optscale.target")
        if "confidence" in changes and not policy.has_confidence:
            raise _bad(f"the policy here, {policy.kind}, has no confidence", "optscale.confidence")
        if request.n is not None:
            if request.n > policy.cap:
                raise _bad(f"n is the most candidates that are drawn, at most {policy.cap} here", "n")
            changes |= {"cap": request.n, "floor": min(policy.floor, request.n)}
        caller = CALLER.get()
        if caller and caller.key.candidates and caller.key.candidates < changes.get("cap", policy.cap):
            changes |= {"cap": (most := caller.key.candidates), "floor": min(policy.floor, most)}
        if not changes:
            return policy
        try:
            changed = _POLICY.validate_python(policy.model_dump() | changes)
            if (population := self.best_of_n.population) is not None:
                metrics.chance_of_hit(changed, population)  # the family knows no other targets
            return changed
        except (ValidationError, ConfigError) as error:
            raise _bad(_first_line(error), "optscale") from error

    def _explain(
        self, answer: Answer, sampled: ScoreContract, request_id: str, seconds: float
    ) -> Explanation:
        """The answer's ``optscale`` field; ``sampled`` is the contract that its candidates are of."""
        ask = answer.ask
        score = answer.chosen.score if answer.chosen else None
        # A token budget may shorten a round before it ends the drawing.
        as_certified = ask.policy == self.card.policy and sampled == self.contract
        as_certified &= ask.token_budget is None and not answer.degraded
        as_certified &= self.card.certificate is None or self.card.certificate.covers(ask.question)
        chance = None
        if score is not None and sampled == self.contract:
            drawn = sum(draw.given for draw in answer.shown)
            chance = self.card.chance_correct(score, drawn, answer.prior)
        return Explanation(
            request_id=request_id,
            prior=answer.prior,
            rounds=answer.rounds,
            drawn=answer.seen,
            scores=[draw.score for draw in answer.draws[: answer.seen]],
            cancelled=sum(draw.status == "cancelled" for draw in answer.draws),
            decision=answer.decision,
            ended=answer.ended,
            degraded=answer.degraded,
            selection=answer.selection.kind,
            votes=answer.votes,
            score=score,
            target=ask.policy.target,
            cap=ask.policy.cap,
            hit=score is not None and score >= ask.policy.target,
            chance_correct=chance,
            explored=ask.explore,
            contract=sampled.fingerprint,
            model_version=self.card.model_version,
            promise=self.card.promise if as_certified else None,
            tokens=answer.tokens,
            seconds=seconds,
        )


async def _why_away(name: str, model: AsyncHttpGenerator | AsyncHttpRewardModel) -> str | None:
    """Why a server does not answer, in words; None where it does."""
    try:
        async with asyncio.timeout(5):
            await require_served(model.client.with_options(max_retries=0), model.settings)
    except (OptScaleError, TimeoutError) as error:
        return f"{name}: {str(error) or 'does not answer'}"
    return None


def _no_answer(answer: Answer) -> RequestError:
    """Why there is nothing to answer with."""
    said = answer.cause or (_first_line(answer.error) if answer.error else "")
    reason = f": {said}" if said else ""
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
