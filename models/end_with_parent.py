"""For processes that another one starts and that must not outlive it."""

import os
import threading


def end_with_parent() -> None:
    """End this process as soon as its standard input, a pipe that its parent holds, closes."""

    def watch() -> None:
        while os.read(0, 1):  # nothing comes until the pipe closes
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
