"""Digests of content, and files that are whole or not there."""

import hashlib
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from filelock import FileLock


def short_digest(content: str | bytes) -> str:
    """Sixteen hex digits of the SHA-256 of bytes, or of a text in UTF-8."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:16]


def file_digest(file: Path) -> str:
    """The same of what a file holds, however large it is."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def filesystem(location: str) -> tuple[pafs.FileSystem, PurePosixPath]:
    """The file system of a path or URI, and the path on it.

    Raises
    ------
    OSError
        If there is no such file system, or it cannot be reached.
    """
    if "://" not in location:
        return pafs.LocalFileSystem(), PurePosixPath(Path(location).resolve())
    try:
        fs, path = pafs.FileSystem.from_uri(location)
    except pa.ArrowInvalid as error:
        raise OSError(str(error)) from error
    return fs, PurePosixPath(path)


def writer_lock(fs: pafs.FileSystem, path: str) -> AbstractContextManager[Any]:
    """One writer at a time on a local file system; the kernel frees the lock of a killed process.

    Object stores have no such lock: there, let one process write at a time.
    """
    if not isinstance(fs, pafs.LocalFileSystem):
        return nullcontext()
    return FileLock(path, fallback_to_soft=False)  # a soft lock would outlive its process


def write_whole(path: str | Path, content: bytes, fs: pafs.FileSystem | None = None) -> None:
    """Write a file aside and rename it: who reads ``path`` finds the old content or the new, never a part.

    ``fs`` is the file system of the path, the local one unless it is given.

    Raises
    ------
    OSError
        If it cannot be written; what was at ``path`` is as it was.
    """
    fs = fs or pafs.LocalFileSystem()
    aside = f"{path}.{uuid4().hex[:8]}.tmp"  # two writers may have the same content
    try:
        with fs.open_output_stream(aside) as stream:
            stream.write(content)
        fs.move(aside, str(path))
    except OSError:
        with suppress(OSError):
            fs.delete_file(aside)
        raise


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
