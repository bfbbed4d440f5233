"""What generators and reward models behind HTTP share: the client, its loop, its requests."""

import asyncio
import atexit
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache
from typing import ClassVar, TypeVar, TypeVarTuple

import openai
from anyio.from_thread import BlockingPortal, start_blocking_portal
from httpx2 import Limits, create_ssl_context

from data.errors import ModelError
from models.faults import explain_fault
from models.settings import HttpSettings

# The set-up is at fault: no request can succeed.
MISCONFIGURED = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
# The request itself is at fault: no other request is concerned, and trying again is no use.
REFUSED = (openai.BadRequestError, openai.UnprocessableEntityError)
# What one request may fail of. A server that breaks off, or answers in another shape, is no error of ours.
FAULTS = (openai.APIError, TimeoutError, ValueError, LookupError, AttributeError, TypeError)
# Seconds that a connection may idle. Servers on uvicorn, vLLM among them, close it after 5, which is also
# the client's default: a request that is sent in that moment, and its retry on the next idle connection,
# would fail.
IDLE = 3.0
CONNECT = 5.0  # seconds until a connection must stand: a machine that is gone is noticed, and tried again
T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


@cache
def _portal() -> BlockingPortal:
    """The process's one event loop, in a thread; limits on requests hold across calling threads."""
    running = start_blocking_portal()
    opened = running.__enter__()
    atexit.register(running.__exit__, None, None, None)
    return opened


_certificates = cache(create_ssl_context)  # reading them takes longer than all else of a client


def call(function: Callable[[*Arguments], Awaitable[T]], *args: *Arguments) -> T:
    """Run on that loop and wait; a ModelError out of a task group comes alone."""
    try:
        return _portal().call(function, *args)
    except* ModelError as group:
        raise group.exceptions[0] from None


Observe = Callable[[float, BaseException | None], None]
"""Is told of every request's seconds, and of what went wrong, if anything did."""


def make_client(settings: HttpSettings) -> openai.AsyncOpenAI:
    """The client of a server; whether it answers is not asked.

    The key is read from the environment now and kept nowhere else.
    """
    limits = Limits(
        max_connections=None,  # requests in flight are limited by those who send them
        max_keepalive_connections=settings.in_flight,
        keepalive_expiry=IDLE,
    )
    return openai.AsyncOpenAI(
        base_url=settings.base_url,
        api_key=os.environ.get(settings.api_key_variable, "none"),
        timeout=openai.Timeout(settings.timeout, connect=min(CONNECT, settings.timeout)),
        max_retries=settings.retries,
        http_client=openai.DefaultAsyncHttpx2Client(limits=limits, verify=_certificates()),
    )


class HttpModel:
    """A model behind a server that is asked on the caller's own event loop, ``in_flight`` requests at once.

    The client retries connection errors, timeouts, 429 and 5xx with exponential backoff and jitter
    and heeds Retry-After. A cancelled call closes its connection, by which servers know to stop.
    """

    role: ClassVar[str]

    def __init__(self, settings: HttpSettings) -> None:
        self.client = make_client(settings)
        self._settings = settings
        self._deadline, self._limit = settings.deadline, asyncio.Semaphore(settings.in_flight)

    @asynccontextmanager
    async def _request(self, observe: Observe | None) -> AsyncIterator[list[BaseException]]:
        """One request, from its turn to its deadline; ``observe`` is told of it, be it cancelled.

        Yields a list for what is wrong with parts of the answer. Raises ModelError where the server refuses
        every request alike, and one of `FAULTS` where it fails this one.
        """
        started, wrong = None, list[BaseException]()
        try:
            async with self._limit, asyncio.timeout(self._deadline):
                started = time.monotonic()
                yield wrong
        except BaseException as error:
            wrong.insert(0, error)
            if isinstance(error, MISCONFIGURED):
                raise ModelError(f"{self.role}: {explain_fault(error, self._settings)}") from error
            raise
        finally:
            if observe and started is not None:
                observe(time.monotonic() - started, wrong[0] if wrong else None)


async def require_served(client: openai.AsyncOpenAI, settings: HttpSettings) -> None:
    """Ask the server for its models.

    Raises
    ------
    ModelError
        If it does not answer, refuses the key, or serves other models only.
    """
    where = f"server at {settings.base_url}"
    try:
        async with asyncio.timeout(settings.deadline):
            served = [model.id for model in (await client.models.list()).data]
    except (openai.NotFoundError, AttributeError, ValueError):
        return  # not every server lists its models
    except (openai.APIConnectionError, TimeoutError) as error:
        raise ModelError(
            f"{where} does not answer: {explain_fault(error, settings)}; is it running?"
        ) from error
    except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
        variable, told = settings.api_key_variable, explain_fault(error, settings)
        raise ModelError(f"{where} refuses the key in ${variable}: {told}") from error
    except openai.APIStatusError as error:
        raise ModelError(f"{where}: {explain_fault(error, settings)}") from error
    if served and settings.model not in served:
        raise ModelError(f"{where} serves {', '.join(served[:5])}, not {settings.model!r}")
