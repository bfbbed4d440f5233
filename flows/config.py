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
from pydantic import ValidationError, model_validator

from data.errors import ConfigError
from data.folds import FoldSettings
from data.home import HOME
from data.record import Record, Uri
from data.validation import explain
from flows.draw_plan import CollectSettings
from flows.settings import VARIABLE, GateSettings, PriceSettings, ServeSettings, TrackingSettings
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
from predictor.settings import CertifySettings, MonitorSettings
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
# What Kubernetes sets in every pod beside a service whose name begins with optscale; it is none of ours.
_OF_KUBERNETES = re.compile(
    r"OPTSCALE_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)=.*"
    r"|OPTSCALE_(\w+_)?PORT=(tcp|udp|sctp)://.*"
)


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
            return VARIABLE.sub(lambda named: os.environ[named[1]], self.tracking.uri)
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
        If the folder cannot be made or written.
    """
    home = config.home.resolve()
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"state folder {home} (home, OPTSCALE_HOME) cannot be made: {error}") from error
    if not os.access(home, os.W_OK | os.X_OK):
        raise ConfigError(
            f"state folder {home} (home, OPTSCALE_HOME) cannot be written by this user, or its file system "
            "is read-only: name another, or hand it over (chown)"
        )
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
