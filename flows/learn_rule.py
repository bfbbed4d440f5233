"""Learn a stopping rule from pools of other people's models, named in a list."""

from collections.abc import Collection
from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from data.errors import ConfigError
from data.folds import FoldSettings
from data.pool import Pool
from data.record import Record
from data.scores import load_scores
from data.validation import explain
from predictor.learned.stopping_rule import fit_rule
from predictor.stopping import Source, StoppingRule


class ListedPool(Record):
    """A pool of the list; its folder is relative to the list."""

    pool: str
    name: str
    family: str
    source: str
    commit: str | None = None
    licence: str


class PoolList(Record):
    """Pools to learn from."""

    name: str
    pools: tuple[ListedPool, ...] = Field(min_length=1)


def learn_rule(file: Path, leave_out: Collection[str] = ()) -> StoppingRule:
    """The rule of a list of pools, without the families ``leave_out``.

    Raises
    ------
    ConfigError, PoolError
        If the list or a pool cannot be read, or a pool has no verdicts.
    """
    try:
        listed = PoolList.model_validate(yaml.safe_load(file.read_text()))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"{file}: {explain(error.errors(), PoolList)}") from error
    if unknown := set(leave_out) - {entry.family for entry in listed.pools}:
        raise ConfigError(f"no family {min(unknown)!r} in {file}")
    pools = []
    for entry in listed.pools:
        if entry.family in leave_out:
            continue
        table = load_scores(Pool.open(str(file.parent / entry.pool)), FoldSettings())
        cap = table.usual_cap(int(table.drawn.max()))
        candidates = table.full(cap).candidates(cap)
        source = Source(
            **entry.model_dump(exclude={"pool"}), questions=len(candidates.answers), candidates=cap
        )
        pools.append((source, candidates))
    return fit_rule(listed.name, pools)
