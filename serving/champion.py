"""The champion's manifest: which bundle is served, and what a person has said of it.

It is the truth: a registry's alias follows it, and a gateway that runs follows it without asking a registry.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Literal, Self

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


def read(location: str) -> Manifest:
    """The manifest at a path or URI; an empty one where there is none yet.

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
        return Manifest()
    except OSError as error:
        raise BundleError(f"the champion's manifest {location} cannot be read: {error}") from error
    what = f"{location} is no champion's manifest that this release reads"
    return parse(document, Manifest, BundleError, what)


def change(location: str, make: Callable[[Manifest], Manifest]) -> Manifest:
    """Read, make another of it, and write that, with no one between (object stores have no lock).

    Raises
    ------
    BundleError
        If it cannot be read or written.
    """
    with as_fault(BundleError, f"the champion's manifest {location} cannot be written", OSError):
        fs, path = filesystem(location)
        fs.create_dir(str(path.parent), recursive=True)
        with writer_lock(fs, f"{path}.lock"):
            made = make(read(location))
            write_whole(str(path), made.model_dump_json(indent=1).encode(), fs)
        return made
