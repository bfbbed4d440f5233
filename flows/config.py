"""The one file a user writes: every room's settings, composed; read from YAML, environment, flags.

Later wins: defaults, the YAML file, environment variables (``OPTSCALE_PREDICTOR__LORA__RANK=8``),
``--set predictor.lora.rank=8``. Secrets are no settings: they are read from the environment where
they are used, so no record of a run can hold one.
"""

import os
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from data.errors import ConfigError
from data.folds import FoldSettings
from data.home import HOME
from data.record import Record, Uri, holds_secret
from data.validation import explain
from models.settings import (
    DTYPE,
    GeneratorSettings,
    LocalGeneratorSettings,
    LocalRewardSettings,
    RewardSettings,
)
from predictor.learned.settings import PredictorSettings
from predictor.policies import AnyPolicy, Value
from predictor.settings import CertifySettings
from serving.settings import KEYS, KEYS_FILE, OVERRIDES, GatewaySettings

ROOT = Path(__file__).parent.parent
_VARIABLE = re.compile(r"\$\{(\w+)\}")


class CollectSettings(Record):
    """How the pool is filled."""

    questions: tuple[str, ...] = ("data/questions/arithmetic.jsonl",)
    """Question sets: JSON lines files."""
    candidates: int = Field(32, ge=1)
    """Candidates a question; the cap that policies are judged against."""
    part_questions: int = Field(16, ge=1)
    """Questions a part of the pool; what a crash can cost at most."""
    limit: int | None = Field(None, ge=1)
    """New questions to collect in one run, at most."""
    seed: int = 0
    """Base of the candidates' seeds."""
    retries: int = Field(2, ge=0)
    """Further tries of a part whose collection failed."""
    parts_in_flight: int = Field(1, ge=1)
    """Parts collected at once: 2 lets a server generate while the last part is scored."""
    failed_share: float = Field(0.1, ge=0, le=1)
    """A part with a greater share of failed candidates is not kept: something is broken."""


class PriceSettings(Record):
    """What tokens cost, for estimates; nothing is billed."""

    generator_per_million: float = Field(0.0, ge=0)
    """Price of a million generated tokens."""
    prompt_per_million: float = Field(0.0, ge=0)
    """Price of a million prompt tokens."""
    reward_per_million: float = Field(0.0, ge=0)
    """Price of a million tokens read by the reward model."""
    currency: str = "USD"
    generator_per_second: float | None = Field(None, gt=0)
    """Tokens a second that one GPU generates; null: unknown, and GPU hours are too."""
    reward_per_second: float | None = Field(None, gt=0)
    """Tokens a second that the reward model reads on one GPU; null: unknown, and GPU hours are too."""


