"""One Prefect server for all flows of a run: what `prefect server start` starts, with its scheduler."""

import os
import sys

import pytest

from tests.servers import free_port, running


def prefect_command(home, **settings):
    """Command, health route and environment of a Prefect server whose state is in ``home``."""
    url = f"http://127.0.0.1:{(port := free_port())}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    return command, f"{url}/health", {**os.environ, **quiet, "PREFECT_HOME": str(home), **settings}


@pytest.fixture(scope="session")
def prefect_server(server_state):
    """For flows, which find it by the settings."""


@pytest.fixture(scope="session")
def server_state(home, tmp_path_factory):
    """Folder of the state of the server that the settings name."""
    from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

    folder = tmp_path_factory.mktemp("prefect")
    command, health, environment = prefect_command(folder)
    url = health.removesuffix("/health")
    # Logs are sent by a thread that would wait at the end for a server that is gone.
    settings = {PREFECT_API_URL: url, PREFECT_LOGGING_TO_API_ENABLED: False}
    with running(command, health, folder / "log", environment), temporary_settings(settings):
        yield folder
