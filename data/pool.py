"""The pool: all scored candidates, as immutable Parquet parts listed by a manifest.

A part exists when the manifest names it. Parts and manifest are written aside and renamed, so a
process killed at any moment leaves either the old pool or the new one, never half a part.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Self

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from filelock import FileLock
from pydantic import ValidationError

from data.contract import ScoreContract, require_same_contract
from data.errors import PoolError
from data.files import short_digest, write_whole
from data.question import Message, Question
from data.record import Record
from data.validation import explain

SCHEMA_VERSION = 2
SCHEMA = pa.schema(
    [
        pa.field("schema_version", pa.int16(), nullable=False),
        pa.field("question_id", pa.string(), nullable=False),
        pa.field(
            "messages",
            pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
            nullable=False,
        ),
        pa.field("answer", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("group", pa.string()),
        pa.field("candidate", pa.int32(), nullable=False),
        pa.field("round", pa.int32(), nullable=False),
        pa.field("completion", pa.string()),
        pa.field("completion_tokens", pa.int32(), nullable=False),
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("step_scores", pa.list_(pa.float32())),
        pa.field("score", pa.float64()),
        pa.field("correct", pa.bool_()),
        pa.field("reward_tokens", pa.int32(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("inclusion_probability", pa.float64(), nullable=False),
        pa.field("contract", pa.string(), nullable=False),
        pa.field("time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("raw_score", pa.float64()),
        pa.field("answer_key", pa.string()),
    ]
)
ADDED = ("raw_score", "answer_key")
"""Columns that parts of version 1 do not have; they are read as null."""
PART_QUESTIONS = 256
PART_CHARACTERS = 50_000_000
Row = dict[str, Any]


class Part(Record):
    """One immutable file of the pool."""

    file: str
    rows: int
    sha256: str
    seconds: float = 0.0
    """Time that its collection took; 0 where it was imported."""
    question_ids: tuple[str, ...]


class Manifest(Record):
    """What the pool consists of."""

    schema_version: int = SCHEMA_VERSION
    contract: ScoreContract
    parts: tuple[Part, ...] = ()

    @property
    def digest(self) -> str:
        """Sixteen hex digits that change with any row: the data digest of runs and certificates."""
        joined = "+".join(sorted(p.sha256 for p in self.parts)) + self.contract.fingerprint
        return short_digest(joined)


class Pool:
    """A folder (local path or URI) of parts under one score contract."""

    def __init__(self, location: str, manifest: Manifest) -> None:
        self.location = location
        self.manifest = manifest
        self._fs, self._root = _filesystem(location)

    @classmethod
    def open(cls, location: str) -> Self:
        """The pool at ``location``.

        Raises
        ------
        PoolError
            If there is no manifest, or it is not one this version reads.
        """
        fs, root = _filesystem(location)
        path = str(root / "manifest.json")
        try:
            with fs.open_input_stream(path) as stream:
                document = json.loads(stream.read())
        except FileNotFoundError as error:
            raise PoolError(f"no pool at {location}: it has no manifest.json; collect one") from error
        except OSError as error:
            raise PoolError(f"{path} cannot be read: {error}") from error
        except (ValueError, RecursionError) as error:
            raise PoolError(f"{path} is not JSON: {error}") from error
        version = document.get("schema_version") if isinstance(document, dict) else None
        if version not in range(1, SCHEMA_VERSION + 1):
            raise PoolError(
                f"{path} has schema version {version}; this release reads versions up to {SCHEMA_VERSION}"
            )
        try:
            return cls(location, Manifest.model_validate(document))
        except ValidationError as error:
            raise PoolError(f"{path} is not a pool manifest: {explain(error.errors(), Manifest)}") from error

    @classmethod
    def exists(cls, location: str) -> bool:
        """Whether a manifest is at ``location``, of whatever kind."""
        fs, root = _filesystem(location)
        try:
            return bool(fs.get_file_info(str(root / "manifest.json")).type != pafs.FileType.NotFound)
        except OSError as error:
            raise PoolError(f"pool {location} cannot be reached: {error}") from error

    @classmethod
    def create(cls, location: str, contract: ScoreContract) -> Self:
        """Open the pool at ``location``, or start an empty one there.

        Raises
        ------
        ContractError
            If the pool there was collected under another contract.
        PoolError
            If it can be neither opened nor made.
        """
        if not cls.exists(location):
            new = cls(location, Manifest(contract=contract))
            try:
                new._fs.create_dir(new._path("parts"), recursive=True)
            except OSError as error:
                raise PoolError(f"pool {location} cannot be made: {error}") from error
            with _writer_lock(new._fs, new._root):
                if not cls.exists(location):  # another process may have made it, and filled it
                    new._write_manifest()
        pool = cls.open(location)
        require_same_contract(pool.manifest.contract.fingerprint, contract.fingerprint, f"pool {location}")
        return pool

    @property
    def question_ids(self) -> set[str]:
        """Questions that the pool holds."""
        return {q for part in self.manifest.parts for q in part.question_ids}

    def append(self, rows: Sequence[Row], seconds: float = 0.0) -> None:
        """Write ``rows`` as one new part; when this returns they are in the pool, whole.

        Raises
        ------
        PoolError
            If a row does not fit the schema, or repeats a question that the pool holds, or the disk
            is full.
        """
        try:
            table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
        except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError, OverflowError) as error:
            raise PoolError(f"rows do not fit the pool's schema: {error}") from error
        for field in SCHEMA:
            if not field.nullable and table[field.name].null_count:
                raise PoolError(f"rows do not fit the pool's schema: {field.name!r} has an empty value")
        content = parquet_bytes(table)
        ids = tuple(dict.fromkeys(table["question_id"].to_pylist()))
        part = Part(
            file=f"{short_digest(content)}.parquet",
            rows=len(rows),
            sha256=hashlib.sha256(content).hexdigest(),
            seconds=seconds,
            question_ids=ids,
        )
        with _writer_lock(self._fs, self._root):
            current = Pool.open(self.location)
            if repeated := current.question_ids.intersection(ids):
                raise PoolError(
                    f"pool {self.location} already holds question {min(repeated)}; does another collection "
                    "fill it at this moment? Let one end, and run this again for what is left"
                )
            self._write(self._path("parts", part.file), content)
            parts = (*current.manifest.parts, part)
            self.manifest = Manifest(contract=current.manifest.contract, parts=parts)
            self._write_manifest()

    def extend(self, questions: Iterable[Sequence[Row]]) -> None:
        """Append the candidates of one question after another, in parts of a size that memory holds.

        Raises
        ------
        PoolError
            See `append`; the parts before are in the pool.
        """
        part: list[Row] = []
        held = size = 0
        for rows in questions:
            part += rows
            held += 1
            size += sum(len(row["completion"] or "") for row in rows)
            if held == PART_QUESTIONS or size > PART_CHARACTERS:
                self.append(part)
                part, held, size = [], 0, 0
        if part:
            self.append(part)

    def tables(self) -> Iterator[pa.Table]:
        """Every part as an Arrow table of the current schema, checked against the manifest.

        Raises
        ------
        PoolError
            If a part is missing, cut short, changed, or of another schema; names the file.
        """
        for part in self.manifest.parts:
            path = self._path("parts", part.file)
            try:
                with self._fs.open_input_file(path) as file:
                    content = file.read()
            except FileNotFoundError as error:
                raise PoolError(f"pool part {path} is gone though the manifest lists it") from error
            if hashlib.sha256(content).hexdigest() != part.sha256:
                raise PoolError(
                    f"pool part {path} is not the file that was written ({len(content)} bytes, "
                    "other checksum): it was cut short or changed; restore it from a copy"
                )
            table = _with_added(read_parquet(content), SCHEMA.names)
            if not table.schema.equals(SCHEMA):
                raise PoolError(
                    f"pool part {path} has another schema than version {SCHEMA_VERSION} or before"
                )
            for found in table["contract"].unique().to_pylist():
                require_same_contract(self.manifest.contract.fingerprint, found, path)
            yield table

    def columns(self, *names: str) -> pa.Table:
        """Some columns of all candidates, without reading the others; parts are not held to their checksums.

        Raises
        ------
        PoolError
            If a part is missing or cannot be read; names the file.
        """
        schema = pa.schema([SCHEMA.field(name) for name in names])
        found = [schema.empty_table()]
        for part in self.manifest.parts:
            path = self._path("parts", part.file)
            try:
                with self._fs.open_input_file(path) as file, pq.ParquetFile(file) as table:
                    read = table.read(columns=list(names), use_threads=False)
                found.append(_with_added(read, names).select(names).cast(schema))
            except (OSError, KeyError, pa.ArrowException) as error:
                raise PoolError(f"pool part {path} cannot be read: {error}") from error
        return pa.concat_tables(found)

    def rows(self) -> Iterator[Row]:
        """Every candidate, part by part."""
        for table in self.tables():
            yield from table.to_pylist()

    def _path(self, *names: str) -> str:
        return str(self._root.joinpath(*names))

    def _write_manifest(self) -> None:
        self._write(self._path("manifest.json"), self.manifest.model_dump_json(indent=1).encode())

    def _write(self, path: str, content: bytes) -> None:
        try:
            write_whole(path, content, self._fs)
        except OSError as error:
            raise PoolError(f"{path} cannot be written, and nothing was added: {error}") from error


def _with_added(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """The table with those of the columns ``names`` that later versions added, null where it has none."""
    for name in ADDED:
        if name in names and name not in table.column_names:
            table = table.append_column(SCHEMA.field(name), pa.nulls(len(table), SCHEMA.field(name).type))
    return table


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as the content of a Parquet file."""
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue().to_pybytes()


