"""Real servers that tests start: a free port, a process group, and an end that leaves nothing behind."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager, suppress

import psutil


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def running(command, health, log, environment=None, seconds=300):
    """A server from the moment that ``health`` answers until the block ends; gives its process."""
    with open(log, "w") as out:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + seconds
        while True:
            try:
                urllib.request.urlopen(health, timeout=5)
                break
            except OSError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[0]} did not start; see {log}") from error
                time.sleep(0.5)
        yield process
    finally:
        if process.poll() is None:
            # BentoML's workers have sessions of their own: the group alone does not reach them.
            started = psutil.Process(process.pid).children(recursive=True)
            os.killpg(process.pid, signal.SIGKILL)
            for child in started:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
        process.wait()
