"""A state folder that was moved or copied: MLflow's records name the place that it was made in.

Artifacts would be written to, and read from, the old place: the local database is looked at before each
run, and `relocate` lets its records name the present one.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from data.errors import TrackingError
from flows.config import Config

# Where MLflow keeps places; what it keeps as a record of a run (parameters, inputs) is left as it was.
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)


def artifact_root(config: Config) -> str:
    """Where a local MLflow keeps its artifacts, as a URI."""
    return (config.home.resolve() / "artifacts").as_uri()


def require_in_place(config: Config) -> None:
    """Raise TrackingError if the state folder's own database names another artifact folder."""
    for old in _old_roots(config):
        raise TrackingError(
            f"the state folder {config.home.resolve()} was moved or copied here: its MLflow records name "
            f"{old}, and would be written to there; let them name this one with: optscale relocate"
        )


def relocate(config: Config) -> dict[str, int]:
    """Let the local database name the artifacts in the state folder; places changed, by column.

    Raises
    ------
    TrackingError
        If the database cannot be changed.
    """
    new, changed = artifact_root(config), Counter[str]()
    for old in _old_roots(config):
        inside = f"{old}/"
        try:
            with closing(sqlite3.connect(_database(config))) as database, database:
                for table, column in _PLACES:
                    found = database.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                        f"WHERE substr({column} || '/', 1, ?) = ?",
                        (new, len(inside), len(inside), inside),
                    )
                    changed[f"{table}.{column}"] += found.rowcount
        except sqlite3.Error as error:
            raise TrackingError(f"{_database(config)} cannot be changed: {error}") from error
    return changed


def _database(config: Config) -> Path:
    return config.home.resolve() / "mlflow.db"


def _old_roots(config: Config) -> Iterator[str]:
    """Artifact folders of the local database that are not the state folder's."""
    file = _database(config)
    if config.tracking.uri is not None or not file.exists():
        return
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
            named = database.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
    except sqlite3.Error:  # not MLflow's, or of another release: MLflow itself says so
        return
    for (place,) in named:
        # MLflow's own default experiment is not ours: nothing is written to it.
        if place.startswith("file:") and place.endswith("/artifacts") and place != artifact_root(config):
            yield place
