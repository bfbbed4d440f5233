"""Train: fit every kind of predictor, take what tune recommends, register the challenger."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from data.errors import ConfigError
from data.files import file_digest, short_digest
from data.pool import Pool
from data.scores import ScoreTable, load_scores
from flows.collect import require_reward_model
from flows.config import ROOT, Config
from flows.model_card import model_card
from flows.progress import counted
from flows.tracking import CHALLENGER, Tracking, temporary_folder
from models import backbone
from models.lora import MAX_STEPS
from predictor.assessment import choose_family
from predictor.learned.base import Fold, Predictor
from predictor.learned.card import CARD, REFIT
from predictor.learned.comparison import fit_and_compare, refit

STATES = "states"
"""Folder of the state folder that keeps frozen states."""


class Trained(NamedTuple):
    """What a training run left behind."""

    run_id: str
    version: str
    """Version of the registered model, now the challenger; empty without a registry."""
    digest: str
    """Data digest of the pool it was fitted on."""
    kind: str
    """What tune questions recommend."""


def fit_predictor(
    config: Config,
    pool: Pool,
    table: ScoreTable,
    checkpoints: Path,
    log: Any = lambda step, values: None,
    say: Callable[[str], None] = lambda line: None,
) -> Predictor:
    """Fit every kind of predictor on the train fold, compare on the tune fold, take the recommended one.

    Raises
    ------
    PoolError
        If a fold has too few questions to fit or to tune.
    """
    train, tune = table.fold("train"), table.fold("tune")
    family, _ = choose_family(config.predictor.family, config.policy.target, train, tune)
    model = fit_and_compare(
        Fold(train.questions, train.scores),
        Fold(tune.questions, tune.scores),
        config.predictor.model_copy(update={"family": family}),
        target=config.policy.target,
        directory=checkpoints,
        cache=config.home.resolve() / STATES,
        log=log,
        say=say,
    )
    contract = pool.manifest.contract.fingerprint
    digest, score_map = pool.manifest.digest, table.score_map
    model.card = model.card.change(contract=contract, data_digest=digest, score_map=score_map)
    return model


def _train(config: Config, digest: str) -> tuple[str, str]:
    """Fit, track and register; returns run id and version."""
    pool = Pool.open(config.pool_location)
    table = load_scores(pool, config.folds)
    tracking = Tracking(config)
    parts = (config.predictor.model_dump_json(), config.folds.model_dump_json(), config.policy.target)
    settings = short_digest(repr((*parts, code_digest())))
    # Checkpoints are named by all that they depend on, so only the very same run resumes them.
    checkpoints = config.home.resolve() / "checkpoints" / f"{digest}-{settings}"
    computed = backbone.arithmetic(config.predictor.dtype)
    run = tracking.run("train", table, digest, computed_in=computed)
    with _exclusive_lock(checkpoints), run as run_id, temporary_folder(config) as folder:
        logger = get_run_logger()

        losses = ""

        def log(step: int, values: dict[str, float]) -> None:
            nonlocal losses
            losses = ", ".join(f"{k} {v:.4g}" for k, v in values.items() if k.endswith("loss")) or losses
            if total := int(values.pop(f"lora.{MAX_STEPS}", 0)):
                logger.info("lora, step %d of %d %s", step, total, losses, extra=counted(step, total))
            if values:
                tracking.metrics(values, step)

        predictor = fit_predictor(config, pool, table, checkpoints, log, logger.info)
        target = Path(folder) / "predictor"
        predictor.save(target)
        # Of all questions of the pool, for questions that are not in it. Validation and certificates refuse
        # it, since it has read calibration and test questions.
        if (whole := refit(predictor, Fold(table.questions, table.scores))) is not None:
            whole.save(target / REFIT)
        (target / "README.md").write_text(model_card(config, predictor.card, pool.manifest, table))
        tracking.metrics({**predictor.card.results, "strength": predictor.card.strength})
        tracking.table([r.model_dump() for r in predictor.card.compared], "compared.json")
        version = tracking.register(target)
        card = predictor.card
        tracking.tag(version, data_digest=digest, contract=card.contract, kind=card.kind)
    return run_id, version


@contextmanager
def _exclusive_lock(checkpoints: Path) -> Iterator[None]:
    """Checkpoints of one run at a time, removed when it ends well; the kernel frees a killed one's lock."""
    checkpoints.mkdir(parents=True, exist_ok=True)
    lock = FileLock(checkpoints / ".lock", timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise ConfigError(
            f"another run fits the same data and settings at this moment (in {checkpoints}): wait for "
            "it, and this command takes what it fitted"
        ) from error
    try:
        yield
        shutil.rmtree(checkpoints, ignore_errors=True)
    finally:
        lock.release()


def code_digest(root: Path = ROOT) -> str:
    """Sixteen hex digits of the sources that a fit depends on: a cached fit of other code is none."""
    files = [file for room in ("data", "models", "predictor") for file in (root / room).rglob("*.py")]
    files.append(root / "flows" / "train.py")
    return short_digest("\n".join(f"{file.relative_to(root)} {file_digest(file)}" for file in sorted(files)))


def _cache_key(_: Any, arguments: dict[str, Any]) -> str:
    """All that a fit depends on: data, predictor and folds, the code, and the registry."""
    config, digest = arguments["config"], arguments["digest"]
    parts = (
        config.predictor,
        config.policy.target,
        config.folds,
        config.tracking,
        config.tracking_uri,
        code_digest(),
        digest,
    )
    return short_digest(repr(parts))


@task(name="fit-predictor", task_run_name="fit-predictor", cache_key_fn=_cache_key, persist_result=True)
def fit_cached(config: Config, digest: str) -> tuple[str, str]:
    """One fit a data digest and predictor settings; a repeated run takes the registered one."""
    return _train(config, digest)


def require_replaceable(output: Path) -> None:
    """Look before anything is fitted.

    Raises
    ------
    ConfigError
        If ``output`` cannot be a folder, or holds files but no predictor.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        if any(output.iterdir()) and not (output / CARD).exists():
            raise ConfigError(f"--output {output} holds files but no predictor: name a new folder")
    except OSError as error:
        raise ConfigError(f"--output {output} cannot be written: {error}") from error


def replace_predictor(output: Path, new: Path) -> None:
    """Let ``output`` be a copy of ``new``: a file that only an older one had would be read with it."""
    require_replaceable(output)
    try:
        for old in output.iterdir():
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
        shutil.copytree(new, output, dirs_exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output {output} cannot be written: {error}") from error


@flow(name="train", flow_run_name="train")
def train(config: Config, output: Path | None = None) -> Trained:
    """Fit and register a challenger; ``output`` also gets it as plain files."""
    if output is not None:
        require_replaceable(output)
    manifest = Pool.open(config.pool_location).manifest
    require_reward_model(manifest.contract.reward_model, f"pool {config.pool_location}")
    digest = manifest.digest
    tracking = Tracking(config)
    run_id, version = fit_cached(config, digest)
    # Removed; or a new registry has given its number again; or its files are lost.
    if tracking.run_of(version) != run_id or not tracking.holds(version):
        get_run_logger().warning(
            "the cached fit is no longer registered, or its files are lost; fitting again"
        )
        run_id, version = fit_cached.with_options(refresh_cache=True)(config, digest)
    tracking.set_alias(CHALLENGER, version)
    if output is not None:
        with temporary_folder(config) as folder:
            replace_predictor(output, tracking.download(version, Path(folder)))
    create_markdown_artifact(
        f"Challenger version **{version}**, run `{run_id}`, data `{digest}`", key="challenger"
    )
    return Trained(run_id, version, digest, tracking.tags(version)["kind"])
