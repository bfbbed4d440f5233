"""What a command shows on standard error while flows run; what libraries write goes to a file.

Flows say how far they are by the logs of their runs, so that a Prefect server has it too. A terminal shows
the last of it on one line, with its stage and the time left; elsewhere each new thing is a line.
"""

import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from textwrap import shorten
from typing import TextIO

from rich.console import Console

from data.errors import ConfigError

ROOT = Path(__file__).parent.parent
PACKAGES = {"data", "models", "predictor", "serving", "flows"}
LONGEST = 100  # characters of a message that are shown
EVERY = 30.0  # seconds between two lines about the same thing, where there is no terminal


class Progress(logging.Handler):
    """Show what the project's own code logs.

    A record's ``done`` and ``total`` (`counted`) give the time left, from a message's second record on:
    pieces of one kind take about as long.
    """

    def __init__(self, stream: TextIO, stages: Sequence[str]) -> None:
        super().__init__()
        self.console = Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self.status = self.console.status("starting") if self.console.is_terminal else None
        self.stages = stages
        self.stage = self.message = self.text = ""
        self.stage_began = self.began = self.written = time.monotonic()
        self.first = 0
        if self.status:
            self.status.start()

    def emit(self, record: logging.LogRecord) -> None:
        stage = getattr(record, "flow_name", self.stage)
        if stage != self.stage and stage in self.stages:
            self.end_stage()
            self.stage, self.stage_began = stage, time.monotonic()
        if not is_own(record):
            return
        if record.levelno >= logging.WARNING:
            self.console.print(f"{record.levelname}: {record.getMessage()}", style="yellow")
        else:
            self._show(record, getattr(record, "done", 0), getattr(record, "total", 0))

    def _show(self, record: logging.LogRecord, done: int, total: int) -> None:
        now, new = time.monotonic(), record.msg != self.message
        if new:
            self.message, self.began, self.first = record.msg, now, done
        self.text = shorten(record.getMessage(), LONGEST)
        pace = (now - self.began) / (done - self.first) if done > self.first else 0.0
        line = self._line(self.text, f"{clock(pace * (total - done))} left" if pace and done < total else "")
        if self.status:
            self.status.update(line)
        elif new or now - self.written > EVERY:
            self.console.print(line)
            self.written = now

    def end_stage(self) -> None:
        """Leave a line with the last that was said and how long it took."""
        if self.stage:
            last = self.text if self.status else ""  # elsewhere it stands there already
            self.console.print(self._line(last, f"done in {clock(time.monotonic() - self.stage_began)}"))
        self.stage = self.message = self.text = ""

    def _line(self, *parts: str) -> str:
        count = len(self.stages)
        number = f"[{self.stages.index(self.stage) + 1}/{count}] " if self.stage and count > 1 else ""
        return " · ".join(part for part in (number + self.stage, *parts) if part)

    def close(self) -> None:
        if self.status:
            self.status.stop()
        super().close()


def counted(done: int, total: int) -> dict[str, int]:
    """For ``extra`` of a log: so many of so many like pieces are done."""
    return {"done": done, "total": total}


def is_own(record: logging.LogRecord) -> bool:
    """Whether the project's code has logged this, not a library."""
    file = Path(record.pathname)
    return file.is_relative_to(ROOT) and file.relative_to(ROOT).parts[0] in PACKAGES


def clock(seconds: float) -> str:
    """Minutes and seconds, or from an hour on hours and minutes."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


@contextmanager
def shown(folder: Path, name: str, stages: Sequence[str]) -> Iterator[None]:
    """Show progress on standard error; all else that is written inside goes to a file in ``folder``.

    Raises
    ------
    ConfigError
        If nothing can be written there.
    """
    log = folder / f"{datetime.now():%Y-%m-%dT%H-%M-%S}-{name}.log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = log.open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"the state folder cannot be written ({error}): name another with home or OPTSCALE_HOME, or let "
            "this user write there"
        ) from error
    with _standard_error() as terminal, opened as file:
        print(f"log: {log}", file=terminal, flush=True)
        with _written_to(file):
            progress = Progress(terminal, stages)
            try:
                import prefect.main  # noqa: F401  # it sets logging up

                logging.getLogger().addHandler(progress)
                yield
                progress.end_stage()
            finally:
                logging.getLogger().removeHandler(progress)
                progress.close()


@contextmanager
def _standard_error() -> Iterator[TextIO]:
    """A stream of its own, which stays where it is when standard error goes elsewhere."""
    try:
        number = os.dup(sys.stderr.fileno())
    except OSError:  # it is no file: somebody caught it in memory
        yield sys.stderr
        return
    with open(number, "w", encoding=sys.stderr.encoding, errors="replace") as stream:  # noqa: PTH123
        yield stream


@contextmanager
def _written_to(file: TextIO) -> Iterator[None]:
    """By descriptors: libraries write by logs, warnings, prints, from C, and in processes that they start."""
    streams = {1: sys.stdout, 2: sys.stderr}
    kept = {number: os.dup(number) for number in streams}
    try:
        for number, stream in streams.items():
            stream.flush()
            os.dup2(file.fileno(), number)
        yield
    finally:
        for number, stream in streams.items():
            stream.flush()
            os.dup2(kept[number], number)
            os.close(kept[number])
