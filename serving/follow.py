"""The backend that is on, and the champion that it follows: the next starts beside it, then replaces it."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from data.errors import BundleError
from serving import champion, metrics
from serving.alarms import alarms_of
from serving.backend import Backend

logger = logging.getLogger("optscale.follow")
SECONDS = 2.0
"""Between two looks at the manifest."""


class Wanted(NamedTuple):
    """What the manifest asks for."""

    bundle: str
    full_cap: bool


@dataclass(eq=False)
class Stage:
    """The backend that requests meet, as ``state.backend``.

    Parameters
    ----------
    location : of the champion's manifest; None: the backend stays what it is.
    make : a backend of what is wanted; in a thread.
    now : what ``state.backend`` was made of.
    """

    state: Any
    location: str | None
    make: Callable[[Wanted], Backend]
    now: Wanted
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def __aenter__(self) -> "Stage":
        await self.stack.enter_async_context(self.state.backend.running())
        if self.location is not None:
            self._start(self._follow())
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.stack.aclose()

    async def look(self) -> None:
        """Take what the manifest names, if it is another and starts; on any fault the old one goes on."""
        assert self.location is not None
        manifest = await asyncio.to_thread(champion.read, self.location)
        if manifest.champion is None:
            return
        metrics.CHAMPION_SINCE.set(manifest.champion.since.timestamp())
        wanted = Wanted(manifest.champion.bundle, manifest.full_cap)
        if wanted == self.now:
            return
        new = await asyncio.to_thread(self.make, wanted)
        await new.predictor.prepare()
        if not await new.ready():
            raise BundleError(f"{wanted.bundle} is not ready")
        stack = AsyncExitStack()
        await stack.enter_async_context(new.running())
        old, leaving = self.state.backend, self.stack
        self.state.backend, self.stack, self.now = new, stack, wanted
        logger.info("what is served now: version %s: %s", new.card.model_version, new.card.says)
        self._start(_drain(old, leaving))

    async def show_alarms(self) -> None:
        """Let metrics tell what the monitor has found."""
        assert self.location is not None
        card = self.state.backend.card
        found = await asyncio.to_thread(alarms_of, self.location)
        metrics.show_alarms(found, card.model_version, card.certificate)

    async def _follow(self) -> None:
        said = ""
        while True:
            await asyncio.sleep(SECONDS)
            try:
                await self.look()
                await self.show_alarms()
                said = ""
            except Exception as error:  # whatever is wrong with a challenger, the champion answers
                if said != (said := f"{type(error).__name__}: {error}"):
                    logger.exception("the champion's manifest was not followed; what was served is")

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


async def _drain(backend: Backend, stack: AsyncExitStack) -> None:
    """Close a backend once its last request is answered."""
    try:
        while backend.in_flight:
            await asyncio.sleep(0.1)
    finally:
        await stack.aclose()
