"""The project's errors. Each message says what is wrong, where, and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager


class OptScaleError(Exception):
    """Base of all errors a user can mend; the command line prints it without a traceback."""


class ConfigError(OptScaleError):
    """A setting that is unknown, of the wrong type, impossible, or at odds with another."""


class QuestionError(OptScaleError):
    """A question that is empty, not text, or listed twice."""


class ScoreError(OptScaleError):
    """A score outside [0, 1], not a number, or not where the contract says it must be."""


class ContractError(OptScaleError):
    """Scores, priors or bundles of two score contracts that met."""


class PoolError(OptScaleError):
    """A pool whose manifest, part or schema cannot be trusted."""


class ModelError(OptScaleError):
    """A model that cannot be found, loaded, or reached."""


class CollectError(OptScaleError):
    """A part of a collection in which too many candidates failed."""


class TrackingError(OptScaleError):
    """An MLflow server, run, or registered model that is not there."""


class OrchestrationError(OptScaleError):
    """A Prefect server that is named and does not answer, or refuses."""


class GateError(OptScaleError):
    """A challenger that missed a promotion threshold; the message lists every miss."""


class BundleError(OptScaleError):
    """A serving bundle that did not build, start, or answer."""


@contextmanager
def as_fault(fault: type[OptScaleError], what: str, *causes: type[Exception]) -> Iterator[None]:
    """In the block, raise ``fault`` for one of ``causes``: ``what`` is wrong, and the cause's own words."""
    try:
        yield
    except causes as error:
        raise fault(f"{what}: {error}") from error
