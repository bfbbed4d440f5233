"""The one file a user writes: every room's settings, composed; read from YAML, environment, flags.

Later wins: defaults, the YAML file, environment variables (``OPTSCALE_PREDICTOR__LORA__RANK=8``),
``--set predictor.lora.rank=8``. Secrets are no settings: they are read from the environment where
they are used, so no record of a run can hold one.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from data.errors import ConfigError
from data.folds import FoldSettings
from data.home import HOME
from data.record import Record, Uri, holds_secret
from data.validation import explain
from flows.draw_plan import CollectSettings
from models.settings import (
    DTYPE,
    GeneratorSettings,
    LocalGeneratorSettings,
    LocalRewardSettings,
    RewardSettings,
)
from predictor.goal import Goal
from predictor.learned.settings import PredictorSettings
from predictor.policies import AnyPolicy, Value
from predictor.settings import CertifySettings, MonitorSettings, Prices
from serving.settings import (
    CHAMPION,
    KEYS,
    KEYS_FILE,
    MORE_BUNDLES,
    OLD_OVERRIDES,
    OVERRIDES,
    GatewaySettings,
    old_overrides,
)

ROOT = Path(__file__).parent.parent
_VARIABLE = re.compile(r"\$\{(\w+)\}")
# What Kubernetes sets in every pod beside a service whose name begins with optscale; it is none of ours.
_OF_KUBERNETES = re.compile(
    r"OPTSCALE_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)=.*"
    r"|OPTSCALE_(\w+_)?PORT=(tcp|udp|sctp)://.*"
)


class PriceSettings(Record):
    """What tokens cost, for estimates; nothing is billed."""

    generator_per_million: float = Field(0.0, ge=0)
    """Price of a million generated tokens."""
    prompt_per_million: float = Field(0.0, ge=0)
    """Price of a million prompt tokens."""
    reward_per_million: float = Field(0.0, ge=0)
    """Price of a million tokens read by the reward model."""
    predictor_per_million: float | None = Field(None, ge=0)
    """Price of a million tokens read by the predictor; null: as the reward model's."""
    per_round: float = Field(0.0, ge=0)
    """What a round is worth to you, for the time that its answer waits; 0: ``certify.round_candidates``."""
    currency: str = "USD"
    generator_per_second: float | None = Field(None, gt=0)
    """Tokens a second that one GPU generates; null: unknown, and GPU hours are too."""
    reward_per_second: float | None = Field(None, gt=0)
    """Tokens a second that the reward model reads on one GPU; null: unknown, and GPU hours are too."""

    @property
    def predictor(self) -> float:
        """Price of a million tokens that the predictor reads."""
        known = self.predictor_per_million
        return self.reward_per_million if known is None else known

    def in_tokens(self) -> Prices:
        """All of them in generated tokens; where these have no price, what counts is tokens alone."""
        if not (million := self.generator_per_million):
            return Prices()
        return Prices(
            million=million,
            round=1e6 * self.per_round / million or None,
            reward=self.reward_per_million / million,
            predictor=self.predictor / million,
        )


class GateSettings(Record):
    """What a challenger must reach on the test fold to become champion."""

    mean_skill: float = 0.0
    """1 - MSE / MSE of the population's prior, for the mean score of a question."""
    std_skill: float = 0.0
    """The same for the standard deviation of a question's scores."""
    evidence_gain: float = 0.0
    """Log evidence a score (nats), over the population's prior."""
    bound_coverage: float = Field(0.0, ge=0, lt=1)
    """Share of hits, of the questions that N* calls feasible within the cap, after that many samples; N* is
    planned for .95. 0 asks for none."""
    refutation_level: float = Field(0.05, gt=0, lt=1)
    """Level of the one-sided tests by which test questions refute the certified risk."""

    def thresholds(self, losses: int) -> dict[str, float]:
        """What each metric must reach; the least p-value of several losses is held against its share."""
        floors = {name: getattr(self, name) for name in ("mean_skill", "std_skill", "evidence_gain")}
        floors |= {"bound_coverage": self.bound_coverage} if self.bound_coverage else {}
        return floors | {"refutation_p_value": self.level(losses)}

    def level(self, losses: int) -> float:
        """What the p-value of one of so many certified losses may not be below."""
        return self.refutation_level / max(losses, 1)


