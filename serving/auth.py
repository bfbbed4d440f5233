"""API keys: where they are read, and what refuses a request without one."""

import hashlib
import hmac
import os
from collections.abc import Sequence
from pathlib import Path

from starlette.authentication import AuthenticationBackend, AuthenticationError
from starlette.requests import HTTPConnection
from starlette.responses import Response

from data.errors import ConfigError
from serving import metrics
from serving.errors import RequestError, error_response
from serving.settings import KEYS, KEYS_FILE

PROBES = frozenset({"/livez", "/readyz", "/healthz"})
"""Routes that need no key: they tell nothing but a status."""


def read_keys() -> list[bytes]:
    """Digests of the keys in ``$OPTSCALE_API_KEYS`` (commas between) and its file (one a line); none: open.

    Raises
    ------
    ConfigError
        If the file cannot be read, or the variables are set and hold no key.
    """
    given, file = os.environ.get(KEYS), os.environ.get(KEYS_FILE)
    try:
        lines = Path(file).read_text().splitlines() if file else []
    except OSError as error:
        raise ConfigError(f"${KEYS_FILE}: {error}") from error
    keys = [key for raw in (*(given or "").split(","), *lines) if (key := raw.strip())]
    if not keys and (given is not None or file):
        raise ConfigError(
            f"${KEYS} or ${KEYS_FILE} is set and holds no key; unset both to serve without keys"
        )
    return [_digest(key) for key in keys]


class ApiKeys(AuthenticationBackend):
    """``Authorization: Bearer KEY`` for every route but the probes; without keys all are open."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self.keys = keys

    async def authenticate(self, conn: HTTPConnection) -> None:
        if not self.keys or conn.scope["path"] in PROBES:
            return
        scheme, _, key = conn.headers.get("authorization", "").partition(" ")
        digest = _digest(key.strip())
        # Every key is compared, each in constant time, so the time tells nothing about them.
        known = sum(hmac.compare_digest(digest, one) for one in self.keys)
        if not known or scheme.lower() != "bearer":
            raise AuthenticationError("give a key: Authorization: Bearer KEY")


def refuse(conn: HTTPConnection, error: AuthenticationError) -> Response:
    """The answer to a request without a key."""
    metrics.REFUSED.labels("key").inc()
    headers = {"www-authenticate": "Bearer"}
    return error_response(RequestError(401, str(error), "authentication_error", headers=headers))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="replace")).digest()
