"""What the monitor has found, in a file beside the champion's manifest, for gateways and `status`."""

from datetime import datetime

from data.record import Record
from serving.champion import beside, read_record

FILE = "alarms"


class Alarm(Record):
    """A statistic that left the limits which it may move in."""

    statistic: str
    since: datetime
    """When that was seen."""
    lately: float
    """Its mean over about the last 500 requests that have it."""
    low: float | None
    """What its mean may be at least, and at most; None: anything."""
    high: float | None
    seen: int
    """Requests that had it, under this champion."""

    @property
    def says(self) -> str:
        """In a sentence."""
        limits = [] if self.low is None else [f"at least {self.low:.3f}"]
        limits += [] if self.high is None else [f"at most {self.high:.3f}"]
        return f"{self.statistic} is {self.lately:.3f} lately, and may be {' and '.join(limits)}"


class Alarms(Record):
    """``<manifest>/alarms.json``."""

    version: str | None = None
    """The champion that was watched; None: nothing was yet."""
    looked: datetime | None = None
    """When the log was last looked at."""
    requests: int = 0
    """Of it that were watched, and those that were explored."""
    explored: int = 0
    statistics: tuple[str, ...] = ()
    """What is watched."""
    standing: tuple[Alarm, ...] = ()
    """An alarm stands until another champion is served, or somebody clears it."""


def alarms_of(champion: str) -> Alarms:
    """What was found of the champion whose manifest is there; nothing where nobody looked.

    Raises
    ------
    BundleError
        If it cannot be read.
    """
    return read_record(beside(champion, FILE), Alarms, "file of alarms")
