"""Two of BentoML's middlewares, replaced by ours; importing this module replaces them.

BentoML builds its own middleware around every service and has no setting for what is wrong here:

- its time limit cannot be switched off, and keeps a timer for each request, with the request's trace, for
  as long as the limit is: an hour's limit is memory that grows with the requests of an hour;
- its traffic metrics stand before the API keys and keep series for each path they ever saw, so anybody
  could fill the memory.

Both are BentoML's internals: a release with others is refused at import rather than served unpatched.
"""

from collections.abc import Collection
from typing import Any

import bentoml
from packaging.version import Version

from data.errors import BundleError

WANTED = "bentoml>=1.4.20,<1.5"
UNLIMITED = 1e9
"""Seconds: BentoML wants a number for a time limit, and from here on there is none."""

try:
    from bentoml._internal.server.http import instruments, traffic
    from bentoml._internal.server.http.instruments import RunnerTrafficMetricsMiddleware
    from bentoml._internal.server.http.traffic import TimeoutMiddleware
except ImportError as error:
    raise BundleError(
        f"bentoml {bentoml.__version__} has not the parts that this service puts its own in place of "
        f"({error}); install {WANTED}"
    ) from error
if Version(bentoml.__version__) >= Version("1.5"):
    raise BundleError(f"bentoml {bentoml.__version__} is newer than this service knows; install {WANTED}")


class TimeLimit(TimeoutMiddleware):
    """BentoML's, but for services without one."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.timeout < UNLIMITED:
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send)


class TrafficMetrics(RunnerTrafficMetricsMiddleware):
    """BentoML's, but for paths that there are."""

    paths: Collection[str] = ()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope.get("path") in self.paths:
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send)


traffic.TimeoutMiddleware = TimeLimit
instruments.RunnerTrafficMetricsMiddleware = TrafficMetrics
