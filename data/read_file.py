"""Records of a file: JSON lines, one JSON list, or Parquet; plain or gzipped, as the first bytes tell."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import OptScaleError, PoolError, as_fault

JsonObject = dict[str, Any]


def read_records(file: Path, fault: type[OptScaleError] = PoolError) -> Iterator[tuple[str, JsonObject]]:
    """Each object with its place, for errors: ``file, line 3``, ``item 3`` of a list, ``row 3`` of Parquet.

    Lines and rows are read one by one, a list as a whole.

    Raises
    ------
    OptScaleError
        Of the kind ``fault``, if the file cannot be read or a record is no object; says where.
    """
    causes = (OSError, EOFError, zlib.error, UnicodeDecodeError, pa.ArrowException)
    with as_fault(fault, f"{file} cannot be read", *causes):
        with file.open("rb") as raw:
            mark = raw.read(4)
        yield from _rows(file) if mark == b"PAR1" else _objects(file, mark.startswith(b"\x1f\x8b"), fault)


def source_of(file: Path) -> str:
    """The name of a set that says none: the file's, without its endings."""
    return Path(file.name.removesuffix(".gz")).stem


def _rows(file: Path) -> Iterator[tuple[str, JsonObject]]:
    with pq.ParquetFile(file) as table:
        number = 0
        for batch in table.iter_batches(batch_size=256, use_threads=False):
            for record in batch.to_pylist():
                number += 1
                yield f"{file}, row {number}", record


def _objects(file: Path, gzipped: bool, fault: type[OptScaleError]) -> Iterator[tuple[str, JsonObject]]:
    where = str(file)
    with (gzip.open if gzipped else open)(file, "rt", encoding="utf-8-sig") as stream:
        try:
            while (mark := stream.read(1)).isspace():
                pass
            stream.seek(0)
            values, unit = (json.load(stream), "item") if mark == "[" else (stream, "line")
            for number, value in enumerate(values, start=1):
                where = f"{file}, {unit} {number}"
                if unit == "line" and not value.strip():
                    continue
                record = value if unit == "item" else json.loads(value)
                if not isinstance(record, dict):
                    raise fault(f"{where} is not a JSON object")
                json.dumps(record, ensure_ascii=False).encode()  # an escape of half a character is no text
                yield where, record
        except UnicodeDecodeError:
            raise
        except (ValueError, RecursionError) as error:
            raise fault(
                f"{where} is not JSON: {error}; give a JSON object a line, one list of them, or Parquet"
            ) from error
