"""The bundle: predictor, policy, contract and card in one directory."""

import json
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from data.contract import ScoreContract
from data.errors import BundleError, as_fault
from data.record import Record
from data.score_map import ScoreMap
from data.validation import parse
from models.tokenizer import open_tokenizer
from predictor.certificate import Certificate
from predictor.correctness import Correctness
from predictor.empirical import load_family
from predictor.policies import AnyPolicy, FixedN
from predictor.prior import Prior
from serving.settings import GatewaySettings

TOKENIZER = "reward_tokenizer"
"""Folder in the bundle with the reward model's tokenizer."""


class BundleCard(Record):
    """``bundle.json``: what the service serves."""

    contract: ScoreContract
    policy: AnyPolicy
    certificate: Certificate | None = None
    """What is promised of the policy; its own policy is null where nothing could be."""
    correctness: Correctness | None = None
    """Chance that the best-scored answer is right; None where the pool has no answers to tell it by."""
    model_version: str | None
    """Version of the registered predictor; None: there is none, and the policy reads no prior."""
    data_digest: str
    tokens_per_candidate: float = Field(ge=0)
    """Mean completion tokens of a candidate in the pool."""
    gateway: GatewaySettings | None = None
    """Who answers and who scores behind the gateway; None: it only predicts and decides."""

    @model_validator(mode="after")
    def _predictor_where_one_is_read(self) -> Self:
        if self.model_version is None and (self.policy.reads_prior or self.policy.give_up):
            raise ValueError(
                f"model_version is null, so there is no predictor, but the policy, {self.policy.kind}, reads "
                "a prior: take one by answers, fixed or schedule, without give_up"
            )
        if self.contract.scale == "raw" and self.policy.reads_scores and self.score_map is None:
            raise ValueError(
                f"the contract's scores are raw, and no certificate says how to map them to those that the "
                f"policy, {self.policy.kind}, reads: take a policy with selection majority, or certify one"
            )
        return self

    @property
    def score_map(self) -> ScoreMap | None:
        """What maps the contract's raw scores to those that the policy reads."""
        return None if self.certificate is None else self.certificate.score_map

    @property
    def promise(self) -> str | None:
        """The certificate's statement; None where nothing is certified of the policy."""
        certificate = self.certificate
        stands = certificate is not None and certificate.certified and certificate.policy == self.policy
        return certificate.statement if certificate is not None and stands else None

    @property
    def says(self) -> str:
        """In a sentence, what is promised; where nothing is, what is drawn all the same."""
        policy, by = self.policy, self.policy.selection.kind.replace("_", " ")
        if self.promise is not None:
            return self.promise
        if policy.kind == "fixed" and not policy.stop_on_hit and not policy.give_up:
            return f"nothing is certified: the reference, all {policy.cap} candidates by {by}, is drawn"
        return f"nothing is certified: the policy ({policy.kind}, by {by}) is used all the same"

    def chance_correct(self, score: float | None, drawn: int, prior: Prior | None) -> float | None:
        """Chance that the best of ``drawn`` candidates is right.

        None without a score or prior, if not known, or where another than the best-scored is delivered.
        """
        if self.policy.selection.kind != "best_score":
            return None
        if self.correctness is None or score is None or prior is None:
            return None
        return float(np.squeeze(self.correctness.predict(score, drawn, prior.moments()[0])))


class Bundle(Record):
    """A bundle on disk."""

    path: Path
    card: BundleCard

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Read a bundle's card.

        Raises
        ------
        BundleError
            If there is no bundle, or its card cannot be read.
        ContractError
            If its certificate was made under another score contract.
        ModelError
            If its score family was altered.
        """
        file = Path(path) / "bundle.json"
        try:
            card = parse(file.read_bytes(), BundleCard, BundleError, f"{file} is not a bundle's card")
        except FileNotFoundError as error:
            raise BundleError(f"no bundle at {path}: bundle.json is missing; ship one first") from error
        load_family(Path(path))
        if card.certificate is not None:
            card.certificate.require_contract(card.contract.fingerprint)
        return cls(path=Path(path), card=card)

    def at_full_cap(self) -> Self:
        """The bundle with the reference in the policy's place: nothing is saved, and nothing lost."""
        card = self.card
        reference = FixedN(target=card.policy.target, cap=card.policy.cap, selection=card.policy.selection)
        policy = reference if card.certificate is None else card.certificate.fallback
        return self.model_copy(update={"card": card.model_copy(update={"policy": policy})})

    def population(self) -> Prior | None:
        """The population's prior, as the predictor's card has it; None in a bundle without a predictor.

        Raises
        ------
        BundleError
            If its predictor is not there.
        """
        if self.card.model_version is None:
            return None
        file = self.path / "predictor.json"
        with as_fault(BundleError, f"{file} is not a predictor's card", OSError, ValueError, KeyError):
            return Prior.model_validate(json.loads(file.read_bytes())["population"])

    def resolve(self, settings: GatewaySettings) -> GatewaySettings:
        """The settings with the tokenizer that the bundle carries, where they name it."""
        if settings.reward is None or settings.reward.tokenizer != TOKENIZER:
            return settings
        reward = settings.reward.model_copy(update={"tokenizer": str(self.path / TOKENIZER)})
        return settings.model_copy(update={"reward": reward})


def carry_tokenizer(bundle: Path, settings: GatewaySettings) -> GatewaySettings:
    """Put the reward model's tokenizer, if there is one, into the bundle; the settings that name it there.

    Raises
    ------
    ModelError
        If there is no such tokenizer.
    """
    if settings.reward is None:
        return settings
    open_tokenizer(settings.reward.tokenizer).save_pretrained(bundle / TOKENIZER)
    reward = settings.reward.model_copy(update={"tokenizer": TOKENIZER})
    return settings.model_copy(update={"reward": reward})


def write_card(bundle: Path, card: BundleCard) -> None:
    """Write ``bundle.json``."""
    (bundle / "bundle.json").write_text(json.dumps(card.model_dump(mode="json"), indent=1))
