"""The decision log: what was believed, drawn and decided, one row a request, in rotated Parquet files.

The gateway writes it; `data.log_import` takes it to the pool.
"""

import asyncio
import contextlib
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from data.errors import PoolError, as_fault
from data.files import parquet_bytes, read_parquet, write_whole
from data.rows import MESSAGES, TIME
from data.rows import SCHEMA as POOL_SCHEMA

logger = logging.getLogger("optscale.log")
VERSION = b"2"
FAILED = "the generator failed on some candidates"
"""How the ``degraded`` of a row begins that has candidates without an answer."""
_OURS = re.compile(r"(\d+)-\d+-\d+\.parquet")  # what else lies in the folder is not ours to delete
AS_IN_POOL = (
    *("round", "status", "score", "step_scores", "prompt_tokens", "reward_tokens", "seed", "completion"),
    *("raw_score", "answer_key"),  # since version 2
)
_CANDIDATE = pa.struct(
    [
        *((name, POOL_SCHEMA.field(name).type) for name in AS_IN_POOL),
        ("tokens", pa.int32()),
        ("seconds", pa.float64()),
    ]
)
_TEXTS = ("request_id", "question_id", "contract", "policy", "prior", "action", "reason", "ended")
SCHEMA = pa.schema(
    [
        pa.field("time", TIME, nullable=False),
        *(pa.field(name, pa.string(), nullable=False) for name in _TEXTS),
        pa.field("messages", MESSAGES),
        pa.field("degraded", pa.list_(pa.string()), nullable=False),
        *(pa.field(name, pa.int32(), nullable=False) for name in ("seen", "rounds")),
        *(pa.field(name, pa.int32()) for name in ("chosen", "votes")),
        *(pa.field(name, pa.string()) for name in ("selection", "model_version", "promise")),
        pa.field("explored", pa.bool_(), nullable=False),
        pa.field("inclusion_probability", pa.float64(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("candidates", pa.list_(_CANDIDATE), nullable=False),
    ]
)


@dataclass(eq=False)
class DecisionLog:
    """Gathers rows and writes them, off the event loop; a disk that is full costs rows, not answers.

    A file has at most ``rows`` rows and is written after ``seconds`` however few it has; ``files`` are kept,
    the newest, and none for longer than ``days``. Each is written aside and renamed, so it is whole or not
    there. ``lost`` is told how many rows could not be written.
    """

    folder: Path
    rows: int = 1000
    seconds: float = 60.0
    files: int = 10_000
    days: float | None = None
    lost: Callable[[int], object] = lambda rows: None
    _queue: asyncio.Queue[dict[str, Any] | None] = field(init=False, default_factory=asyncio.Queue)
    _written: int = field(init=False, default=0)

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row for the next file."""
        self._queue.put_nowait(row)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write in the background until the block ends, and then what is left."""
        writer = asyncio.create_task(self._write_on())
        try:
            yield
        finally:
            # Told, not cancelled: a file whose writing waits for a thread would be lost.
            self._queue.put_nowait(None)
            await writer

    async def _write_on(self) -> None:
        going = True
        while going:
            rows = list[dict[str, Any]]()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.seconds):
                    while going and len(rows) < self.rows:
                        row = await self._queue.get()
                        going = row is not None
                        rows += [row] if row else []
            if rows:
                try:
                    await asyncio.to_thread(self._write, rows)
                except Exception:  # whatever it is, it costs these rows and not those to come
                    self.lost(len(rows))
                    logger.exception("%d decisions could not be logged to %s", len(rows), self.folder)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._written += 1
        name = f"{time.time_ns()}-{os.getpid()}-{self._written}.parquet"
        table = pa.Table.from_pylist(rows, schema=SCHEMA).replace_schema_metadata({"version": VERSION})
        try:
            write_whole(self.folder / name, parquet_bytes(table))
        finally:
            pa.default_memory_pool().release_unused()  # or each thread that ever wrote keeps its share
        ours = [(when, file) for file in self.folder.iterdir() if (when := written(file)) is not None]
        aged = 0 if self.days is None else time.time_ns() - self.days * 86_400e9
        for place, (when, file) in enumerate(sorted(ours, reverse=True)):
            if place >= self.files or when < aged:
                file.unlink(missing_ok=True)


def read_log(folder: Path) -> Iterator[dict[str, Any]]:
    """Every row of a log, file by file.

    Raises
    ------
    PoolError
        If there is none, or a file cannot be read.
    """
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise PoolError(f"{folder} holds no decision log (*.parquet); is it the gateway's log.folder?")
    for file in files:
        yield from read_rows(file)


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of one file of a log; raises PoolError where it cannot be read."""
    with as_fault(PoolError, f"{file} cannot be read", OSError, pa.ArrowException):
        table = read_parquet(file.read_bytes())
    version = (table.schema.metadata or {}).get(b"version")
    if version not in (b"1", VERSION):
        raise PoolError(f"{file} is no decision log of a version up to {VERSION.decode()}, but {version!r}")
    return table.to_pylist()


def written(file: Path) -> int | None:
    """When a file of a log was written, in nanoseconds since 1970; None where it is no file of a log."""
    found = _OURS.fullmatch(file.name)
    return found and int(found[1])
