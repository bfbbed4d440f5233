"""A bundle without a predictor: on the first day, or where a certified policy reads no prior."""

import tempfile
from pathlib import Path

from data.contract import ScoreContract
from data.errors import ConfigError
from data.pool import Pool
from flows.collect import make_contract
from flows.config import Config
from models.load import load_generator, load_reward_model
from predictor.certificate import Certificate
from predictor.policies import AnyPolicy, FixedN
from predictor.selection import Selection
from serving.bento import build_bento
from serving.bundle import BundleCard, carry_tokenizer, write_card


def build_plain(config: Config, certificate: Certificate | None = None) -> str:
    """Build a bento of the gateway alone; returns its tag.

    It draws by the certified policy; without a certificate the reference: all of the policy's cap, by a vote
    that the scores weigh where there are any.

    Raises
    ------
    ConfigError
        If there is no gateway to draw with, or the policy reads a predictor's priors.
    ContractError
        If the certificate was made under another contract.
    """
    if config.gateway is None:
        raise ConfigError(
            "nothing was shipped, and without a predictor there is only a gateway to serve: name its servers "
            "under gateway (optscale init writes such a config), or run optscale run"
        )
    contract = contract_of(config)
    policy: AnyPolicy = first_policy(config, contract)
    if certificate is not None:
        certificate.require_contract(contract.fingerprint)
        policy = certificate.to_ship(config.certify.uncertified)
    config.gateway.require_usable(policy)
    with tempfile.TemporaryDirectory(dir=config.home.resolve()) as folder:
        bundle = Path(folder) / "bundle"
        bundle.mkdir()
        card = BundleCard(
            contract=contract,
            policy=policy,
            certificate=certificate,
            model_version=None,
            data_digest="",
            tokens_per_candidate=0.0,
            gateway=carry_tokenizer(bundle, config.gateway),
        )
        write_card(bundle, card)
        return build_bento(bundle)


def contract_of(config: Config) -> ScoreContract:
    """The pool's; without a pool what the gateway's servers make."""
    if Pool.exists(config.pool_location):
        return Pool.open(config.pool_location).manifest.contract
    assert config.gateway is not None
    reward = config.gateway.reward
    scored = None if reward is None else load_reward_model(reward)
    return make_contract(load_generator(config.gateway.generator), scored)


def first_policy(config: Config, contract: ScoreContract) -> FixedN:
    """All candidates of the cap, by majority, or by a vote that scores in [0, 1] weigh."""
    scored = contract.reward_model is not None and contract.scale == "unit"
    kind = config.goal.reference.select or ("weighted_vote" if scored else "majority")
    cap = min(config.goal.reference.n or config.policy.cap, config.policy.cap)
    return FixedN(target=config.policy.target, cap=cap, selection=Selection(kind=kind))
