"""What a worker runs a flow with: Prefect's engine, once the server answers.

Prefect's client waits for a server that it has reached before, and not for one that it has yet to reach: a
run that a worker starts while the server is restarted would crash. `prefect.yaml` names this module.
"""

import runpy
import time

import httpx
from prefect.settings import PREFECT_API_URL

PATIENCE = 240.0
"""Seconds that the server may be away; a run that is silent for longer is taken for dead (`flows.deploy`)."""


def wait(url: str, patience: float = PATIENCE) -> None:
    """Until a Prefect server answers at its API's URL, or ``patience`` is over: then its client says why."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            if not httpx.get(f"{url}/health", timeout=5).is_server_error:  # the route is open to all
                return
        except httpx.TransportError:
            pass
        time.sleep(1)


if __name__ == "__main__":
    wait(PREFECT_API_URL.value() or "")
    runpy.run_module("prefect.engine", run_name="__main__")
