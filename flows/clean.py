"""Clean: bundles that nobody goes back to, and what killed runs have left."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.config import Config
from serving.champion import read


def clean(config: Config, keep: int, hours: float) -> dict[str, Any]:
    """Delete bundles older than ``hours``, but for champions, what waits, and ``keep`` before each.

    A gateway that was started with another one and has run as long still reads it: restart that first.
    Temporary folders of the state folder that are as old go too. Returns what went, and the bytes.
    """
    import bentoml

    home, before = config.home.resolve(), time.time() - 3600 * hours
    manifests = {config.champion_location, *map(str, (home / "champions").glob("*.json"))}
    kept = {tag for location in manifests for tag in _tags(location, keep)}
    found = [
        (str(one.tag), Path(one.path), one.info.creation_time.timestamp()) for one in bentoml.list("optscale")
    ]
    bundles = {tag: path for tag, path, made in found if tag not in kept and made < before}
    left = [folder for folder in (home / "tmp").glob("*") if folder.stat().st_mtime < before]
    size = sum(_bytes(path) for path in (*bundles.values(), *left))
    for tag in bundles:
        bentoml.delete(tag)
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "bundles": sorted(bundles),
        "temporary": [one.name for one in left],
        "bytes": size,
        "kept": sorted(kept),
    }


def _tags(location: str, keep: int) -> Iterator[str]:
    """Bundles that a manifest may still be served or gone back to by."""
    manifest = read(location)
    for one in (manifest.champion, manifest.waiting, *manifest.former[:keep]):
        if one is not None:
            yield one.tag


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
