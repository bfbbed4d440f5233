"""What a collection would take, told from a pool of made-up scores; and one without a reward model."""

import pytest

from data.errors import ConfigError, ScoreError
from data.folds import FoldSettings
from data.pool import Pool
from data.questions import write_questions
from data.scores import load_scores
from flows.collect import collect_part, computed_in, estimate, make_contract, read_all_questions
from flows.compare import compare_pools
from flows.config import Config, load_config
from flows.retrain import retrain
from flows.train import train
from models.load import load_generator
from tests.helpers import make_pool, make_questions
from tests.models.faulty_server import FaultyServer

pytestmark = pytest.mark.slow


@pytest.fixture
def config(tmp_path):
    write_questions(make_questions(50), tmp_path / "q.jsonl")
    collect = {"questions": (str(tmp_path / "q.jsonl"),), "candidates": 4, "limit": 7}
    return Config.model_validate({"home": tmp_path, "pool": str(tmp_path / "pool"), "collect": collect})


def counts(told):
    return told["questions"], told["already collected"], told["beyond the limit"], told["candidates"]


def test_questions_beyond_the_limit_are_not_called_collected(config):
    assert counts(estimate(config)) == (7, 0, 43, 28)
    make_pool(config.pool, questions=20)
    assert counts(estimate(config)) == (7, 20, 23, 28)
    make_pool(config.home / "whole", questions=60)
    assert counts(estimate(config.model_copy(update={"pool": str(config.home / "whole")}))) == (0, 50, 0, 0)


def test_a_dry_run_reads_no_text_of_the_pool(config, monkeypatch):
    pool = make_pool(config.pool, questions=20)
    rows = list(pool.rows())
    monkeypatch.setattr(type(pool), "tables", None)
    told = estimate(config)
    tokens = [row["completion_tokens"] for row in rows]
    assert told["generated tokens"] == round(28 * sum(tokens) / len(tokens))
    assert told["prompt tokens"] == 7 * 12
    assert told["minutes"] == round(told["generated tokens"] / sum(tokens) / 60, 1)


def test_a_record_says_what_was_computed_in():
    told = computed_in(Config())
    assert all(
        told[f"{name} computed in"].startswith("float32 on ") for name in ("generator", "reward model")
    )
    generator = {"kind": "openai", "base_url": "http://h/v1", "model": "m"}
    there = computed_in(Config.model_validate({"generator": generator}))
    assert there["generator computed in"] == "what its server does"


@pytest.fixture
def unscored(config):
    """A config without a reward model, its generator a server whose candidates all say 7."""
    server = FaultyServer()
    generator = {"kind": "openai", "base_url": server.url("plain"), "model": "m"}
    made = config.model_dump(mode="json") | {"generator": generator, "reward": None}
    yield Config.model_validate(made)
    server.close()


def collect_all(config):
    generator = load_generator(config.generator)
    pool = Pool.create(config.pool_location, make_contract(generator, None))
    return collect_part.fn(read_all_questions(config), 0, config.collect, generator, None, pool)


def test_without_a_reward_model_a_pool_has_answers_and_no_scores(unscored):
    assert estimate(unscored)["reward-model tokens"] == 0
    assert set(computed_in(unscored)) == {"generator computed in"}
    found = collect_all(unscored)
    assert (found.questions, found.candidates, found.failed) == (50, 200, 0)
    pool = Pool.open(unscored.pool_location)
    assert pool.manifest.contract.reward_model is None
    table = load_scores(pool, FoldSettings())
    assert (table.scale, table.status.tolist()) == ("none", [["complete"] * 4] * 50)
    assert (table.answers == table.answers[0, 0]).all()
    assert table.reward_tokens.sum() == 0
    assert table.correct.sum() == 4  # the question whose answer is 7
    compared = compare_pools(unscored.pool_location)
    assert (compared.questions, compared.cap) == (50, 4)
    assert {row.selection for row in compared.rows} == {"majority"}


def test_empty_texts_are_failed_without_a_reward_model_too(unscored):
    settings = unscored.collect.model_copy(update={"failed_share": 1.0})
    address = unscored.generator.base_url.replace("plain", "empty")
    generator = unscored.generator.model_copy(update={"base_url": address})
    found = collect_all(unscored.model_copy(update={"collect": settings, "generator": generator}))
    assert (found.candidates, found.failed) == (200, 200)


def test_no_predictor_is_trained_without_scores(unscored):
    collect_all(unscored)
    with pytest.raises(ScoreError, match=r"pool .*: nothing scores candidates.*optscale compare"):
        train.fn(unscored)
    with pytest.raises(ScoreError, match="reward is null: nothing scores candidates"):
        retrain.fn(unscored)


def test_a_gateway_without_a_reward_model_needs_a_policy_by_answers():
    base = ("gateway={generator: {base_url: 'http://h/v1', model: m}, reward: null}", "certify.choose=false")
    for policy in ("{kind: agreement}", "{kind: fixed, selection: {kind: majority}}"):
        assert load_config(overrides=(*base, f"policy={policy}")).gateway.reward is None
    by_score = "{kind: lead, selection: {kind: weighted_vote}}"
    for policy in ("{kind: schedule}", "{kind: value, selection: {kind: majority}}", by_score):
        with pytest.raises(ConfigError, match=r"gateway.reward is null.* reads scores: take one by answers"):
            load_config(overrides=(*base, f"policy={policy}"))
    assert load_config(overrides=base[:1]).policy.kind == "value"  # what is certified is chosen, by answers
