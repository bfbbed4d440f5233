"""Which calibration questions have been certified on, in a file beside the champion's manifest.

Certifying again on the same questions is another chance to be lucky, so each time takes half of the chance of
an error that the time before had: whatever is certified on them, the chance that any of it is wrong stays
below twice `goal.delta`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from pydantic import Field

from data.files import short_digest
from data.record import Record
from flows.config import Config
from serving.champion import beside, change_record, read_record

FILE, WHAT = "certified", "file of questions that were certified on"


class Use(Record):
    """One certification."""

    test: str
    """Digest of what was tested on which pool: the same once more gives the same and is no further use."""
    when: datetime
    questions: tuple[str, ...]
    """Their ids."""


class Spent(Record):
    """``<manifest>/certified.json``."""

    uses: tuple[Use, ...] = Field(default=())


def name_of(config: Config, version: str, digest: str) -> str:
    """The test of a version on the pool with this data digest, by all settings that it depends on."""
    settings = (config.goal, config.certify, config.folds, config.policy, config.predictor, config.prices)
    return short_digest("+".join([version, digest, *(one.model_dump_json() for one in settings)]))


def times_used(config: Config, test: str) -> Mapping[str, int]:
    """How often each question was certified on by other tests.

    Raises
    ------
    BundleError
        If the file cannot be read.
    """
    spent = read_record(beside(config.champion_location, FILE), Spent, WHAT)
    return Counter(question for use in spent.uses if use.test != test for question in use.questions)


def keep(config: Config, test: str, questions: Sequence[str]) -> None:
    """Note that they were certified on; raises BundleError where that cannot be written."""
    use = Use(test=test, when=datetime.now(UTC), questions=tuple(questions))

    def noted(spent: Spent) -> Spent:
        return Spent(uses=(*(one for one in spent.uses if one.test != test), use))

    change_record(beside(config.champion_location, FILE), Spent, WHAT, noted)
