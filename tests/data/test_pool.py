import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data import pool as pool_module
from data.errors import ContractError, PoolError, ScoreError
from data.folds import FoldSettings
from data.pool import Pool, pending
from data.rows import SCHEMA, question_of
from data.scores import load_scores
from tests.helpers import make_contract, make_pool, make_questions, score_rows


@pytest.fixture
def pool(tmp_path):
    return make_pool(tmp_path / "pool", questions=40)


def part_file(pool, number=0):
    return f"{pool.location}/parts/{pool.manifest.parts[number].file}"


def test_what_was_appended_is_read_back(tmp_path, contract):
    pool = Pool.create(str(tmp_path / "p"), contract)
    asked = make_questions(3)
    rows = score_rows(asked, contract)
    pool.append(rows)
    again = list(Pool.open(pool.location).rows())
    assert [r["score"] for r in again] == [r["score"] for r in rows]
    assert [question_of(r) for r in again[::6]] == asked
    assert pending(make_questions(5), Pool.open(pool.location)) == make_questions(5)[3:]


def test_digest_follows_the_rows(tmp_path, contract):
    one, two = (make_pool(tmp_path / name, questions=20, contract=contract) for name in "ab")
    before = one.manifest.digest
    one.append(score_rows(make_questions(1, start=900), contract))
    assert one.manifest.digest != before
    assert len(two.manifest.digest) == 16


def test_a_question_is_not_doubled(pool):
    with pytest.raises(PoolError, match="already holds"):
        pool.append(score_rows(make_questions(1), pool.manifest.contract))


def test_rows_of_another_contract_do_not_get_in(pool):
    with pytest.raises(ContractError):
        Pool.create(pool.location, make_contract(reward_model="other"))


def test_a_row_with_a_hole_is_refused_and_nothing_is_written(pool):
    files = sorted(os.listdir(f"{pool.location}/parts"))
    rows = score_rows(make_questions(1, start=500), pool.manifest.contract)
    rows[2]["status"] = None
    with pytest.raises(PoolError, match="status"):
        pool.append(rows)
    rows[2]["status"] = 7.5
    with pytest.raises(PoolError, match="schema"):
        pool.append(rows)
    assert sorted(os.listdir(f"{pool.location}/parts")) == files


READ = """
import sys
from pathlib import Path
import psutil
from data.decision_log import read_log
from data.pool import Pool
before = psutil.Process().num_threads()
assert list(Pool.open(sys.argv[1]).rows()) and list(read_log(Path(sys.argv[2])))
print(psutil.Process().num_threads() - before)
"""


@pytest.mark.slow
def test_reading_starts_no_thread(pool, tmp_path):
    """Arrow's own may outlast what it reads, and abort a short run when it ends."""
    table = pa.table({"a": [1]}).replace_schema_metadata({"version": "1"})
    pq.write_table(table, tmp_path / "1-1-1.parquet")
    command = [sys.executable, "-c", READ, pool.location, str(tmp_path)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "0\n"


def test_a_truncated_part_is_named(pool):
    path = part_file(pool, 1)
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) // 2)
    with pytest.raises(PoolError, match=os.path.basename(path)):
        list(pool.rows())


def test_a_part_of_another_schema_is_named(pool):
    path = part_file(pool)
    pq.write_table(pa.table({"score": [0.5]}), path)
    with pytest.raises(PoolError, match=os.path.basename(path)):
        list(pool.rows())


def test_a_lost_part_is_named(pool):
    os.remove(part_file(pool))
    with pytest.raises(PoolError, match="gone"):
        list(pool.rows())


@pytest.mark.parametrize(
    "document", ["{", "[" * 100_000, "[]", '{"schema_version": 99}', '{"schema_version": 1}']
)
def test_a_broken_manifest_is_an_error_of_ours(pool, document):
    with open(f"{pool.location}/manifest.json", "w") as file:
        file.write(document)
    with pytest.raises(PoolError, match="manifest"):
        Pool.open(pool.location)


@pytest.mark.slow
def test_a_disk_that_fills_leaves_the_pool_as_it_was(pool):
    """In a process of its own whose files may not grow beyond what the pool's manifest needs."""
    script = f"""
import resource
from data.pool import Pool
from data.errors import PoolError
from tests.helpers import make_questions, score_rows
pool = Pool.open({pool.location!r})
rows = score_rows(make_questions(200, start=500), pool.manifest.contract)
resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))
try:
    pool.append(rows)
except PoolError as error:
    print(error)
"""
    before = Pool.open(pool.location).manifest
    files = sorted(os.listdir(f"{pool.location}/parts"))
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "cannot be written, and nothing was added" in found.stdout, found.stderr
    assert Pool.open(pool.location).manifest == before
    assert sorted(os.listdir(f"{pool.location}/parts")) == files


