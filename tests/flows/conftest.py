"""One Prefect server for all flows of a run."""

import pytest


@pytest.fixture(scope="session")
def prefect_server(home):
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield
