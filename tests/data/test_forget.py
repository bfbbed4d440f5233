"""What is forgotten is gone from every file, and nothing else is."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from data.decision_log import DecisionLog, read_log
from data.errors import PoolError
from data.feedback import Feedback, add_feedback, read_feedback
from data.forget import forget_in_log, forget_in_pool
from data.log_import import import_log
from data.pool import Pool
from tests.decision_log import ASKED, write_log
from tests.helpers import make_pool, make_questions


def test_questions_leave_the_pool_and_the_others_stay(tmp_path):
    location = str(tmp_path / "pool")
    pool = make_pool(location, questions=60, candidates=3)
    rows = {(r["question_id"], r["candidate"]): r for r in pool.rows()}
    gone = {question.id for question in make_questions(60)[15:25]}
    found = forget_in_pool(location, {*gone, "nobody"}, None, grace=0)
    assert (found["questions"], found["candidates"], found["old_parts"]) == (10, 30, 2)
    left = Pool.open(location)
    assert {(r["question_id"], r["candidate"]): r for r in left.rows()} == {
        key: row for key, row in rows.items() if key[0] not in gone
    }
    assert left.question_ids == pool.question_ids - gone
    kept = b"".join(file.read_bytes() for file in (tmp_path / "pool").rglob("*") if file.is_file())
    assert not any(question.encode() in kept for question in gone)
    with pytest.raises(PoolError, match="gone though the manifest lists it"):
        list(pool.rows())  # whoever had opened it before is told


def test_old_parts_stay_for_a_while_where_that_is_asked(tmp_path):
    location = str(tmp_path / "pool")
    pool = make_pool(location, questions=20)
    before = datetime.now(UTC) + timedelta(days=1)
    assert forget_in_pool(location, (), before, grace=3600)["old_parts"] == 0
    assert Pool.open(location).question_ids == set()
    assert len(list(pool.rows())) == 120
    assert forget_in_pool(location, (), before, grace=0) == Counter(
        {"old_parts": 1, "questions": 0, "candidates": 0}
    )


def test_requests_leave_the_log_with_what_was_said_of_them(tmp_path):
    write_log(tmp_path, [(question, True) for question in ASKED], text=True)
    rows = list(read_log(tmp_path))
    for row in rows:
        add_feedback(
            tmp_path, Feedback(request_id=row["request_id"], verdict="right", who="w", when=row["time"])
        )
    gone = {ASKED[0].id, ASKED[4].id}
    assert forget_in_log(tmp_path, gone, None) == Counter({"requests": 2, "verdicts": 2})
    assert list(read_log(tmp_path)) == [row for row in rows if row["question_id"] not in gone]
    assert len(read_feedback(tmp_path)) == 4
    assert import_log(tmp_path, str(tmp_path / "pool"))["questions"] == 4
    later = datetime.now(UTC) + timedelta(days=1)
    assert forget_in_log(tmp_path, (), later) == Counter({"requests": 4, "verdicts": 4})
    assert list(tmp_path.glob("*.parquet")) == []
    assert forget_in_log(tmp_path, (), later) == Counter({"requests": 0, "verdicts": 0})


def test_a_log_keeps_no_file_for_longer_than_its_days(tmp_path):
    write_log(tmp_path, [(question, True) for question in ASKED[:3]])
    (file,) = tmp_path.glob("*.parquet")
    written = file.name.partition("-")[0]
    old = file.rename(tmp_path / file.name.replace(written, str(int(written) - 2 * 86_400 * 10**9)))
    log = DecisionLog(tmp_path, days=1)
    log._write([row | {"time": datetime.now(UTC)} for row in read_log(tmp_path)][:1])
    assert not old.exists()
    assert len(list(read_log(tmp_path))) == 1
