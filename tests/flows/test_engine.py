import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from flows.engine import wait
from tests.servers import free_port


class Health(BaseHTTPRequestHandler):
    """A server that fails at first, as a proxy before one that is restarted does."""

    answers = (503, 200)

    def do_GET(self):
        self.server.asked.append(self.path)
        self.send_response(self.answers[min(len(self.server.asked), 2) - 1])
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.slow
def test_a_run_begins_once_the_server_answers():
    port, begun = free_port(), threading.Event()
    url = f"http://127.0.0.1:{port}/api"
    waiting = threading.Thread(target=lambda: (wait(url), begun.set()), daemon=True)
    waiting.start()
    assert not begun.wait(1.5)  # nothing listens there
    with HTTPServer(("127.0.0.1", port), Health) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert begun.wait(30)
        server.shutdown()
    assert len(server.asked) >= 2  # the failure was no answer; a loaded machine may ask once more
    assert set(server.asked) == {"/api/health"}


def test_who_has_waited_long_enough_lets_prefect_say_why():
    started = time.monotonic()
    wait(f"http://127.0.0.1:{free_port()}/api", patience=0)
    assert time.monotonic() - started < 30
