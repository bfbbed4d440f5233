"""One Prefect server for all flows of a run: what `prefect server start` starts, with its scheduler."""

import os
import shutil
import sqlite3
import sys

import pytest

from tests.conftest import ROOT
from tests.servers import free_port, running

KEY = "admin:pass"
"""Without it the server answers no request but that for its health."""


def pytest_collection_modifyitems(items):
    """What waits for a scheduled moment comes after other tests that share its server."""
    first = ("tests/flows/test_schedule.py", "tests/flows/test_faults.py")

    def place(item):
        waits = ("test_the_cron_makes_runs_and_one_runs_at_a_time", "test_an_alarm_starts_a_retrain")
        return (
            2
            if item.name in waits
            else next((n for n, file in enumerate(first) if item.nodeid.startswith(file)), 3)
        )

    items.sort(key=place)


@pytest.fixture(scope="session")
def prefect_server(home, tmp_path_factory):
    """For flows, which find it by the settings; gives its URL."""
    import prefect
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_URL,
        PREFECT_LOGGING_TO_API_ENABLED,
        temporary_settings,
    )

    folder, url = tmp_path_factory.mktemp("prefect"), f"http://127.0.0.1:{(port := free_port())}/api"
    # Making its database takes longer than all else that it does; each release has a form of its own.
    kept, made = ROOT / ".optscale" / f"prefect-{prefect.__version__}.db", folder / "prefect.db"
    if kept.exists():
        shutil.copy(kept, made)
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
    own = {"PREFECT_HOME": str(folder), "PREFECT_SERVER_API_AUTH_STRING": KEY}
    environment = os.environ | own | {"PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    # Logs are sent by a thread that would wait at the end for a server that is gone.
    settings = {PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: KEY, PREFECT_LOGGING_TO_API_ENABLED: False}
    with running(command, f"{url}/health", folder / "log", environment), temporary_settings(settings):
        if not kept.exists():
            whole = kept.with_suffix(f".{os.getpid()}")
            with sqlite3.connect(made) as there, sqlite3.connect(whole) as copy:
                there.backup(copy)
            whole.rename(kept)
        yield url


@pytest.fixture(scope="session")
def server():
    """Models over HTTP that answer in as many wrong ways as are asked for."""
    from tests.models.faulty_server import FaultyServer

    started = FaultyServer()
    yield started
    started.close()
