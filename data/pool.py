"""The pool: all scored candidates, as immutable Parquet parts listed by a manifest.

A part exists when the manifest names it. Parts and manifest are written aside and renamed, so a
process killed at any moment leaves either the old pool or the new one, never half a part.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Literal, Self

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from data.contract import ScoreContract, require_same_contract
from data.errors import PoolError, as_fault
from data.files import filesystem, parquet_bytes, read_parquet, short_digest, write_whole, writer_lock
from data.question import Question
from data.record import Record
from data.rows import SCHEMA, SCHEMA_VERSION, Row, with_added
from data.validation import parse

PART_QUESTIONS = 256
PART_CHARACTERS = 50_000_000


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

    schema_version: Literal[1, 2] = SCHEMA_VERSION
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
        self._fs, self._root = _reach(location)

    @classmethod
    def open(cls, location: str) -> Self:
        """The pool at ``location``.

        Raises
        ------
        PoolError
            If there is no manifest, or it is not one this version reads.
        """
        fs, root = _reach(location)
        path = str(root / "manifest.json")
        try:
            with fs.open_input_stream(path) as stream:
                document = stream.read()
        except FileNotFoundError as error:
            raise PoolError(f"no pool at {location}: it has no manifest.json; collect one") from error
        except OSError as error:
            raise PoolError(f"{path} cannot be read: {error}") from error
        what = f"{path} is no pool manifest that this release reads"
        return cls(location, parse(document, Manifest, PoolError, what))

    @classmethod
    def exists(cls, location: str) -> bool:
        """Whether a manifest is at ``location``, of whatever kind."""
        fs, root = _reach(location)
        with as_fault(PoolError, f"pool {location} cannot be reached", OSError):
            return bool(fs.get_file_info(str(root / "manifest.json")).type != pafs.FileType.NotFound)

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
            with as_fault(PoolError, f"pool {location} cannot be made", OSError):
                new._fs.create_dir(new._path("parts"), recursive=True)
                with writer_lock(new._fs, new._path(".lock")):
                    if not cls.exists(location):  # another process may have made it, and filled it
                        new._write_manifest(())
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
        unfit = (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError, OverflowError)
        with as_fault(PoolError, "rows do not fit the pool's schema", *unfit):
            table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
        for field in SCHEMA:
            if not field.nullable and table[field.name].null_count:
                raise PoolError(f"rows do not fit the pool's schema: {field.name!r} has an empty value")
        with self._writing("nothing was added") as current:
            part, content = _part(table, seconds)
            if repeated := current.question_ids.intersection(part.question_ids):
                raise PoolError(
                    f"pool {self.location} already holds question {min(repeated)}; does another "
                    "collection fill it at this moment? Let one end, and run this again for what is left"
                )
            write_whole(self._path("parts", part.file), content, self._fs)
            self._write_manifest((*current.manifest.parts, part))

    def rewrite(self, keep: Callable[[pa.Table], pa.Table]) -> None:
        """Replace each part by what ``keep`` leaves of it; the old files stay until `sweep`.

        Raises
        ------
        PoolError
            If a part cannot be read or written; the pool is as it was.
        """
        with self._writing("nothing was changed") as current:
            parts = []
            for part, table in zip(current.manifest.parts, current.tables(), strict=True):
                left = keep(table)
                if len(left) == len(table):
                    parts.append(part)
                elif len(left):
                    changed, content = _part(left, part.seconds)
                    write_whole(self._path("parts", changed.file), content, self._fs)
                    parts.append(changed)
            if tuple(parts) != current.manifest.parts:
                self._write_manifest(tuple(parts))

    def sweep(self, grace: float) -> int:
        """Delete parts that the manifest does not name and that are ``grace`` seconds old; how many."""
        # Under the lock: a part that is being added is named by the manifest before it is let go.
        with self._writing("old parts are still there") as current:
            named = {part.file for part in current.manifest.parts}
            found = self._fs.get_file_info(pafs.FileSelector(self._path("parts")))
            old = [one for one in found if one.is_file and one.base_name not in named]
            old = [one for one in old if time.time() - (one.mtime_ns or 0) / 1e9 >= grace]
            for one in old:
                self._fs.delete_file(one.path)
        return len(old)

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
            table = with_added(read_parquet(content), SCHEMA.names)
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
            with as_fault(
                PoolError, f"pool part {path} cannot be read", OSError, KeyError, pa.ArrowException
            ):
                with self._fs.open_input_file(path) as file, pq.ParquetFile(file) as table:
                    read = table.read(columns=list(names), use_threads=False)
                found.append(with_added(read, names).select(names).cast(schema))
        return pa.concat_tables(found)

    def rows(self) -> Iterator[Row]:
        """Every candidate, part by part."""
        for table in self.tables():
            yield from table.to_pylist()

    @contextmanager
    def _writing(self, unless: str) -> Iterator[Self]:
        """The pool as it is now, for one writer at a time; a PoolError says what holds ``unless`` it can."""
        fault = as_fault(PoolError, f"pool {self.location} cannot be written, and {unless}", OSError)
        with fault, writer_lock(self._fs, self._path(".lock")):
            yield self.open(self.location)

    def _path(self, *names: str) -> str:
        return str(self._root.joinpath(*names))

    def _write_manifest(self, parts: tuple[Part, ...]) -> None:
        manifest = Manifest(contract=self.manifest.contract, parts=parts)
        write_whole(self._path("manifest.json"), manifest.model_dump_json(indent=1).encode(), self._fs)
        self.manifest = manifest


def _part(table: pa.Table, seconds: float) -> tuple[Part, bytes]:
    """How the manifest names a table, and what its file holds."""
    content = parquet_bytes(table)
    part = Part(
        file=f"{short_digest(content)}.parquet",
        rows=len(table),
        sha256=hashlib.sha256(content).hexdigest(),
        seconds=seconds,
        question_ids=tuple(dict.fromkeys(table["question_id"].to_pylist())),
    )
    return part, content


def _reach(location: str) -> tuple[pafs.FileSystem, PurePosixPath]:
    with as_fault(PoolError, f"pool location {location!r} cannot be reached", OSError):
        return filesystem(location)


def pending(questions: Iterable[Question], pool: Pool) -> list[Question]:
    """Questions that the pool does not hold yet."""
    held = pool.question_ids
    return [q for q in questions if q.id not in held]
