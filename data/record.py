"""Base of every settings class: frozen, strict about unknown keys, documented field by field."""

import re
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict

_SECRET = re.compile(
    r"passw|secret|api_?-?key|access_?key|signature|authorization|^(sig|token|key|pwd)$", re.I
)


class Record(BaseModel):
    """Immutable settings; a misspelt key is an error, and every docstring below a field is its help."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def is_secret(name: str) -> bool:
    """Whether a value of this name would be a secret, by its name."""
    return bool(_SECRET.search(name))


def holds_secret(uri: str) -> bool:
    """Whether a URI has a password, a login to a web server, or a secret among its parameters."""
    try:
        parts = urlsplit(uri)
        login = parts.password or (parts.scheme.startswith("http") and parts.username)
    except ValueError:  # no URI, so no login in it
        return False
    return bool(login) or any(is_secret(name) for name, _ in parse_qsl(parts.query))


def _refuse_secret(uri: str) -> str:
    if holds_secret(uri):
        raise ValueError(
            "it holds a secret, and settings are recorded with every run: leave it out and use the service's "
            "own environment variables (api_key_variable, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
        )
    return uri


Uri = Annotated[str, AfterValidator(_refuse_secret)]
"""A path or URI without a secret in it: settings are recorded and printed."""
