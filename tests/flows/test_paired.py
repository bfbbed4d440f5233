"""A challenger is held against the champion on the very candidates that the champion drew."""

from datetime import UTC, datetime

import pytest

from data.log_import import import_log
from flows.examine import assess_priors, load_table, population_priors
from flows.paired import pair
from serving.champion import Manifest, change
from tests.flows.test_monitor import ASKED, POLICY, World, before, config, serve  # noqa: F401 - fixtures

pytestmark = pytest.mark.slow


@pytest.fixture
def challenger(config):  # noqa: F811
    """All four candidates, chosen as they are, on a pool of what was served."""
    serve(config, World(1), ASKED[:60], explored=1.0)
    import_log(config.gateway.log.location(), config.pool_location, ASKED[:60])
    fixed = POLICY.model_copy(update={"start": 4})
    changes = {"policy": fixed, "goal": config.goal.model_copy(update={"change": 0.5})}
    changes["certify"] = config.certify.model_copy(update={"choose": False, "orders": 1, "uncertified": True})
    config = config.model_copy(update=changes)
    pool, table = load_table(config)
    priors = population_priors(config, table)
    return config, priors, assess_priors(config, pool.manifest.contract.fingerprint, priors)


def test_both_are_counted_on_the_same_candidates(challenger):
    config, priors, assessment = challenger  # noqa: F811
    found = pair(config, priors, assessment)
    held = priors.questions.fold("calibration", "test").table
    assert found.metrics["paired_questions"] == len(held) > 20
    assert found.metrics["paired_tokens"] > 10  # the champion stops after two where one of them is a hit
    assert found.metrics["paired_changed"] <= 0
    assert found.says.startswith(f"on {len(held)} questions that were served and explored")
    assert "tokens" in found.says

    def certified_now(now):
        again = now.champion.model_copy(update={"certified": datetime.now(UTC)})
        return now.model_copy(update={"champion": again})

    change(config.champion_location, certified_now)
    assert "was explored since" in pair(config, priors, assessment).says


def test_what_is_missing_is_said(challenger):
    config, priors, assessment = challenger  # noqa: F811
    (config.home / "1" / "bundle.json").unlink()
    (config.home / "1" / "usual.json").unlink()
    (config.home / "1").rmdir()
    assert "its bundle" in pair(config, priors, assessment).says
    change(config.champion_location, lambda now: Manifest())
    assert pair(config, priors, assessment) == (
        "the challenger was not held against the champion on what was served: there is no champion",
        {},
    )
