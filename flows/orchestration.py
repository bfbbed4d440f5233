"""The Prefect server that flows report to: the one that is named, else one that ends with this process."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pkgutil import resolve_name
from typing import Any

from data.errors import OrchestrationError
from models import end_with_parent

START_TIMEOUT = 180.0
SERVER = (
    "uvicorn --factory prefect.server.api.server:create_app --log-level error --timeout-graceful-shutdown 5"
)
_started: list[Any] = []  # a server ends when its process is no longer referred to


def run_flow(name: str, *arguments: Any) -> Any:
    """Import a flow, ``module:function``, and run it.

    Raises
    ------
    OrchestrationError
        If there is no Prefect server; see `prefect_server`.
    """
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        start_server()  # it takes about as long to start as a flow to be imported: both at once
    flow = resolve_name(name)
    with prefect_server():
        return flow(*arguments)


def start_server() -> None:
    """Start a server on a free port and let PREFECT_API_URL name it; flows ask it once it is ready.

    Prefect's own starts only when a flow begins, and stays behind where this process is killed.
    """
    from prefect.context import refresh_global_settings_context

    with socket.create_server(("127.0.0.1", 0)) as listener:  # who asks it early waits
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        number = listener.fileno()
        command = [sys.executable, "-P", end_with_parent.__file__, *SERVER.split(), "--fd", str(number)]
        server = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            pass_fds=(number,),
            start_new_session=True,
            env=os.environ | {"PREFECT__SERVER_EPHEMERAL": "1"},
        )
    _started.append(server)
    refresh_global_settings_context()


@contextmanager
def prefect_server() -> Iterator[None]:
    """Run flows inside: their server is asked before anything is computed, and its failures are one line.

    Raises
    ------
    OrchestrationError
        If PREFECT_API_URL is not set, or the server that it names is away, refuses the key, or fails.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    if not url:
        raise OrchestrationError(
            "schedules need a Prefect server: start one (prefect server start) and set "
            "PREFECT_API_URL=http://HOST:4200/api"
        )
    patience = {"timeout": START_TIMEOUT} if _started else None
    try:
        with get_client(sync_client=True, httpx_settings=patience) as client:
            client.read_flows(limit=1)  # its health route is open even where all others want a key
        yield
    except PrefectHTTPStatusError as error:
        status = error.response.status_code
        hint = "set PREFECT_API_AUTH_STRING or PREFECT_API_KEY" if status in (401, 403) else "see its log"
        raise OrchestrationError(f"Prefect at PREFECT_API_URL={url} answered {status}: {hint}") from error
    except (httpx.TransportError, httpx.InvalidURL) as error:
        hint = "see the log" if _started else "start it, or unset the variable to run without one"
        raise OrchestrationError(
            f"no Prefect server answers at PREFECT_API_URL={url} ({type(error).__name__}: {error}): {hint}"
        ) from error