def test_a_manifest_that_cannot_be_written_names_nothing_new(pool, monkeypatch):
    """Neither on the disk nor to whoever goes on with this pool."""
    before, write = pool.manifest, pool_module.write_whole

    def write_parts_alone(path, content, fs):
        if path.endswith("manifest.json"):
            raise OSError("no space left")
        write(path, content, fs)

    monkeypatch.setattr(pool_module, "write_whole", write_parts_alone)
    with pytest.raises(PoolError, match="nothing was added"):
        pool.append(score_rows(make_questions(5, start=500), before.contract))
    assert pool.manifest == Pool.open(pool.location).manifest == before


def test_two_that_start_one_pool_lose_no_part(tmp_path, contract, monkeypatch):
    """One is slow to write the empty manifest; the other makes the pool and appends in the meantime."""
    location, writing = str(tmp_path / "p"), threading.Event()
    write = pool_module.write_whole

    def write_slowly(path, content, fs):
        if threading.current_thread() is slow:
            writing.set()
            time.sleep(0.5)
        write(path, content, fs)

    monkeypatch.setattr(pool_module, "write_whole", write_slowly)
    slow = threading.Thread(target=Pool.create, args=(location, contract))
    slow.start()
    writing.wait()
    Pool.create(location, contract).append(score_rows(make_questions(1), contract))
    slow.join()
    assert len(Pool.open(location).question_ids) == 1


@pytest.mark.slow
def test_processes_that_start_one_pool_at_once_all_add_to_it(tmp_path):
    script = f"""
import sys
from data.pool import Pool
from tests.helpers import make_contract, make_questions, score_rows
sys.stdin.readline()
pool = Pool.create({str(tmp_path / "p")!r}, make_contract())
pool.append(score_rows(make_questions(1, start=int(sys.argv[1])), make_contract()))
"""
    started = [
        subprocess.Popen([sys.executable, "-c", script, str(n)], stdin=subprocess.PIPE) for n in range(3)
    ]
    for process in started:
        process.stdin.close()
    assert [process.wait() for process in started] == [0, 0, 0]
    assert len(Pool.open(str(tmp_path / "p")).question_ids) == 3
    assert not list((tmp_path / "p").glob("*.tmp"))


