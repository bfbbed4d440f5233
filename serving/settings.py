"""Settings of the gateway: written in the config, kept in the bundle's card, overridden where it runs."""

import os
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from data.errors import ConfigError, as_fault
from data.home import HOME, state_home
from data.record import Record
from data.validation import parse
from models.settings import HttpGeneratorSettings, HttpRewardSettings
from predictor.policies import AnyPolicy

KEYS, KEYS_FILE = "OPTSCALE_API_KEYS", "OPTSCALE_API_KEYS_FILE"
"""Environment variables with API keys, commas between, and with the name of a file of them."""
OVERRIDES = "OPTSCALE_GATEWAY_FILE"
"""Environment variable that names a YAML file with settings that differ where the bundle runs; of several
bundles one each, a colon between."""
MORE_BUNDLES = "OPTSCALE_MORE_BUNDLES"
"""Environment variable with folders of further bundles to serve, a colon between."""
OLD_OVERRIDES = "OPTSCALE_GATEWAY"
"""What it was called; with YAML's braces it is the config's ``gateway``, which a bundle carries already."""

CHAMPION = "OPTSCALE_CHAMPION"
"""Environment variable with the path or URI of the champion's manifest: the service follows it."""


class LogSettings(Record):
    """The decision log: Parquet files, one row a request."""

    folder: str | None = None
    """Where they go; null: ``decisions`` in ``$OPTSCALE_HOME``, and nowhere without that variable."""
    text: bool = False
    """Also log messages and completions; without them a row is numbers and hashes."""
    rows: int = Field(1000, ge=1)
    """Rows of a file at most."""
    seconds: float = Field(60.0, gt=0)
    """Seconds after which what is logged is written, however few rows it has."""
    files: int = Field(10_000, ge=1)
    """Files that are kept; the oldest are deleted."""
    days: float | None = Field(None, gt=0)
    """Days that a file is kept at most; null: as long as there are not too many."""
    explore: float = Field(0.02, ge=0, lt=1)
    """Share of requests that are drawn to the full cap at once: only they are fit for certificates. Where the
    policy always draws its cap, all are."""

    def location(self) -> Path | None:
        """The folder, if there is one."""
        if self.folder is not None:
            return Path(self.folder)
        return state_home() / "decisions" if os.environ.get(HOME) else None


class GatewaySettings(Record):
    """The OpenAI-compatible gateway: who answers, who scores, and how far a request may go."""

    generator: HttpGeneratorSettings
    """The server that answers; requests for its ``model`` are served."""
    reward: HttpRewardSettings | None
    """The server that scores; null: nothing scores candidates, and the policy must go by answers alone."""
    per_request: int | None = Field(1, ge=1)
    """Candidates that one request asks the generator for. 1 lets the deadline keep those that have ended;
    null asks for a whole round at once, which is less work for the gateway."""
    ahead: int = Field(0, ge=0, le=1024)
    """Candidates kept in flight while a decision is pending: less latency for more tokens."""
    deadline: float = Field(120.0, gt=0, le=3600)
    """Seconds within which a request is answered, unless it says otherwise."""
    longest_deadline: float = Field(600.0, gt=0, le=3600)
    """Seconds that a request may ask for at most."""
    requests: int = Field(256, ge=1)
    """Requests under way at once; more are refused with 429."""
    body_bytes: int = Field(1_000_000, ge=1)
    """Bytes of a request's body at most."""
    passthrough: bool = True
    """Let the generator answer alone what Best-of-N does not fit, such as tools; false: 400."""
    keep_alive: float = Field(5.0, gt=0)
    """Seconds between the comments that a stream sends until its answer is chosen."""
    answers: str | None = Field(None, pattern=r"^[\w.]+:[\w.]+$")
    """``package.module:function`` that reads an answer, as ``collect.answers``; it must be there where the
    gateway runs."""
    without_reward: Literal["agreement", "refuse"] = "agreement"
    """Where no candidate can be scored: answer with the one that most agree with, or with 503."""
    agreement: int = Field(5, ge=1)
    """Candidates that vote then."""
    predictor_timeout: float = Field(5.0, gt=0)
    """Seconds after which the population's prior serves in place of the predictor's."""
    log: LogSettings = LogSettings()
    """The decision log."""

    @model_validator(mode="after")
    def _deadline_within_longest(self) -> Self:
        if self.deadline > self.longest_deadline:
            raise ValueError(
                f"deadline {self.deadline:g} is above longest_deadline {self.longest_deadline:g}"
            )
        return self

    def require_usable(self, policy: AnyPolicy) -> None:
        """Raise ConfigError if the policy reads scores, and there is no reward model to give them."""
        if self.reward is None and policy.reads_scores:
            raise ConfigError(
                f"gateway.reward is null, so nothing scores candidates, but the policy ({policy.kind}, "
                f"{policy.selection.kind}) reads scores: take one by answers, such as policy: {{kind: "
                f"agreement, cap: {policy.cap}}} or {{kind: fixed, cap: {policy.cap}, selection: {{kind: "
                "majority}}, or name a reward model"
            )


def spend_file() -> Path:
    """Where it is kept what API keys have spent.

    Raises
    ------
    ConfigError
        If no place is named.
    """
    if not os.environ.get(HOME):
        raise ConfigError(f"API keys have limits: name a folder to keep their counts in, with ${HOME}")
    return state_home() / "spent.db"


def override(settings: GatewaySettings | None, bundle: int = 0) -> GatewaySettings | None:
    """The settings with those of ``$OPTSCALE_GATEWAY_FILE`` in their place, for the bundle of that number.

    Raises
    ------
    ConfigError
        If the file cannot be read, or they are no settings together.
    """
    files = (os.environ.get(OVERRIDES) or old_overrides() or "").split(os.pathsep)
    if not (file := files[bundle] if bundle < len(files) else ""):
        return settings
    with as_fault(ConfigError, f"${OVERRIDES}, {file}", OSError, yaml.YAMLError):
        changes = yaml.safe_load(Path(file).read_text())
    base = settings.model_dump(mode="json") if settings else {}
    merged = _merge(base, changes if isinstance(changes, dict) else {})
    return parse(merged, GatewaySettings, ConfigError, f"${OVERRIDES}, {file}")


def old_overrides() -> str | None:
    """The file that the old name of `OVERRIDES` names, if it names one."""
    given = os.environ.get(OLD_OVERRIDES, "")
    return None if given[:1] in ("", "{", "[") or given == "null" else given


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    both = [k for k, v in changes.items() if isinstance(v, dict) and isinstance(base.get(k), dict)]
    return {**base, **changes, **{k: _merge(base[k], changes[k]) for k in both}}
