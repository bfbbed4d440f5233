"""The champion's manifest: which bundle is served, and what a person has said of it.

It is the truth: a registry's alias follows it, and a gateway that runs follows it without asking a registry.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Literal, Self, TypeVar

from data.errors import BundleError, as_fault
from data.files import filesystem, write_whole, writer_lock
from data.record import Record
from data.validation import parse

KEPT = 20
"""Former champions that are remembered."""


class Champion(Record):
    """A bundle that was started and asked before it was named here."""

    version: str
    """Of the registered predictor."""
    tag: str
    """Of its bento."""
    bundle: str
    """Folder of the bundle, where the gateway reads it."""
    contract: str
    """Fingerprint of its scores' contract."""
    promise: str | None
    """What is certified of its policy."""
    since: datetime
    by: str | None = None
    """Who let it be served; None: the flow, as the gate allowed."""
    certified: datetime | None = None
    """When its certificate was made."""
    uses: int | None = None
    """How often the calibration questions of its certificate have been certified on, this time included."""


class Manifest(Record):
    """``champion.json``."""

    schema_version: Literal[1] = 1
    champion: Champion | None = None
    former: tuple[Champion, ...] = ()
    """The latest first."""
    waiting: Champion | None = None
    """Passed the gate, and waits for a person's approval."""
    held: str | None = None
    """Why nothing is promoted; None: what passes the gate is."""
    full_cap: bool = False
    """Whether the reference is drawn, whatever the policy would."""
    full_cap_why: str | None = None
    """Who switched that on, or which alarm."""

    @property
    def version(self) -> str | None:
        """The champion's."""
        return None if self.champion is None else self.champion.version

    def name(self, champion: Champion) -> Self:
        """With another champion; the one before it can be gone back to."""
        before = () if self.champion is None else (self.champion,)
        former = tuple(one for one in (*before, *self.former) if one.tag != champion.tag)
        waiting = None if self.waiting and self.waiting.version == champion.version else self.waiting
        changes = {"champion": champion, "former": former[:KEPT], "waiting": waiting}
        return self.model_copy(update=changes)


class LastTrained(Record):
    """``<manifest>/trained.json``, see `beside`."""

    at: datetime | None = None
    """When `retrain` last came as far as a challenger, whatever became of it; None: not yet."""


TRAINED = "trained"
R = TypeVar("R", bound=Record)


def read(location: str) -> Manifest:
    """The manifest at a path or URI; see `read_record`."""
    return read_record(location, Manifest, "champion's manifest")


def change(location: str, make: Callable[[Manifest], Manifest]) -> Manifest:
    """Change the manifest; see `change_record`."""
    return change_record(location, Manifest, "champion's manifest", make)


def beside(location: str, name: str) -> str:
    """Where a record of that name lies: in a folder beside a manifest, that is called as it is."""
    return f"{location.removesuffix('.json')}/{name}.json"


def read_record(location: str, kind: type[R], what: str) -> R:
    """The record at a path or URI; an empty one where there is none yet.

    Raises
    ------
    BundleError
        If it cannot be read, or is none.
    """
    try:
        fs, path = filesystem(location)
        with fs.open_input_stream(str(path)) as stream:
            document = stream.read()
    except FileNotFoundError:
        return kind()
    except OSError as error:
        raise BundleError(f"the {what} {location} cannot be read: {error}") from error
    found: R = parse(document, kind, BundleError, f"{location} is no {what} that this release reads")
    return found


def change_record(location: str, kind: type[R], what: str, make: Callable[[R], R]) -> R:
    """Read, make another of it, and write that, with no one between (object stores have no lock).

    Raises
    ------
    BundleError
        If it cannot be read or written.
    """
    with as_fault(BundleError, f"the {what} {location} cannot be written", OSError):
        fs, path = filesystem(location)
        fs.create_dir(str(path.parent), recursive=True)
        with writer_lock(fs, f"{path}.lock"):
            made = make(read_record(location, kind, what))
            write_whole(str(path), made.model_dump_json(indent=1).encode(), fs)
        return made
