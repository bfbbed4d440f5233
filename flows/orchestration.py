"""The Prefect server that flows report to: asked before anything is computed, its failures in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from data.errors import OrchestrationError


@contextmanager
def prefect_server(required: bool = False) -> Iterator[None]:
    """Run flows inside; without PREFECT_API_URL they use a temporary server of their own.

    Raises
    ------
    OrchestrationError
        If the server named by PREFECT_API_URL is away, refuses the key, or fails while flows run; or if
        none is named and one is ``required``.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    if not url:
        if required:
            raise OrchestrationError(
                "schedules need a Prefect server: start one (prefect server start) and set "
                "PREFECT_API_URL=http://HOST:4200/api"
            )
        yield
        return
    try:
        with get_client(sync_client=True) as client:
            client.read_flows(limit=1)  # its health route is open even where all others want a key
        yield
    except PrefectHTTPStatusError as error:
        status = error.response.status_code
        hint = "set PREFECT_API_AUTH_STRING or PREFECT_API_KEY" if status in (401, 403) else "see its log"
        raise OrchestrationError(f"Prefect at PREFECT_API_URL={url} answered {status}: {hint}") from error
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise OrchestrationError(
            f"no Prefect server answers at PREFECT_API_URL={url} ({type(error).__name__}: {error}): "
            "start it, or unset the variable to run without one"
        ) from error
