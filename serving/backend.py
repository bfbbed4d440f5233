"""What stands behind the routes: the bundle's policy and certificate, the predictor, the gateway."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.answers import answer_key
from data.contract import require_same_contract, require_scores
from data.errors import ConfigError, OptScaleError, PoolError
from data.feedback import Feedback, add_feedback
from data.question import Question
from predictor.decision import decide
from predictor.policies import Predictive, Value
from predictor.prior import Prior, PriorBatch
from predictor.replay import round_ends
from predictor.selection import number_answers
from serving import metrics
from serving.bundle import Bundle
from serving.errors import RequestError
from serving.gateway import Gateway
from serving.keys import CALLER
from serving.priors import PriorSource
from serving.schemas import (
    Asked,
    DecideRequest,
    DecideResponse,
    Description,
    FeedbackRequest,
    Health,
    Prediction,
)
from serving.settings import GatewaySettings

logger = logging.getLogger("optscale.backend")


class Backend:
    """Answers the routes of `serving.routes`."""

    def __init__(
        self,
        bundle: Bundle,
        settings: GatewaySettings | None,
        predictor: PriorSource,
        tracer_provider: Any = None,
    ) -> None:
        self.card, self.predictor, self.tracer_provider = bundle.card, predictor, tracer_provider
        self.fingerprint = self.card.contract.fingerprint
        self.population = bundle.population()
        self.timeout = settings.predictor_timeout if settings else 60.0
        self.gateways: dict[str, Gateway] = {}
        if settings is not None:
            self.serve_too(bundle, settings, predictor)

    def serve_too(self, bundle: Bundle, settings: GatewaySettings | None, predictor: PriorSource) -> None:
        """Answer requests for another bundle's model by its own contract, policy and promise.

        Raises
        ------
        ConfigError
            If it has no gateway, or its model's name is taken.
        """
        if settings is None:
            raise ConfigError(f"the bundle at {bundle.path} has no gateway settings: ship it with some")
        if (name := settings.generator.model) in self.gateways:
            raise ConfigError(f"two bundles answer as {name}: requests are told apart by model")
        self.gateways[name] = Gateway(bundle, settings, predictor)

    @property
    def gateway(self) -> Gateway | None:
        """Of the first bundle; None where it only predicts and decides."""
        return next(iter(self.gateways.values()), None)

    def models(self) -> list[str]:
        """Names of the models that the caller may ask."""
        caller = CALLER.get()
        allowed = caller.key.models if caller else None
        return [name for name in self.gateways if allowed is None or name in allowed]

    def gateway_of(self, model: str, beside: bool = False) -> Gateway:
        """The gateway that answers as ``model``; the first for one ``beside``, where the key is for all.

        Raises
        ------
        RequestError
            If there is none, or the caller's key may not ask it.
        """
        if not self.gateways:
            missing = "this bundle has no generator: ship it with gateway settings"
            raise RequestError(503, missing, "not_configured")
        caller = CALLER.get()
        if beside and model not in self.gateways and (caller is None or caller.key.models is None):
            return next(iter(self.gateways.values()))
        if model not in (names := self.models()):
            message = f"there is no model {model!r} here, but {', '.join(names) or 'none for this key'}"
            raise RequestError(404, message, param="model", code="model_not_found")
        return self.gateways[model]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Upstream clients and the decision logs, until the block ends."""
        async with AsyncExitStack() as stack:
            for gateway in self.gateways.values():
                await stack.enter_async_context(gateway.running(self.tracer_provider))
            yield

    @property
    def in_flight(self) -> int:
        """Chat requests under way."""
        return sum(gateway.in_flight for gateway in self.gateways.values())

    async def predict(self, questions: list[Asked]) -> list[Prediction]:
        """Prior, required samples and expected tokens of each question."""
        priors = await self._priors([question.require() for question in questions])
        return [self._prediction(prior) for prior in priors]

    async def decide(self, request: DecideRequest) -> DecideResponse:
        """What to do next for the scores so far.

        Raises
        ------
        ConfigError, ScoreError
            If question, prior and scores do not go together.
        ContractError
            If the scores are of another contract than the bundle.
        RequestError
            If the predictor does not answer in time.
        """
        question = request.read()
        if question is not None and request.prior is not None:
            raise ConfigError("give either a question or its prior, not both")
        if request.contract is not None:
            require_same_contract(self.fingerprint, request.contract, "decide")
        prior = request.prior or self.population
        if question is not None and self.population is not None:
            (prior,) = await self._priors([question])
        keys = None
        if request.answers is not None:
            keys = [None if answer is None else answer_key(answer) for answer in request.answers]
        policy, scores = self.card.policy, require_scores(request.scores, "scores", self.card.contract.scale)
        if self.card.score_map is not None:
            scores = self.card.score_map.apply(scores)
        decision = decide(policy, scores.tolist(), prior, request.failed, request.tokens, keys)
        metrics.DECISIONS.labels(decision.action, decision.reason).inc()
        return DecideResponse(
            **decision.model_dump(),
            prior=prior,
            contract=self.fingerprint,
            chance_correct=self.card.chance_correct(decision.best, decision.drawn, prior),
            promise=self._promise(request, scores, question, prior, keys),
        )

    async def keep_feedback(self, told: FeedbackRequest) -> None:
        """Append a verdict to the file beside the decision log of the first bundle.

        Raises
        ------
        RequestError
            If there is no log, or it cannot be written.
        """
        log, caller = None if self.gateway is None else self.gateway.log, CALLER.get()
        if log is None:
            raise RequestError(
                503, "nothing is logged here, so there is nothing to say it of", "not_configured"
            )
        who = caller.key.name if caller else "a client"
        kept = Feedback(**told.model_dump(), who=who, when=datetime.now(UTC))
        try:
            await asyncio.to_thread(add_feedback, log.folder, kept)
        except PoolError as error:
            logger.error("%s", error)
            raise RequestError(503, "feedback cannot be kept now", "server_error") from error
        metrics.FEEDBACK.labels(told.verdict).inc()

    def describe(self) -> Description:
        """Contract, policy, certificate and versions of the bundle."""
        card = self.card
        return Description(
            **card.model_dump(mode="json"),
            fingerprint=self.fingerprint,
            promise=card.promise,
            says=card.says,
            models={name: gateway.card.says for name, gateway in self.gateways.items()},
        )

    async def health(self) -> Health:
        """What is there and what is away."""
        return Health(
            predictor=await self.predictor.ready(),
            away=[why for gateway in self.gateways.values() for why in await gateway.away()],
            requests=self.in_flight,
        )

    async def ready(self) -> bool:
        """Whether requests can be answered; says in the log why not."""
        health = await self.health()
        for why in health.away:
            logger.warning("not ready: %s", why)
        return health.predictor and not health.away

    async def _priors(self, questions: Sequence[Question]) -> list[Prior]:
        """The predictor's answer; unlike an answer to a chat there is nothing to give in its place."""
        if self.population is None:
            raise ConfigError("this bundle has no predictor, so it foretells no scores: ask /decide")
        try:
            async with asyncio.timeout(self.timeout):
                return await self.predictor.priors(questions)
        except OptScaleError:
            raise
        except Exception as error:
            message = f"the predictor does not answer: {error!r}"
            raise RequestError(503, message, "upstream_error") from error

    def _promise(
        self,
        request: DecideRequest,
        mapped: NDArray[np.float64],
        question: Question | None,
        prior: Prior | None,
        keys: Sequence[str | None] | None,
    ) -> str | None:
        """The certificate's statement, where the policy stands as it did on calibration questions.

        There it had the predictor's own prior, scores of the contract and answers that it reads in the order
        drawn, failed candidates in their place, token counts where the pool has them, and as many candidates
        as it had asked for.
        """
        policy, drawn = self.card.policy, max(len(request.scores), len(keys or ()))
        if self.card.promise is None or question is None or request.contract is None or request.failed:
            return None
        if self.card.certificate is None or not self.card.certificate.covers(question):
            return None
        if drawn:
            if (keys is not None) != policy.reads_answers or (policy.reads_scores and not request.scores):
                return None
            counted = self.card.tokens_per_candidate > 0
            if isinstance(policy, Value) and (request.tokens is not None) != counted:
                return None
            tokens = None if request.tokens is None else np.array([request.tokens], float)
            scores = mapped[None] if mapped.size else np.full((1, drawn), np.nan)
            answers = None if keys is None else number_answers(keys)
            priors = None if prior is None else PriorBatch.of([prior])
            if drawn not in round_ends(policy, scores, priors, tokens, answers):
                return None
        return self.card.promise

    def _prediction(self, prior: Prior) -> Prediction:
        policy, (mean, std) = self.card.policy, prior.moments()
        bound = Predictive(target=policy.target, cap=policy.cap, confidence=0.9)
        plan = bound.plan(metrics.undrawn(prior))
        needed = int(plan.required[0])
        return Prediction(
            prior=prior,
            mean=mean,
            std=std,
            chance=metrics.chance_of_hit(policy, prior),
            required_samples=needed,
            feasible=bool(plan.feasible[0]),
            expected_tokens=needed * self.card.tokens_per_candidate,
            contract=self.fingerprint,
        )
