"""Forget questions, or what is older than a day: in the pool, the decision log, its feedback, and caches."""

import json
import shutil
from collections import Counter
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from data.errors import ConfigError
from data.forget import forget_in_log, forget_in_pool
from data.pool import Pool
from flows.champion import who
from flows.config import Config

CACHES = ("checkpoints", "states")
"""Folders of the state folder that are made anew when they are needed."""
RECORD = "forgotten.jsonl"


def forget(config: Config, ids: Collection[str], before: datetime | None, grace: float) -> dict[str, Any]:
    """Take them out, and keep a record that has no content.

    Reports and registered predictors that were made before are as they were; what is told says so.

    Parameters
    ----------
    grace : hours that the pool's old parts stay for those who read them; a later call removes them.

    Raises
    ------
    ConfigError
        If nothing is named.
    PoolError
        If the pool or the log cannot be read or written.
    """
    if not ids and before is None:
        raise ConfigError("name what is to be forgotten: --question ID, or --before DATE")
    count = Counter[str]()
    home = config.home.resolve()
    for location in (config.pool_location, *map(str, (home / "pilot").glob("*"))):
        if Pool.exists(location):
            count += forget_in_pool(location, ids, before, 3600 * grace)
    folder = None if config.gateway is None else config.gateway.log.location()
    if folder is not None and folder.exists():
        count += forget_in_log(folder, ids, before)
    for cache in CACHES:
        shutil.rmtree(home / cache, ignore_errors=True)
    names = ("questions", "candidates", "requests", "verdicts", "old_parts")
    told: dict[str, Any] = {name: count[name] for name in names}
    record = {
        "when": datetime.now(UTC).isoformat(),
        "by": who(),
        "before": before and before.isoformat(),
        **told,
    }
    with (home / RECORD).open("a") as stream:
        stream.write(json.dumps(record) + "\n")
    left = "reports and predictors made before; train and validate anew, and delete old versions and reports"
    return told | {"caches": list(CACHES), "record": str(home / RECORD), "not_looked_at": left}
