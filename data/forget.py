"""Forgetting: questions, or what is older than a day, leave the pool, the decision log and its feedback.

A part or a log file is written anew without them before the old one goes: a process that is killed leaves
them there or gone, and everything else whole.
"""

from collections import Counter
from collections.abc import Collection
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from data.errors import PoolError, as_fault
from data.feedback import drop_feedback
from data.files import parquet_bytes, read_parquet, write_whole
from data.pool import Pool


def forget_in_pool(
    location: str, ids: Collection[str], before: datetime | None, grace: float
) -> Counter[str]:
    """Take questions out of a pool; its old parts go once they are ``grace`` seconds old.

    A question goes whole where one of its candidates is older than ``before``. Readers that opened the pool
    earlier read the old parts as long as these are there.

    Raises
    ------
    PoolError
        If the pool cannot be read or written.
    """
    pool, count = Pool.open(location), Counter[str]()

    def keep(table: pa.Table) -> pa.Table:
        gone = table.filter(_is_to_go(table, ids, before))["question_id"].unique()
        mask = pc.is_in(table["question_id"], gone)
        count["questions"] += len(gone)
        count["candidates"] += pc.sum(mask).as_py() or 0
        return table.filter(pc.invert(mask))

    pool.rewrite(keep)
    count["old_parts"] = pool.sweep(grace)
    return count


def forget_in_log(folder: Path, ids: Collection[str], before: datetime | None) -> Counter[str]:
    """Take requests out of a decision log, and what was said of them.

    Raises
    ------
    PoolError
        If a file cannot be read or written.
    """
    count, requests = Counter[str](), set[str]()
    for file in sorted(folder.glob("*.parquet")):
        with as_fault(PoolError, f"{file} cannot be written anew", OSError, pa.ArrowException):
            table = read_parquet(file.read_bytes())
            mask = _is_to_go(table, ids, before)
            gone, rest = table.filter(mask), table.filter(pc.invert(mask))
            if len(gone) and len(rest):
                write_whole(file, parquet_bytes(rest))
            elif len(gone):
                file.unlink()
        requests.update(gone["request_id"].to_pylist())
        count["requests"] += len(gone)
    count["verdicts"] = drop_feedback(folder, requests, before)
    return count


def _is_to_go(table: pa.Table, ids: Collection[str], before: datetime | None) -> pa.ChunkedArray:
    """(rows,) whether a row is of one of the questions, or older."""
    mask = pc.is_in(table["question_id"], pa.array(sorted(ids), pa.string()))
    if before is None:
        return mask
    return pc.or_(mask, pc.less(table["time"], pa.scalar(before, table["time"].type)))
