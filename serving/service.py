"""The service: priors for questions, and decisions for scores so far."""

import os
from http import HTTPStatus
from pathlib import Path
from typing import Any

import bentoml
import numpy as np
from bentoml.exceptions import BentoMLException
from prometheus_client import Counter
from pydantic import Field

from predictor.contract import require_same_contract
from predictor.decision import Decision, State, decide
from predictor.errors import ContractError, OptScaleError
from predictor.network.predictor import Predictor
from predictor.policies import Predictive
from predictor.prior import Beliefs, Prior
from predictor.question import Question
from serving.bundle import Bundle
from serving.schemas import (
    EXAMPLE,
    MAX_QUESTIONS,
    Asked,
    DecideRequest,
    DecideResponse,
    Prediction,
)


class BadRequest(BentoMLException):
    """The request cannot be answered as it is."""

    error_code = HTTPStatus.BAD_REQUEST


class OtherContract(BentoMLException):
    """The scores were made under another contract than the bundle's."""

    error_code = HTTPStatus.CONFLICT


def bundle_path() -> Path:
    """``$OPTSCALE_BUNDLE``, else the bundle that the bento carries."""
    return Path(os.environ.get("OPTSCALE_BUNDLE") or Path(__file__).parent.parent / "bundle")


@bentoml.service(name="optscale", traffic={"timeout": 60, "max_concurrency": 256}, threads=4)
class OptScale:
    """Predicts a question's score law and decides whether to sample on."""

    def __init__(self) -> None:
        bundle = Bundle.open(bundle_path())
        self.card = bundle.card
        self.fingerprint = self.card.contract.fingerprint
        self.predictor = Predictor.load(bundle.path)
        self.decisions = Counter("optscale_decisions", "Decisions by action", ["action", "reason"])
        self.predictor.predict([Question.ask(EXAMPLE)])  # the first pass is the slow one
        self.ready = True

    async def __is_ready__(self) -> bool:
        return getattr(self, "ready", False)

    @bentoml.api(batchable=True, max_batch_size=MAX_QUESTIONS, max_latency_ms=30_000)
    def predict(
        self,
        questions: list[Asked] = Field(max_length=MAX_QUESTIONS, examples=[[{"question": EXAMPLE}]]),
    ) -> list[Prediction]:
        """Prior, required samples and expected tokens of each question."""
        asked = [_read(item) for item in questions]
        if any(question is None for question in asked):
            raise BadRequest("every item needs a question or messages")
        priors = self.predictor.predict([q for q in asked if q is not None])
        return [self._prediction(prior) for prior in priors]

    @bentoml.api
    def decide(self, request: DecideRequest) -> DecideResponse:
        """Sample m more, accept, or give up, with the reason."""
        question = _read(request)
        if question is not None and request.prior is not None:
            raise BadRequest("give either a question or its prior, not both")
        try:
            if request.contract is not None:
                require_same_contract(self.fingerprint, request.contract, "decide")
            prior = request.prior
            if prior is None and question is not None:
                (prior,) = self.predictor.predict([question])
            if prior is None:
                prior = self.predictor.card.population
            decision = decide(self.card.policy, request.scores, prior, request.failed, request.tokens)
        except ContractError as error:
            raise OtherContract(str(error)) from error
        except OptScaleError as error:
            raise BadRequest(str(error)) from error
        self.decisions.labels(decision.action, decision.reason).inc()
        return DecideResponse(
            **decision.model_dump(),
            prior=prior,
            contract=self.fingerprint,
            chance_correct=self._chance_correct(decision, prior),
            promise=self.card.certificate and self.card.certificate.statement,
        )

    @bentoml.api
    def describe(self) -> dict[str, Any]:
        """Contract, policy and versions of the bundle."""
        return self.card.model_dump(mode="json") | {"fingerprint": self.fingerprint}

    def _chance_correct(self, decision: Decision, prior: Prior) -> float | None:
        if self.card.correctness is None or decision.best is None:
            return None
        told = self.card.correctness.predict(decision.best, decision.drawn, prior.moments()[0])
        return float(np.squeeze(told))

    def _prediction(self, prior: Prior) -> Prediction:
        policy, (mean, std) = self.card.policy, prior.moments()
        bound = Predictive(target=policy.target, cap=policy.cap, confidence=0.9)
        start = State(np.empty((1, 0)), np.zeros(1, dtype=np.int64), Beliefs.of([prior]))
        plan = bound.plan(start)
        needed = int(plan.required[0])
        return Prediction(
            prior=prior,
            mean=mean,
            std=std,
            chance=1 - float(start.no_hit(policy.target, policy.cap)[0, -1]),
            required_samples=needed,
            feasible=bool(plan.feasible[0]),
            expected_tokens=needed * self.card.tokens_per_candidate,
            contract=self.fingerprint,
        )


def _read(item: Asked) -> Question | None:
    try:
        return item.read()
    except ValueError as error:
        raise BadRequest(str(error)) from error
