"""The decision log: what was believed, drawn and decided, one row a request, in rotated Parquet files.

Files are written aside and renamed, so each is whole or not there. `data.decision_log` reads them.
"""

import asyncio
import contextlib
import logging
import os
import re
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from predictor.contract import ScoreContract
from serving.draws import Answer, Ask
from serving.settings import LogSettings

logger = logging.getLogger("optscale.log")
VERSION = 1
_OURS = re.compile(r"(\d+)-\d+-\d+\.parquet")  # what else lies in the folder is not ours to delete
_TURN = pa.struct([("role", pa.string()), ("content", pa.string())])
_CANDIDATE = pa.struct(
    [
        ("round", pa.int32()),
        ("status", pa.string()),
        ("score", pa.float64()),
        ("step_scores", pa.list_(pa.float32())),
        ("tokens", pa.int32()),
        ("prompt_tokens", pa.int32()),
        ("reward_tokens", pa.int32()),
        ("seed", pa.int64()),
        ("seconds", pa.float64()),
        ("completion", pa.string()),
    ]
)
SCHEMA = pa.schema(
    [
        pa.field("time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("messages", pa.list_(_TURN)),
        pa.field("contract", pa.string(), nullable=False),
        pa.field("policy", pa.string(), nullable=False),
        pa.field("prior", pa.string(), nullable=False),
        pa.field("action", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("ended", pa.string(), nullable=False),
        pa.field("degraded", pa.list_(pa.string()), nullable=False),
        pa.field("seen", pa.int32(), nullable=False),
        pa.field("rounds", pa.int32(), nullable=False),
        pa.field("chosen", pa.int32()),
        pa.field("explored", pa.bool_(), nullable=False),
        pa.field("inclusion_probability", pa.float64(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("candidates", pa.list_(_CANDIDATE), nullable=False),
    ]
)


def make_row(
    answer: Answer,
    ask: Ask,
    contract: ScoreContract,
    request_id: str,
    seconds: float,
    text: bool,
) -> dict[str, Any]:
    """A request as a row.

    ``contract`` is the one that its candidates were sampled under. The chance with which the request was
    explored is the row's inclusion probability where it was, its complement where it was not.
    """
    candidates = [
        {
            "round": draw.round,
            "status": draw.status,
            "score": draw.score,
            "step_scores": draw.found.steps if draw.found and draw.score is not None else None,
            "tokens": draw.tokens,
            "prompt_tokens": draw.candidate.prompt_tokens if draw.candidate else 0,
            "reward_tokens": draw.found.tokens if draw.found else 0,
            "seed": draw.seed,
            "seconds": draw.seconds,
            "completion": draw.candidate.text if text and draw.candidate else None,
        }
        for draw in answer.draws
    ]
    chosen = next((n for n, draw in enumerate(answer.draws) if draw is answer.chosen), None)
    return {
        "time": datetime.now(UTC),
        "request_id": request_id,
        "question_id": ask.question.id,
        "messages": ask.question.as_chat() if text else None,
        "contract": contract.model_dump_json(),
        "policy": ask.policy.model_dump_json(),
        "prior": answer.prior.model_dump_json(),
        "action": answer.decision.action,
        "reason": answer.decision.reason,
        "ended": answer.ended,
        "degraded": list(answer.degraded),
        "seen": answer.seen,
        "rounds": answer.rounds,
        "chosen": chosen,
        "explored": ask.explore,
        "inclusion_probability": ask.share if ask.explore else 1 - ask.share,
        "seconds": seconds,
        "candidates": candidates,
    }


class DecisionLog:
    """Gathers rows and writes them, off the event loop; a disk that is full costs rows, not answers."""

    def __init__(self, folder: Path, settings: LogSettings) -> None:
        self.folder, self.settings = folder, settings
        self.rows: list[dict[str, Any]] = []
        self._full = asyncio.Event()
        self._ending = False
        self._written = 0

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row for the next file."""
        self.rows.append(row)
        if len(self.rows) >= self.settings.rows:
            self._full.set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write in the background until the block ends, and then what is left."""
        writer = asyncio.create_task(self._write_on())
        try:
            yield
        finally:
            # Told, not cancelled: a file whose writing waits for a thread would be lost.
            self._ending = True
            self._full.set()
            await writer
            await self.flush()

    async def _write_on(self) -> None:
        while not self._ending:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.seconds):
                    await self._full.wait()
            self._full.clear()
            await self.flush()

    async def flush(self) -> None:
        """Write what there is as one file."""
        rows, self.rows = self.rows, []
        if rows:
            try:
                await asyncio.to_thread(self._write, rows)
            except Exception:  # whatever it is, it costs these rows and not those to come
                logger.exception("%d decisions could not be logged to %s", len(rows), self.folder)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._written += 1
        name = f"{time.time_ns()}-{os.getpid()}-{self._written}.parquet"
        aside = self.folder / f".{name}.tmp"
        table = pa.Table.from_pylist(rows, schema=SCHEMA).replace_schema_metadata({"version": str(VERSION)})
        try:
            pq.write_table(table, aside, compression="zstd")
            aside.rename(self.folder / name)
        finally:
            aside.unlink(missing_ok=True)
            pa.default_memory_pool().release_unused()  # or each thread that ever wrote keeps its share
        ours = [(int(m[1]), file) for file in self.folder.iterdir() if (m := _OURS.fullmatch(file.name))]
        for _, old in sorted(ours)[: -self.settings.files]:
            old.unlink(missing_ok=True)
