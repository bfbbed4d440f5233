"""From a chat request to what is asked of Best-of-N, or of the generator alone."""

import asyncio
import json
import random
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from data.contract import Sampling, ScoreContract
from data.errors import ConfigError
from data.validation import explain
from predictor.policies import AnyPolicy, FixedN
from predictor.prior import Prior
from serving import metrics
from serving.best_of_n import SEEDS
from serving.bundle import BundleCard
from serving.chat import ChatRequest, Options
from serving.draws import Ask
from serving.errors import RequestError, bad
from serving.fields import sort_fields
from serving.json_answers import json_reader
from serving.keys import CALLER
from serving.passthrough import Forward, forward_chat
from serving.settings import GatewaySettings

_POLICY: TypeAdapter[AnyPolicy] = TypeAdapter(AnyPolicy)
CHANCE = random.SystemRandom()


class Prepared(NamedTuple):
    """A request as Best-of-N is asked it."""

    request: ChatRequest
    ask: Ask
    sampled: ScoreContract
    """The contract that its candidates are of."""
    notes: list[str]


@dataclass(frozen=True)
class Intake:
    """Reads requests.

    Parameters
    ----------
    contract : of the candidates of a request that asks for nothing special.
    population : prior by which targets are looked up; None where nothing is foretold.
    logged : there is a decision log, for which some requests are drawn to the full cap.
    """

    card: BundleCard
    settings: GatewaySettings
    contract: ScoreContract
    population: Prior | None
    logged: bool

    def prepare(self, request: ChatRequest) -> Prepared | Forward:
        """What a request asks of Best-of-N; of the generator alone where that does not fit.

        Raises
        ------
        RequestError
            If it cannot be answered as it is.
        """
        settings, options = self.settings, request.optscale or Options()
        configured = settings.generator.extra_body
        kinds = sort_fields(request.model_extra or {}, configured)
        if request.seed is not None and not settings.generator.seeds:
            raise bad("the generator behind this server takes no seed", "seed")
        sampling, policy = request.sampling(settings.generator.sampling), self._policy(request, options)
        if (alone := forward_chat(request, kinds, configured)) is not None:
            return self.allow(alone)
        deadline = options.deadline or settings.deadline
        if deadline > settings.longest_deadline:
            raise bad(f"a deadline is at most {settings.longest_deadline:g} s here", "optscale.deadline")
        if options.token_budget is not None and options.token_budget < sampling.max_tokens:
            raise bad(
                f"a token budget must have room for one candidate of max_tokens, {sampling.max_tokens}",
                "optscale.token_budget",
            )
        notes = []
        if sampling.temperature == 0:
            notes.append("at temperature 0 all candidates are the same: one is drawn")
            alike = policy.model_dump(include={"target", "selection", "stop_on_hit"})
            policy = FixedN.model_validate(alike | {"cap": 1})
        fields = kinds.handed_on | kinds.conditions
        sent = [message.sent() for message in request.messages]
        question = request.question()
        if sent != question.as_chat() and settings.generator.route == "chat":
            fields["messages"] = sent
        if request.seed is not None:
            fields["seed"] = request.seed
        sampled = self._contract(sampling, kinds.conditions)
        certificate = self.card.certificate
        if certificate is not None and certificate.certified and not certificate.covers(question):
            notes.append("calibration questions had other turns or words: nothing is promised of this one")
        # What asks for something special is no draw of what is certified, and a seed asks to be repeated.
        plain = request.optscale is None and request.seed is None and policy == self.card.policy
        plain &= sampled == self.contract and "messages" not in fields
        # What draws its cap whatever it sees is as good for a certificate as what is explored at random.
        whole = isinstance(policy, FixedN) and policy.draws_all
        share = (1.0 if whole else settings.log.explore) if plain and self.logged else 0.0
        ask = Ask(
            question=question,
            policy=policy,
            sampling=sampling,
            seed=(CHANCE.randrange(SEEDS) if request.seed is None else request.seed) % SEEDS,
            deadline=asyncio.get_running_loop().time() + deadline,
            token_budget=options.token_budget,
            ahead=settings.ahead if options.ahead is None else options.ahead,
            explore=CHANCE.random() < share,
            explore_share=share,
            extra_fields=fields,
            read=json_reader(kinds.conditions),
        )
        return Prepared(request, ask, sampled, notes)

    def allow(self, asked: Forward) -> Forward:
        """The request, where the generator may answer alone; else a RequestError."""
        if not self.settings.passthrough:
            message = f"Best-of-N does not fit this: {asked.reason}; leave it out"
            raise RequestError(400, f"{message} (gateway.passthrough is false)", param=asked.fields[0])
        return asked

    def _contract(self, sampling: Sampling, conditions: dict[str, Any]) -> ScoreContract:
        """The contract of candidates that are sampled so."""
        changes: dict[str, Any] = {"sampling": sampling}
        if conditions:
            asked = json.dumps(conditions, sort_keys=True)
            changes["prompt_template"] = f"{self.contract.prompt_template} + {asked}"
        elif sampling == self.contract.sampling:
            return self.contract
        # A copy would keep the cached fingerprint of the original.
        return ScoreContract.model_validate(self.contract.model_dump() | changes)

    def _policy(self, request: ChatRequest, options: Options) -> AnyPolicy:
        """The bundle's policy with what the request says of it."""
        policy = self.card.policy
        changes = options.model_dump(include={"target", "confidence", "cap"}, exclude_none=True)
        if "target" in changes and self.settings.reward is None:
            raise bad("nothing scores candidates here, so there is no target", "optscale.target")
        if "confidence" in changes and not policy.has_confidence:
            raise bad(f"the policy here, {policy.kind}, has no confidence", "optscale.confidence")
        cap, wanted = changes.get("cap", policy.cap), request.n or 1
        if cap > policy.cap:
            raise bad(f"at most {policy.cap} candidates are drawn here", "optscale.cap")
        caller = CALLER.get()
        if caller and caller.key.candidates and caller.key.candidates < cap:
            changes["cap"] = cap = caller.key.candidates
        if wanted > cap:
            raise bad(
                f"n is the number of choices, at most {cap}, the candidates that are drawn; "
                "these are limited by optscale.cap, which n was before",
                "n",
            )
        changes["floor"] = max(min(policy.floor, cap), wanted if wanted > 1 else 0)
        if changes == {"floor": policy.floor}:
            return policy
        try:
            changed = _POLICY.validate_python(policy.model_dump() | changes)
            if self.population is not None:
                metrics.chance_of_hit(changed, self.population)  # the family knows no other targets
            return changed
        except (ValidationError, ConfigError) as error:
            raise bad(first_line(error), "optscale") from error


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    if isinstance(error, ValidationError):
        return explain(error.errors()[:1], AnyPolicy)
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