def read_parquet(content: bytes) -> pa.Table:
    """A small Parquet file that is in memory, read without a thread.

    Those that Arrow's own reader starts may outlast it, and abort a process that ends soon after (exit 134).
    """
    return pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)


def question_of(row: Row) -> Question:
    """The question that a row belongs to."""
    return Question(
        messages=tuple(Message(**m) for m in row["messages"]),
        answer=row["answer"],
        source=row["source"],
        group=row["group"],
    )


def make_row(question: Question, contract: ScoreContract, **values: Any) -> Row:
    """A row of the pool: the question's columns, the contract's, and the candidate's ``values``."""
    return {
        "schema_version": SCHEMA_VERSION,
        "question_id": question.id,
        "messages": question.as_chat(),
        "answer": question.answer,
        "source": question.source,
        "group": question.group,
        "contract": contract.fingerprint,
        "inclusion_probability": 1.0,
        "time": datetime.now(UTC),
        **values,
    }


def _filesystem(location: str) -> tuple[pafs.FileSystem, PurePosixPath]:
    try:
        if "://" in location:
            fs, path = pafs.FileSystem.from_uri(location)
            return fs, PurePosixPath(path)
        return pafs.LocalFileSystem(), PurePosixPath(Path(location).resolve())
    except (pa.ArrowInvalid, OSError) as error:
        raise PoolError(f"pool location {location!r} cannot be reached: {error}") from error


@contextmanager
def _writer_lock(fs: pafs.FileSystem, root: PurePosixPath) -> Iterator[None]:
    """One writer at a time in a local pool; the kernel frees the lock of a killed process.

    Object stores have no such lock: there, run one collection at a time.
    """
    if not isinstance(fs, pafs.LocalFileSystem):
        yield
        return
    lock = FileLock(root / ".lock", fallback_to_soft=False)  # a soft lock would outlive its process
    try:
        lock.acquire()
    except OSError as error:
        raise PoolError(f"pool {root} cannot be written: {error}") from error
    try:
        yield
    finally:
        lock.release()


def pending(questions: Iterable[Question], pool: Pool) -> list[Question]:
    """Questions that the pool does not hold yet."""
    held = pool.question_ids
    return [q for q in questions if q.id not in held]
