"""Who answers and who scores behind the gateway, and what is said of an answer."""

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from functools import partial
from statistics import median
from typing import Any

from cachetools import TTLCache
from httpx2 import HTTPError, Response
from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor
from opentelemetry.trace import TracerProvider

from data.answer_function import load_answer_function
from data.contract import UNSCORED, ScoreContract, require_same_contract
from data.decision_log import DecisionLog
from data.errors import ModelError, OptScaleError
from models.faults import explain_fault
from models.generator.http import AsyncHttpGenerator
from models.http_client import FAULTS, require_served
from models.reward.http import AsyncHttpRewardModel
from predictor.decision import decide
from serving import metrics
from serving.best_of_n import BestOfN
from serving.bundle import Bundle
from serving.chat import ChatResponse, Explanation, Shown, make_response
from serving.draws import Answer, best_first, log_row
from serving.errors import RequestError
from serving.intake import Intake, Prepared, first_line
from serving.keys import CALLER
from serving.passthrough import Forward, failed
from serving.priors import PriorSource
from serving.settings import GatewaySettings


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
            read=load_answer_function(settings.answers),
            prior_timeout=settings.predictor_timeout,
        )
        log, folder = settings.log, settings.log.location()
        self.log = (
            None
            if folder is None
            else DecisionLog(folder, log.rows, log.seconds, log.files, log.days, metrics.LOG_LOST.inc)
        )
        self.intake = Intake(self.card, self.settings, self.contract, population, self.log is not None)
        self.in_flight = 0
        self.latest: deque[float] = deque(maxlen=50)  # seconds of requests
        self.known_away: TTLCache[str, list[str]] = TTLCache(1, ttl=2)
        self.asking = asyncio.Lock()
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

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """A place among the requests under way.

        Raises
        ------
        RequestError
            If there is none now.
        """
        if self.in_flight >= self.settings.requests:
            metrics.REFUSED.labels("overload").inc()
            busy = f"{self.in_flight} requests are under way; try later"
            soon = max(1, math.ceil(median(self.latest))) if self.latest else 1  # when one has probably ended
            raise RequestError(429, busy, "overloaded_error", headers={"retry-after": str(soon)})
        self.in_flight += 1
        try:
            with metrics.IN_FLIGHT.track_inprogress():
                yield
        finally:
            self.in_flight -= 1

    @contextlib.asynccontextmanager
    async def forward(self, asked: Forward) -> AsyncIterator[Response]:
        """The generator's own answer to a request, its body unread.

        Raises
        ------
        RequestError
            If the generator gives none.
        """
        status, observe = 502, partial(metrics.observe, "generator")
        try:
            async with self.generator.forward(asked.path, asked.body, observe) as reply:
                status = reply.status_code
                yield reply
        except (*FAULTS, ModelError, HTTPError) as error:
            ours = isinstance(error, ModelError)
            told = failed(error, "" if ours else explain_fault(error, self.settings.generator))
            status = told.status_code
            raise told from error
        finally:
            metrics.PASSTHROUGH.labels(asked.why, status).inc()

    async def answer(self, prepared: Prepared, request_id: str) -> ChatResponse:
        """Answer a request by Best-of-N.

        Raises
        ------
        RequestError
            If it cannot be answered: now, or at all.
        """
        started, (request, ask, sampled, notes) = time.monotonic(), prepared
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
        wanted = request.n or 1
        chosen = [draw.candidate for draw in best_first(answer, wanted)]
        if ask.sampling.temperature == 0:
            chosen = chosen[:1] * wanted
        elif len(chosen) < wanted:
            notes = [*notes, f"{len(chosen)} choices of {wanted}: no further candidate has a text"]
        told = self._explain(answer, sampled, request_id, seconds)
        asked = request.optscale is not None and request.optscale.return_candidates
        shown = [Shown.of(draw) for draw in answer.draws] if asked else None
        told = told.model_copy(update={"notes": notes, "candidates": shown})
        return make_response(request.model, chosen, prompt, told)

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
        as_certified &= "messages" not in ask.extra_fields
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
    said = answer.cause or (first_line(answer.error) if answer.error else "")
    reason = f": {said}" if said else ""
    match answer.ended:
        case "deadline":
            return RequestError(504, f"no candidate was ready by the deadline{reason}", "timeout_error")
        case "reward model":
            return RequestError(503, f"the reward model gave no score{reason}", "upstream_error")
    if getattr(answer.error, "status_code", None) in {400, 413, 422}:
        return RequestError(400, f"the generator refused the request{reason}")
    return RequestError(502, f"the generator gave no candidate{reason}", "upstream_error")