class GateSettings(Record):
    """What a challenger must reach on the test fold to become champion."""

    mean_skill: float = 0.0
    """1 - MSE / MSE of the population's prior, for the mean score of a question."""
    std_skill: float = 0.0
    """The same for the standard deviation of a question's scores."""
    evidence_gain: float = 0.0
    """Log evidence a score (nats), over the population's prior."""
    refuted: float = Field(0.05, gt=0, lt=1)
    """Level of the one-sided exact tests by which test questions refute the certified risks; each risk is
    tested at its even share of it (Bonferroni)."""

    def thresholds(self, losses: int) -> dict[str, float]:
        """What each metric must reach; the least p-value of several losses is held against its share."""
        floors = {name: getattr(self, name) for name in ("mean_skill", "std_skill", "evidence_gain")}
        return floors | {"refutation_p_value": self.level(losses)}

    def level(self, losses: int) -> float:
        """What the p-value of one of so many certified losses may not be below."""
        return self.refuted / losses


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
    reward: RewardSettings = LocalRewardSettings()
    """The process reward model."""
    collect: CollectSettings = CollectSettings()
    """Questions, candidates, parts and retries of a collection."""
    folds: FoldSettings = FoldSettings()
    """How questions are divided."""
    predictor: PredictorSettings = PredictorSettings()
    """What foretells a question's scores before any is drawn, and how it is fitted."""
    policy: AnyPolicy = Value(target=0.55, cap=32, token_price=2e-5, candidate_tokens=30, round_price=0.0012)
    """The stopping policy: its target and cap are what is certified; all of it where nothing is chosen."""
    certify: CertifySettings = CertifySettings()
    """What is promised of the policy, and how the cheapest that keeps it is chosen."""
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

    @property
    def pool_location(self) -> str:
        """Where the pool is."""
        return self.pool or str(self.home.resolve() / "pool")

    @property
    def tracking_uri(self) -> str:
        """Absolute MLflow tracking URI, with the environment's secrets: not to be printed or recorded.

        Raises
        ------
        ConfigError
            If it names an environment variable that is not set.
        """

        def value(named: re.Match[str]) -> str:
            if (found := os.environ.get(named[1])) is None:
                raise ConfigError(
                    f"tracking.uri names ${{{named[1]}}}, an environment variable that is not set"
                )
            return found

        if self.tracking.uri:
            return _VARIABLE.sub(value, self.tracking.uri)
        return f"sqlite:///{self.home.resolve() / 'mlflow.db'}"


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
    written = _read_file(Path(file)) if file is not None else {}
    _reject_unknown_environment()

    class Sourced(BaseSettings, Config):
        model_config = SettingsConfigDict(
            env_prefix="OPTSCALE_",
            env_nested_delimiter="__",
        )

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            read = InitSettingsSource(settings_cls, init_kwargs=written)
            return (init_settings, env_settings, read, _Defaults(settings_cls))

    try:
        sourced = Sourced(**_parse_overrides(overrides))
        return Config.model_validate(sourced.model_dump())
    except ValidationError as error:
        raise ConfigError(f"config{f' {file}' if file else ''}: {explain(error.errors(), Config)}") from error
    except SettingsError as error:
        raise ConfigError(f"environment variables OPTSCALE_*: {error}: {error.__cause__}") from error


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


class _Defaults(PydanticBaseSettingsSource):
    """The defaults as the last source, so a section can be given in part.

    Where another ``kind`` of a section is chosen, the defaults of the usual kind do not apply.
    """

    def get_field_value(self, field: Any, field_name: str) -> Any:
        raise NotImplementedError  # only whole trees are asked for

    def __call__(self) -> dict[str, Any]:
        return _of_same_kind(Config().model_dump(), self.current_state)


def _of_same_kind(defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    kept = {}
    for key, value in defaults.items():
        over = given.get(key)
        if not isinstance(value, dict) or not isinstance(over, dict):
            kept[key] = value
        elif over.get("kind", value.get("kind")) == value.get("kind"):
            kept[key] = _of_same_kind(value, over)
    return kept


def _parse_overrides(overrides: tuple[str, ...]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for item in overrides:
        key, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"--set {item}: write it as section.key=value")
        node = tree
        *sections, last = key.strip().split(".")
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise ConfigError(f"--set {item}: {section} is a single value by an earlier --set")
        try:
            node[last] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError(f"--set {item}: the value is not YAML: {error}") from error
    return tree


def _reject_unknown_environment() -> None:
    """A misspelt variable would be ignored in silence; make it an error."""
    for name in os.environ:
        if name.startswith("OPTSCALE_"):
            field = name.removeprefix("OPTSCALE_").split("__")[0].lower()
            if field not in Config.model_fields and name not in OTHER_VARIABLES:
                raise ConfigError(
                    f"environment variable {name} names no setting; settings are "
                    f"{', '.join('OPTSCALE_' + f.upper() for f in Config.model_fields)}"
                )


OTHER_VARIABLES = {"OPTSCALE_BUNDLE", "OPTSCALE_CONFIG", DTYPE, OVERRIDES, KEYS, KEYS_FILE}


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
    for name, folder in (("PREFECT_HOME", "prefect"), ("BENTOML_HOME", "bentoml")):
        os.environ.setdefault(name, str(home / folder))
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


_QUIET = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "BENTOML_DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