@pytest.mark.slow
def test_a_writer_that_is_killed_frees_the_pool(pool):
    script = f"""
import time
from data.pool import Pool
with Pool.open({pool.location!r})._writing("it is held"):
    print("held", flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with open(f"{pool.location}/.lock") as handle, pytest.raises(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as earlier releases lock it
    process.kill()
    process.wait()
    pool.append(score_rows(make_questions(1, start=900), pool.manifest.contract))


def test_no_module_asks_for_what_unix_alone_has():
    sources = [file for room in ("data", "flows", "models", "predictor", "serving") for file in glob(room)]
    assert not [f for f in sources if re.search(r"^\s*(import|from) fcntl", f.read_text(), re.MULTILINE)]


def glob(room):
    return Path(__file__).parents[2].joinpath(room).rglob("*.py")


def test_columns_are_those_of_the_rows(pool):
    names = ("completion_tokens", "question_id")
    rows = list(pool.rows())
    assert pool.columns(*names).to_pydict() == {name: [row[name] for row in rows] for name in names}
    with open(part_file(pool, 1), "r+b") as file:
        file.truncate(100)
    with pytest.raises(PoolError, match=os.path.basename(part_file(pool, 1))):
        pool.columns(*names)


def test_columns_of_an_empty_pool_are_empty(tmp_path, contract):
    assert Pool.create(str(tmp_path / "p"), contract).columns("score").num_rows == 0


@pytest.mark.parametrize("column", ["completion", "answer"])
def test_half_a_character_is_refused_and_nothing_is_written(pool, column):
    rows = score_rows(make_questions(1, start=500), pool.manifest.contract)
    rows[1][column] = "half \ud83d"
    with pytest.raises(PoolError, match="schema"):
        pool.append(rows)
    assert Pool.open(pool.location).manifest == pool.manifest


@pytest.mark.parametrize("location", ["file", "file/below", "folder", "s3://", "nothing://there", "locked"])
def test_a_location_that_can_be_no_pool_is_an_error_of_ours(tmp_path, contract, location):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder" / "manifest.json").mkdir(parents=True)
    (tmp_path / "locked" / ".lock").mkdir(parents=True)
    if "://" not in location:
        location = str(tmp_path / location)
    with pytest.raises(PoolError):
        Pool.open(location)
    if location != "s3://":  # that one is asked for over the network
        with pytest.raises(PoolError):
            Pool.create(location, contract)


def test_no_pool_is_an_error_of_ours(tmp_path):
    with pytest.raises(PoolError, match="collect one"):
        Pool.open(str(tmp_path / "nowhere"))


def test_a_file_the_manifest_does_not_name_is_not_in_the_pool(pool):
    shutil.copy(part_file(pool), f"{pool.location}/parts/stray.parquet")
    assert sum(1 for _ in pool.rows()) == 40 * 6


def test_manifest_is_readable_json(pool):
    with open(f"{pool.location}/manifest.json") as file:
        document = json.load(file)
    assert document["contract"]["aggregation"] == "min"
    assert len(document["parts"]) == 2


def test_scores_come_as_arrays_with_misses_as_0(tmp_path, contract):
    pool = Pool.create(str(tmp_path / "p"), contract)
    rows = score_rows(make_questions(2), contract)
    rows[1] |= {"status": "cut"}
    rows[4] |= {"status": "failed", "score": None, "step_scores": None, "completion": None}
    pool.append(rows[:9])
    table = load_scores(pool, FoldSettings())
    by_id = {q.id: place for place, q in enumerate(table.questions)}
    first, second = (by_id[q.id] for q in make_questions(2))
    assert table.drawn[[first, second]].tolist() == [6, 3]
    assert (table.scores[first] == 0).tolist() == [False, True, False, False, True, False]
    assert (table.scores[second] >= 0).tolist() == [True] * 3 + [False] * 3
    assert table.tokens[second].tolist() == [10, 11, 12, 0, 0, 0]


def test_a_candidate_listed_twice_is_an_error(tmp_path, contract):
    pool = Pool.create(str(tmp_path / "p"), contract)
    rows = score_rows(make_questions(1), contract)
    pool.append([*rows, rows[0]])
    with pytest.raises(PoolError, match="twice"):
        load_scores(pool, FoldSettings())


def test_an_empty_pool_is_an_error(tmp_path, contract):
    with pytest.raises(PoolError, match="empty"):
        load_scores(Pool.create(str(tmp_path / "p"), contract), FoldSettings())


def test_schema_holds_what_audits_need():
    for name in (
        "contract",
        "seed",
        "status",
        "inclusion_probability",
        "time",
        "step_scores",
        "schema_version",
    ):
        assert name in SCHEMA.names


def as_version_1(pool):
    """The pool as releases before the raw scores and given answers wrote it."""
    with open(f"{pool.location}/manifest.json") as file:
        document = json.load(file)
    for part in document["parts"]:
        path = f"{pool.location}/parts/{part['file']}"
        table = pq.read_table(path)
        one = pa.array([1] * len(table), pa.int16())
        table = table.drop_columns(["raw_score", "answer_key"])
        pq.write_table(table.set_column(0, table.schema.field(0), one), path)
        with open(path, "rb") as file:
            part["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    del document["contract"]["scale"]
    with open(f"{pool.location}/manifest.json", "w") as file:
        json.dump(document | {"schema_version": 1}, file)
    return Pool.open(pool.location)


def test_a_pool_of_version_1_is_read_and_added_to(pool):
    rows, fingerprint = list(pool.rows()), pool.manifest.contract.fingerprint
    old = as_version_1(pool)
    assert old.manifest.contract.fingerprint == fingerprint
    assert list(old.rows()) == [row | {"schema_version": 1} for row in rows]
    assert all(table.schema.equals(SCHEMA) for table in old.tables())
    assert old.columns("raw_score", "score").to_pydict() == {
        "raw_score": [None] * len(rows),
        "score": [row["score"] for row in rows],
    }
    more = score_rows(make_questions(1, start=900), old.manifest.contract)
    old.append([row | {"answer_key": "4"} for row in more])
    assert Pool.open(pool.location).manifest.schema_version == 2
    assert [row["answer_key"] for row in Pool.open(pool.location).rows()] == [None] * len(rows) + ["4"] * len(
        more
    )


@pytest.mark.parametrize(
    ("name", "digest", "contract"),
    [("pool", "46db71738ef4dab9", "6474755bad4ce596"), ("gsm8k", "abed379f189b5b3f", "a265040c96f3a464")],
)
def test_the_shipped_pools_keep_their_names(name, digest, contract):
    manifest = Pool.open(str(Path(__file__).parents[2] / "data" / name)).manifest
    assert (manifest.digest, manifest.contract.fingerprint) == (digest, contract)


def test_contracts_of_another_scale_or_without_a_reward_model_are_others():
    contract = make_contract()
    others = [make_contract(scale="raw"), make_contract(reward_model=None)]
    assert len({contract.fingerprint, *(other.fingerprint for other in others)}) == 3
    assert make_contract(scale="unit").fingerprint == contract.fingerprint
    assert others[0].score([-2.5, 7]) == -2.5
    with pytest.raises(ScoreError, match="be finite"):
        others[0].score([float("nan")])
