import asyncio

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.contract import Sampling
from data.decision_log import SCHEMA, DecisionLog
from data.errors import PoolError
from data.log_import import import_log
from data.pool import Pool
from predictor.policies import FixedN
from predictor.prior import Prior
from serving.best_of_n import BestOfN
from serving.draws import Ask, log_row
from tests.decision_log import ASKED, CONTRACT, Arithmetic, write_log


def test_old_files_are_deleted(tmp_path):
    log = DecisionLog(tmp_path, rows=1, files=3)
    world = Arithmetic()

    async def main():
        best_of_n = BestOfN(world, world, world, CONTRACT, Prior.centred(0.5, 0.2))
        async with log.running():
            for number in range(6):
                ask = Ask(ASKED[0], FixedN(cap=1), Sampling(), 0, asyncio.get_running_loop().time() + 9)
                log.add(log_row(await best_of_n.answer(ask), CONTRACT, f"r{number}", 0.1, False))

    asyncio.run(main())
    files = sorted(tmp_path.glob("*"))
    assert len(files) == 3
    assert not any(file.name.endswith(".tmp") for file in files)


def test_what_is_no_log_is_named(tmp_path):
    with pytest.raises(PoolError, match="no decision log"):
        import_log(tmp_path, str(tmp_path / "pool"))
    (tmp_path / "1-1-1.parquet").write_bytes(b"PAR1")
    with pytest.raises(PoolError, match="1-1-1.parquet cannot be read"):
        import_log(tmp_path, str(tmp_path / "pool"))


def test_a_row_that_cannot_be_written_costs_no_other_and_what_is_not_ours_stays(tmp_path):
    (tmp_path / "merged.parquet").write_bytes(b"of somebody else")
    lost = []
    log = DecisionLog(tmp_path, rows=1, files=3, seconds=0.01, lost=lost.append)
    world = Arithmetic()

    async def main():
        best_of_n = BestOfN(world, world, world, CONTRACT, Prior.centred(0.5, 0.2))
        async with log.running():
            for number in range(7):
                ask = Ask(ASKED[0], FixedN(cap=1), Sampling(), 0, asyncio.get_running_loop().time() + 9)
                row = log_row(await best_of_n.answer(ask), CONTRACT, f"r{number}", 0.1, False)
                row["seen"] = 2**70 if number == 2 else row["seen"]
                log.add(row)
                await asyncio.sleep(0.1)

    asyncio.run(main())
    kept = sorted(file for file in tmp_path.iterdir() if file.name != "merged.parquet")
    assert lost == [1]  # and the metric says so
    assert [pq.read_table(file)["request_id"].to_pylist() for file in kept] == [["r4"], ["r5"], ["r6"]]
    assert (tmp_path / "merged.parquet").read_bytes() == b"of somebody else"


def test_a_log_of_version_1_is_read(tmp_path):
    """Its candidates have neither raw scores nor answers of their own."""
    write_log(tmp_path / "log", [(q, True) for q in ASKED], text=True)
    fields = list(SCHEMA.field("candidates").type.value_type)
    kept = pa.list_(pa.struct([field for field in fields if field.name not in ("raw_score", "answer_key")]))
    before = SCHEMA.set(SCHEMA.get_field_index("candidates"), pa.field("candidates", kept, nullable=False))
    for file in (tmp_path / "log").iterdir():
        old = pa.Table.from_pylist(pq.read_table(file).to_pylist(), before)
        pq.write_table(old.replace_schema_metadata({"version": "1"}), file)
    found = import_log(tmp_path / "log", str(tmp_path / "pool"))
    assert found["questions"] == len(ASKED)
    rows = list(Pool.open(str(tmp_path / "pool")).rows())
    assert {(row["raw_score"], row["answer_key"], row["score"]) for row in rows} == {(None, None, 0.25)}
