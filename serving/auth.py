"""API keys: where they are read, and what refuses a request without one."""

import hashlib
import hmac
import os
import re
from collections.abc import Sequence
from pathlib import Path

import yaml
from starlette.authentication import AuthenticationBackend, AuthenticationError
from starlette.requests import HTTPConnection
from starlette.responses import Response

from data.errors import ConfigError, as_fault
from data.record import Record
from data.validation import parse
from serving import metrics
from serving.errors import RequestError, error_response
from serving.keys import ApiKey
from serving.settings import KEYS, KEYS_FILE

PROBES = frozenset({"/livez", "/readyz", "/healthz"})
"""Routes that need no key: they tell nothing but a status."""


_YAML = re.compile("^keys:", re.MULTILINE)


class KeysFile(Record):
    """A file of keys with limits."""

    keys: tuple[ApiKey, ...]


def read_keys() -> list[ApiKey]:
    """The keys in ``$OPTSCALE_API_KEYS`` (commas between) and its file; none: all routes are open.

    The file has one key a line; or, in YAML, under ``keys`` their digests and limits (see `ApiKey`).

    Raises
    ------
    ConfigError
        If the file cannot be read, two keys share a name, or the variables are set and hold no key.
    """
    given, file = os.environ.get(KEYS), os.environ.get(KEYS_FILE)
    with as_fault(ConfigError, f"${KEYS_FILE}", OSError, yaml.YAMLError):
        text = Path(file).read_text() if file else ""
        named = yaml.safe_load(text) if _YAML.search(text) else {"keys": ()}
    limited = parse(named, KeysFile, ConfigError, f"${KEYS_FILE}, {file}").keys
    lines = [] if limited else text.splitlines()
    digests = [_digest(key) for raw in (*(given or "").split(","), *lines) if (key := raw.strip())]
    keys = [*limited, *(ApiKey(name=digest[:8], sha256=digest) for digest in dict.fromkeys(digests))]
    if not keys and (given is not None or file):
        raise ConfigError(
            f"${KEYS} or ${KEYS_FILE} is set and holds no key; unset both to serve without keys"
        )
    if len({key.name for key in keys}) < len(keys):
        raise ConfigError(f"${KEYS_FILE}, {file}: two keys have the same name")
    return keys


class ApiKeys(AuthenticationBackend):
    """``Authorization: Bearer KEY`` for every route but the probes; without keys all are open."""

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self.keys = keys

    async def authenticate(self, conn: HTTPConnection) -> None:
        if not self.keys or conn.scope["path"] in PROBES:
            return
        scheme, _, key = conn.headers.get("authorization", "").partition(" ")
        digest = _digest(key.strip())
        # Every key is compared, each in constant time, so the time tells nothing about them.
        known = [one for one in self.keys if hmac.compare_digest(digest, one.sha256)]
        if not known or scheme.lower() != "bearer":
            raise AuthenticationError("give a key: Authorization: Bearer KEY")
        conn.state.key = known[0]


def refuse(conn: HTTPConnection, error: AuthenticationError) -> Response:
    """The answer to a request without a key."""
    metrics.REFUSED.labels("key").inc()
    headers = {"www-authenticate": "Bearer"}
    return error_response(RequestError(401, str(error), "authentication_error", headers=headers))


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode(errors="replace")).hexdigest()
