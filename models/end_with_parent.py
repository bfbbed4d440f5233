"""For processes that another one starts and that must not outlive it.

``python end_with_parent.py MODULE ARGUMENT …`` runs a module that knows nothing of it.
"""

import os
import runpy
import signal
import sys
import threading


def end_with_parent() -> None:
    """End this process by SIGTERM as soon as its standard input, a pipe that its parent holds, closes."""

    def watch() -> None:
        while os.read(0, 1):  # nothing comes until the pipe closes
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    end_with_parent()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