class TrackingSettings(Record):
    """Where MLflow keeps runs and models."""

    uri: str | None = None
    """Tracking URI; ``${NAME}`` stands for an environment variable, such as one with a database's password;
    null: an SQLite file in the state folder."""
    experiment: str = "optscale"
    """Experiment of all runs."""
    model: str = "optscale-predictor"
    """Name of the registered model."""
    timeout: float = Field(20.0, gt=0)
    """Seconds after which an MLflow server that does not answer is reported as unavailable."""

    @field_validator("uri")
    @classmethod
    def _no_secret(cls, uri: str | None) -> str | None:
        if uri is not None and holds_secret(_VARIABLE.sub("", uri)):
            raise ValueError(
                "it holds a secret, and settings are recorded with every run: write ${NAME} in its place and "
                "set that environment variable (URL-encoded), or leave it out and use MLFLOW_TRACKING_USER"
                "NAME and MLFLOW_TRACKING_PASSWORD or the database's own (PGPASSWORD)"
            )
        return uri


class ServeSettings(Record):
    """The service and its limits."""

    champion: Uri | None = None
    """The champion's manifest, a path or URI, which every gateway follows; null: in the state folder."""
    approval: bool = False
    """Whether a person has to approve of what passed the gate (`optscale approve`) before it is served."""
    port: int = Field(3000, ge=1, le=65535)
    """Port of `optscale serve`."""
    start_timeout: float = Field(180.0, gt=0)
    """Seconds that a bundle may take to become ready when it is checked."""


class Config(Record):
    """Everything a run depends on."""

    home: Path = Path(".optscale")
    """The one folder of all state: pool, MLflow, Prefect, bundles, converted models."""
    pool: Uri | None = None
    """Location of the pool, a path or URI; null: ``pool`` in the state folder."""
    generator: GeneratorSettings = LocalGeneratorSettings()
    """The model that answers."""
    reward: RewardSettings | None = LocalRewardSettings()
    """The process reward model; null: candidates are collected without scores."""
    collect: CollectSettings = CollectSettings()
    """Questions, candidates, parts and retries of a collection."""
    folds: FoldSettings = FoldSettings()
    """How questions are divided."""
    predictor: PredictorSettings = PredictorSettings()
    """What foretells a question's scores before any is drawn, and how it is fitted."""
    policy: AnyPolicy = Value(target=0.55, cap=32, token_price=2e-5, candidate_tokens=30, round_price=0.0012)
    """Its cap is the most that is drawn and its target the score that reports speak of; all of it is what is
    certified where nothing is chosen (``certify.choose``)."""
    goal: Goal = Goal()
    """What stopping early may cost; the cheapest policy that keeps it is certified and shipped."""
    certify: CertifySettings = CertifySettings()
    """How the policies to certify are chosen."""
    gate: GateSettings = GateSettings()
    """Promotion thresholds."""
    tracking: TrackingSettings = TrackingSettings()
    """MLflow."""
    prices: PriceSettings = PriceSettings()
    """Token prices, for estimates."""
    serve: ServeSettings = ServeSettings()
    """The service."""
    gateway: GatewaySettings | None = None
    """The gateway that the bundle is shipped with; null: the bundle only predicts and decides."""
    monitor: MonitorSettings = MonitorSettings()
    """Watching what is served."""

    @model_validator(mode="after")
    def _gateway_gives_what_the_policy_reads(self) -> Self:
        if self.gateway is not None and not self.certify.choose:
            self.gateway.require_usable(self.policy)
        return self

    @property
    def pool_location(self) -> str:
        """Where the pool is."""
        return self.pool or str(self.home.resolve() / "pool")

    @property
    def champion_location(self) -> str:
        """Where the manifest of the registered model's champion is."""
        return self.serve.champion or str(self.home.resolve() / "champions" / f"{self.tracking.model}.json")

    @property
    def tracking_uri(self) -> str:
        """Absolute MLflow tracking URI, with the environment's secrets: not to be printed or recorded.

        Raises
        ------
        ConfigError
            If it names an environment variable that is not set.
        """
        if self.tracking.uri is None:
            return f"sqlite:///{self.home.resolve() / 'mlflow.db'}"
        try:
            return _VARIABLE.sub(lambda named: os.environ[named[1]], self.tracking.uri)
        except KeyError as unset:
            name = unset.args[0]
            raise ConfigError(
                f"tracking.uri names ${{{name}}}, an environment variable that is not set"
            ) from unset


def load_config(file: str | Path | None = None, overrides: tuple[str, ...] = ()) -> Config:
    """Compose the config.

    Parameters
    ----------
    file : YAML file, or None.
    overrides : ``section.key=value`` items; the value is read as YAML.

    Raises
    ------
    ConfigError
        If a key is unknown or a value impossible; says which and where it was set.
    """
    tree = _read_file(Path(file)) if file is not None else {}
    for path, value, source in (*_read_environment(), *map(_parse_override, overrides)):
        _put(tree, path, value, source)
    try:
        return Config.model_validate(_merge(Config().model_dump(), tree, by_kind=True))
    except ValidationError as error:
        raise ConfigError(f"config{f' {file}' if file else ''}: {explain(error.errors(), Config)}") from error


