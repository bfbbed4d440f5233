"""Ship: build a validated version's bundle, start it, ask it; only then does the champion alias move."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import bentoml
import httpx
import numpy as np
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from data.contract import require_same_contract
from data.errors import BundleError, GateError
from data.pool import Pool
from flows import champion as champions
from flows.config import Config
from flows.tracking import (
    BUNDLE,
    CHALLENGER,
    CHAMPION_THEN,
    VALIDATED,
    VALIDATION_RUN,
    Tracking,
    temporary_folder,
)
from predictor.certificate import Certificate
from predictor.learned.store import load_predictor
from predictor.usual import USUAL
from serving.bento import build_bento, serve_bento
from serving.bundle import BundleCard, carry_tokenizer, write_card
from serving.champion import Manifest, change
from serving.schemas import EXAMPLE


class Shipped(NamedTuple):
    """A bundle that was built, started and asked."""

    version: str
    tag: str
    answer: dict[str, Any]
    """What the started bundle answered to a question."""
    waits: bool = False
    """For a person's approval: the champion is another."""


@task(name="build-bundle", task_run_name="build-bundle", cache_policy=NO_CACHE)
def build(config: Config, version: str) -> str:
    """Build the bento of a version; returns its tag."""
    pool, tracking = Pool.open(config.pool_location), Tracking(config)
    contract = pool.manifest.contract.fingerprint
    tokens = pool.columns("completion_tokens")["completion_tokens"].to_numpy()
    with temporary_folder(config) as folder:
        predictor = load_predictor(tracking.download(version, Path(folder)))
        run = tracking.tags(version)[VALIDATION_RUN]
        certificate = Certificate.model_validate_json(tracking.read(run, "certificate.json"))
        for made_for, what in ((predictor.card.contract, "predictor"), (certificate.contract, "certificate")):
            require_same_contract(contract, made_for, f"{what} of version {version}")
        policy = certificate.to_ship(config.certify.uncertified)
        if config.gateway is not None:
            config.gateway.require_usable(policy)
        target = Path(folder) / "bundle"
        predictor.save(target, merged=True)
        card = BundleCard(
            contract=pool.manifest.contract,
            policy=policy,
            certificate=certificate,
            correctness=json.loads(tracking.read(run, "correctness.json")),
            model_version=version,
            data_digest=predictor.card.data_digest,
            tokens_per_candidate=float(np.mean(tokens)),
            gateway=config.gateway and carry_tokenizer(target, config.gateway),
        )
        write_card(target, card)
        (target / USUAL).write_text(tracking.read(run, USUAL))
        return build_bento(target)


@task(name="check-bundle", task_run_name="check-bundle", cache_policy=NO_CACHE)
def check(config: Config, tag: str) -> dict[str, Any]:
    """Serve the bento from another directory and ask it; returns the decision it gave."""
    with serve_bento(tag, config.serve.start_timeout) as url:
        (prediction,) = _ask(url, "/predict", {"questions": [{"question": EXAMPLE}]})
        question = {"question": EXAMPLE, "scores": [], "contract": prediction["contract"]}
        return dict(_ask(url, "/decide", {"request": question}))


def _ask(url: str, route: str, body: dict[str, Any]) -> Any:
    response = httpx.post(url + route, json=body, timeout=60)
    if not response.is_success:
        raise BundleError(f"the bundle answered {route} with {response.status_code}: {response.text[:300]}")
    return response.json()


@task(name="promote", task_run_name="promote", cache_policy=NO_CACHE)
def promote(config: Config, version: str, tag: str, by: str | None) -> Manifest:
    """Let the manifest, and then the registry's alias, name the version whose bundle was just asked.

    Where a person has to approve of it, it waits, unless a person (``by``) has named it.
    """
    bundle = Path(bentoml.get(tag).path) / "src" / "bundle"
    new = champions.describe(version, tag, bundle, by)
    waits = config.serve.approval and by is None
    made = change(
        config.champion_location,
        lambda now: now.model_copy(update={"waiting": new}) if waits else now.name(new),
    )
    if (problem := champions.follow(config, made)) is not None:
        get_run_logger().warning("the registry's alias does not name the champion yet: %s", problem)
    return made


@flow(name="ship", flow_run_name="ship")
def ship(config: Config, version: str | None = None, named: bool = False) -> Shipped:
    """Build, start, ask, then promote; whatever fails, the former champion stays.

    ``version`` is the challenger where none is given. ``named`` says that a person chose it: then it is
    shipped even if it was shipped before, or the champion has changed since it was validated.

    Raises
    ------
    GateError
        If the version did not pass its last validation, or another run or a rollback has overtaken it.
    """
    logger = get_run_logger()
    tracking = Tracking(config)
    version = version or tracking.version_of(CHALLENGER)
    require_shippable(config, tracking, version, named)
    logger.info("building the bundle of version %s", version)
    tag = build(config, version)
    logger.info("starting and asking bundle %s", tag)
    try:
        answer = check(config, tag)
    except BaseException:
        bentoml.delete(tag)
        raise
    require_shippable(config, tracking, version, named)  # building took a while
    # A bundle that was asked is kept whatever becomes of the alias, so none can name one that is gone.
    made = promote(config, version, tag, champions.who() if named else None)
    logger.info("champion is version %s, bundle %s", made.version, tag)
    create_markdown_artifact(f"Champion **{made.version}**, bundle `{tag}`", key="champion")
    return Shipped(version, tag, answer, made.version != version)


def require_shippable(config: Config, tracking: Tracking, version: str, named: bool) -> None:
    """Raise GateError unless the version passed its last validation and is still the next one to ship."""
    champions.require_not_held(config)
    tags, champion = tracking.tags(version), champions.current(config)
    what = f"version {version} of {tracking.model}"
    if VALIDATED not in tags:
        raise GateError(
            f"{what} is not validated: run validate, and read its report where the gate refused it. "
            f"The champion stays {champion or 'none'}"
        )
    if named or champion == version:
        return
    again = f"to ship it all the same: optscale ship --version {version}"
    if BUNDLE in tags:
        raise GateError(
            f"{what} was shipped before, and the champion is version {champion or 'none'} now, by a rollback "
            f"or another run; {again}"
        )
    if (beside := tags.get(CHAMPION_THEN, "")) != (champion or ""):
        raise GateError(
            f"{what} was overtaken: the champion was version {beside or 'none'} when it was validated and is "
            f"version {champion or 'none'} now; {again}"
        )
