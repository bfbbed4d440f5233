"""API keys with limits of their own, and what each has spent: shared by all workers, kept across restarts."""

import time
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from pydantic import Field
from sqlalchemy import Column, Integer, MetaData, String, Table, case, create_engine, event
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateTable

from data.errors import ConfigError, as_fault
from data.record import Record

What = Literal["requests", "tokens"]
Window = Literal["minute", "day"]
SECONDS: dict[Window, int] = {"minute": 60, "day": 86_400}
_SPENT = Table(
    "spent",
    MetaData(),
    Column("limit", String, primary_key=True),  # digest of the key, what it is on, its window
    Column("number", Integer, nullable=False),  # of the minute or day, from 1970
    Column("spent", Integer, nullable=False),
)
_ROW = insert(_SPENT)
_SO_FAR = case((_SPENT.c.number == _ROW.excluded.number, _SPENT.c.spent), else_=0)
# Made once: to build it takes longer than to run it.
_ADD = _ROW.on_conflict_do_update(
    index_elements=["limit"],
    set_={"number": _ROW.excluded.number, "spent": _ROW.excluded.spent + _SO_FAR},
).returning(_SPENT.c.spent)


class ApiKey(Record):
    """A key and what it may do; null where nothing limits it."""

    name: str = Field(pattern=r"^[\w.-]{1,64}$")
    """What logs and metrics call it."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """SHA-256 of the key in hex digits: ``printf %s "$KEY" | sha256sum``."""
    requests_per_minute: int | None = Field(None, ge=0)
    requests_per_day: int | None = Field(None, ge=0)
    tokens_per_minute: int | None = Field(None, ge=1)
    """Generated tokens, of all candidates. A request is let in while some are left, and may overdraw them."""
    tokens_per_day: int | None = Field(None, ge=1)
    """The same of a day, in UTC."""
    candidates: int | None = Field(None, ge=1)
    """Candidates of a request at most."""
    models: tuple[str, ...] | None = None
    """Models that it may ask; null: all."""
    feedback: bool = True
    """Whether it may send verdicts on answers."""

    @property
    def limits(self) -> list[tuple[What, Window, int]]:
        """Those on what it may spend, with their windows."""
        named: list[tuple[What, Window]] = [(what, w) for w in SECONDS for what in get_args(What)]
        every = [(what, window, getattr(self, f"{what}_per_{window}")) for what, window in named]
        return [one for one in every if one[2] is not None]


@dataclass
class Caller:
    """Who sent the request that is being answered, and what it has generated and not been charged for yet."""

    key: ApiKey
    tokens: int = 0


CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)
"""Of the request under way; None where all routes are open."""


class Left(NamedTuple):
    """What a key has left of one of its limits."""

    what: What
    window: Window
    limit: int
    left: int
    """Below 0 where it is overdrawn."""

    @property
    def seconds(self) -> int:
        """Until its minute or day ends."""
        return SECONDS[self.window] - int(time.time()) % SECONDS[self.window]


class Spend:
    """What keys have spent in this minute and this day, in an SQLite file.

    Raises
    ------
    ConfigError
        If the file cannot be written.
    """

    def __init__(self, file: Path) -> None:
        fault = f"what API keys spend cannot be kept in {file}"
        with as_fault(ConfigError, fault, OSError, SQLAlchemyError):
            file.parent.mkdir(parents=True, exist_ok=True)
            self.engine = create_engine(f"sqlite:///{file}", connect_args={"timeout": 30})
            event.listen(self.engine, "connect", _relax)
            with self.engine.begin() as connection:  # workers start at once
                connection.execute(CreateTable(_SPENT, if_not_exists=True))

    def add(self, key: ApiKey, requests: int, tokens: int) -> list[Left]:
        """Count requests and tokens; what is left of each limit. A request over one is not counted."""
        left = []
        with self.engine.connect() as connection:
            for what, window, limit in key.limits:
                name, number = f"{key.sha256} {what} {window}", int(time.time()) // SECONDS[window]
                more = {"requests": requests, "tokens": tokens}[what]
                row = {"limit": name, "number": number, "spent": more}
                left.append(Left(what, window, limit, limit - (connection.scalar(_ADD, row) or 0)))
            if not (requests and over(left)):
                connection.commit()
        return left


def over(left: list[Left]) -> Left | None:
    """The limit that refuses a request that was just counted; None where none does."""
    refusing = [one for one in left if one.left < 0 or (one.what == "tokens" and one.left == 0)]
    return max(refusing, key=lambda one: one.seconds, default=None)


def _relax(connection: Any, record: Any) -> None:
    """Let workers write at the same time, and a crash of the machine lose the last counts."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
