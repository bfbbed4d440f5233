"""Certifying again on the same questions spends the chance of an error; fresh questions do not."""

import pytest

from flows.config import Config
from flows.examine import assess_priors, load_table, population_priors
from flows.spent import keep, name_of, times_used
from predictor.assessment import fresh
from tests.helpers import make_pool


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    values = {
        "home": tmp_path_factory.mktemp("home"),
        "policy": {"kind": "value", "cap": 6, "target": 0.8},
        "goal": {"hit": 0.2, "target": 0.8},
        "certify": {"orders": 2, "choose": False},
    }
    config = Config.model_validate(values)
    make_pool(config.pool_location, 120)
    pool, table = load_table(config)
    return config, pool.manifest.contract.fingerprint, population_priors(config, table)


@pytest.mark.suite
@pytest.mark.slow
def test_each_time_halves_the_chance_of_an_error(world):
    config, contract, priors = world
    first = assess_priors(config, contract, priors, used={})
    assert (first.certificate.uses, first.certificate.delta) == (1, config.goal.delta)
    ids = first.certified_on
    third = assess_priors(config, contract, priors, used=dict.fromkeys(ids, 2)).certificate
    assert (third.uses, third.delta, third.goal.delta) == (3, config.goal.delta / 4, config.goal.delta / 4)
    assert {test.level for test in third.tried} == {config.goal.delta / 4}
    assert "certified on 2 times before" in third.statement
    if third.certified:
        assert "With confidence 97.5%" in third.statement


def test_enough_fresh_questions_certify_alone(world):
    _, _, priors = world
    calibration = priors.questions.full(6).fold("calibration")
    ids = [question.id for question in calibration.table.questions]
    used = dict.fromkeys(ids[:10], 1)
    left, times = fresh(calibration, used, len(ids) - 10)
    assert ([q.id for q in left.table.questions], times) == (ids[10:], 0)
    left, times = fresh(calibration, used, len(ids) - 9)
    assert (len(left.table), times) == (len(ids), 1)
    assert fresh(calibration, used, None)[1] == 1


def test_the_same_test_is_no_further_use(world):
    config, *_ = world
    first = name_of(config, "1", "d")
    keep(config, first, ["a", "b"])
    keep(config, first, ["a", "b"])
    assert times_used(config, first) == {}
    stricter = config.model_copy(update={"goal": config.goal.model_copy(update={"hit": 0.1})})
    second = name_of(stricter, "1", "d")
    assert times_used(config, second) == {"a": 1, "b": 1}
    keep(config, second, ["b", "c"])
    assert times_used(config, name_of(config, "2", "d")) == {"a": 1, "b": 2, "c": 1}