def _read_file(file: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(file.read_bytes()) or {}
    except FileNotFoundError as error:
        raise ConfigError(f"config file {file} does not exist") from error
    except OSError as error:
        raise ConfigError(f"config file {file} cannot be read: {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"config {file} is not YAML: {error}") from error
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise ConfigError(f"config {file} must hold settings by name, such as `home: .optscale`")
    return tree


def _read_environment() -> Iterator[tuple[list[str], Any, str]]:
    """Path, value and name of each variable that is a setting; a misspelt one would be ignored in silence."""
    for name, text in sorted(os.environ.items()):  # a section comes before what is in it
        path = name.lower().removeprefix("optscale_").split("__")
        if not name.upper().startswith("OPTSCALE_") or _OF_KUBERNETES.fullmatch(f"{name}={text}"):
            continue
        if name == OLD_OVERRIDES and old_overrides():
            continue
        if path[0] in Config.model_fields:
            # Text becomes a number or a truth value where the setting is one; a file name stays text.
            structured = text == "null" or text[:1] in ("{", "[")
            yield path, _parse(text, name) if structured else text, name
        elif name not in OTHER_VARIABLES:
            raise ConfigError(
                f"environment variable {name} names no setting; settings are "
                f"{', '.join('OPTSCALE_' + field.upper() for field in Config.model_fields)}"
            )


def _parse_override(item: str) -> tuple[list[str], Any, str]:
    key, equals, text = item.partition("=")
    if not equals:
        raise ConfigError(f"--set {item}: write it as section.key=value")
    return key.strip().split("."), _parse(text, f"--set {item}"), f"--set {item}"


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: the value is not YAML: {error}") from error


def _put(tree: dict[str, Any], path: Sequence[str], value: Any, source: str) -> None:
    """Set what a path names; sections are merged."""
    *sections, last = path
    for section in sections:
        if tree.get(section) is None:
            tree[section] = {}
        tree = tree[section]
        if not isinstance(tree, dict):
            raise ConfigError(f"{source}: {section} is a single value by what was set before")
    tree[last] = _merge(tree.get(last), value)


def _merge(base: Any, over: Any, by_kind: bool = False) -> Any:
    """Lay ``over`` over ``base``; ``by_kind``: a section of another ``kind`` keeps nothing of ``base``."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    if by_kind and over.get("kind", base.get("kind")) != base.get("kind"):
        return over
    return base | {key: _merge(base.get(key), value, by_kind) for key, value in over.items()}


OTHER_VARIABLES = {
    *("OPTSCALE_BUNDLE", "OPTSCALE_CONFIG", DTYPE),
    *(OVERRIDES, MORE_BUNDLES, CHAMPION, KEYS, KEYS_FILE),
}


def enter_home(config: Config) -> None:
    """Point every library's state to the state folder; call before they are imported.

    Raises
    ------
    ConfigError
        If the folder cannot be made.
    """
    home = config.home.resolve()
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"state folder {home} (home, OPTSCALE_HOME) cannot be made: {error}") from error
    os.environ[HOME] = str(home)
    try:
        Path.home()
    except RuntimeError:  # a user without a home, as containers have them; libraries look for one at import
        os.environ["HOME"] = str(home)
    for name, value in _profile().items():
        os.environ.setdefault(name, value)
    for name, folder in (("PREFECT_HOME", "prefect"), ("BENTOML_HOME", "bentoml")):
        os.environ.setdefault(name, str(home / folder))
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    for name in ("NO_PROXY", "no_proxy"):  # no proxy leads to the servers that we start ourselves
        known = os.environ.get(name, "")
        if known != "*" and "127.0.0.1" not in known.split(","):
            os.environ[name] = ",".join([*filter(None, [known]), "127.0.0.1", "localhost"])


def _profile() -> dict[str, str]:
    """What the user's active Prefect profile says of the server; its file is in Prefect's own home."""
    home = os.environ.get("PREFECT_HOME") or Path.home() / ".prefect"
    try:
        found = tomllib.loads((Path(home) / "profiles.toml").read_text())
        profile = found["profiles"][os.environ.get("PREFECT_PROFILE") or found["active"]]
    except (OSError, KeyError, ValueError):
        return {}
    return {name: str(value) for name, value in profile.items() if name.startswith("PREFECT_API_")}


_QUIET = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "BENTOML_DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
