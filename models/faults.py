"""Why a server failed, in words: its own, whatever form they have, with its URL and what to try."""

import html
import json
import os
import re
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import openai

from models.settings import HttpSettings

REASON = 300
"""Characters of a server's own words at most."""
_MARKUP = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.DOTALL | re.IGNORECASE)


def reason_in(body: Any) -> str:
    """What a body says is wrong, in at most `REASON` characters.

    Parameters
    ----------
    body : JSON, as text or read, of any of the forms that servers have (``error``, ``detail`` or ``message``
        with a text, an object or a list), plain text, or HTML.
    """
    return " ".join(_words(body).split())[:REASON]


def _words(body: Any) -> str:
    if isinstance(body, list):
        return "; ".join(map(_words, body))
    if isinstance(body, dict):
        for name in ("error", "detail", "message", "msg", "title"):
            if isinstance(said := body.get(name), str | list | dict) and said:
                place = ".".join(map(str, body.get("loc") or ()))  # of pydantic's errors
                return f"{place}: {_words(said)}" if place else _words(said)
        return json.dumps(body)
    if not isinstance(body, str):
        return str(body)
    if body.lstrip()[:1] in ("{", "["):
        try:
            return _words(json.loads(body))
        except ValueError:
            return body
    return html.unescape(_MARKUP.sub(" ", body))


def explain_fault(error: BaseException, settings: HttpSettings) -> str:
    """Why a request failed: the server's words, the URL that was asked, and what may mend it."""
    url, status = settings.base_url, 200
    if isinstance(error, openai.APIError):
        url = str(error.request.url)
    if isinstance(error, openai.APIStatusError):
        status = error.status_code
        said = f"{status} {reason_in(error.response.text)}".strip()
    elif isinstance(error, openai.APITimeoutError | TimeoutError):
        seconds = settings.timeout if isinstance(error, openai.APITimeoutError) else settings.deadline
        said, status = f"no whole answer within {seconds:g} s", 0
    elif isinstance(error, openai.APIConnectionError):
        cause = error.__cause__ or error  # of a connection that does not come in time, a kind and no words
        said, status = f"no connection: {str(cause) or type(cause).__name__}", 0
    elif isinstance(error, KeyError):
        said = f"an answer without {error}"
    else:
        said = str(error) or type(error).__name__
    hint = _hint(status, said, settings)
    return f"{said} ({url}{f'; {hint}' if hint else ''})"


def _hint(status: int, said: str, settings: HttpSettings) -> str:
    """What to try; empty where nothing suggests itself."""
    variable, place = settings.api_key_variable, urlsplit(settings.base_url)
    if status in {401, 403}:
        return f"${variable} {'holds another key' if variable in os.environ else 'is not set'}"
    if status in {200, 404, 405} and not place.path.rstrip("/").endswith("/v1"):
        return "a base_url mostly ends in /v1"
    if status in {400, 404} and "model" in said.lower():
        return f"the model is set to {settings.model!r}"
    proxy = getproxies().get(place.scheme)
    if status in {0, 407, 502, 503, 504} and proxy and not proxy_bypass(place.hostname or ""):
        return f"asked through the environment's proxy; NO_PROXY={place.hostname} goes without"
    return ""
