"""A pilot: sampled within its budget from a real server, kept, gone on with; and the page of a pool."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from data.errors import CollectError, ConfigError
from data.pool import Pool
from data.questions import write_questions
from flows import cli
from flows.config import load_config
from flows.pilot import look, page, promises, sample
from predictor.assumptions import Finding
from predictor.pilot import Block, Curve
from predictor.replay import Interval
from tests.helpers import make_pool, make_questions

pytestmark = pytest.mark.slow


@pytest.fixture
def setting(server, tokenizer, tmp_path):
    """Function that gives a config whose generator misbehaves in some ``way``, and questions for it."""
    write_questions(make_questions(70), tmp_path / "q.jsonl")

    def make(way="plain"):
        generator = {
            "kind": "openai",
            "base_url": server.url(way),
            "model": "m",
            "sampling": {"max_tokens": 20},
        }
        reward = {"kind": "vllm", "base_url": server.url("plain"), "model": "m", "tokenizer": str(tokenizer)}
        (tmp_path / "c.yaml").write_text(
            json.dumps(
                {"home": str(tmp_path / "home"), "generator": generator | {"retries": 0}, "reward": reward}
            )
        )
        return load_config(
            tmp_path / "c.yaml", (f"home={tmp_path / 'home'}", "policy.cap=8")
        ), tmp_path / "q.jsonl"

    return make


def test_the_budget_is_kept_and_a_greater_one_goes_on(setting):
    config, questions = setting()
    location = sample(config, questions, 2300).pool  # 10 tokens a candidate: a look of 8, 55 questions with 4
    rows = list(Pool.open(location).rows())
    assert sum(row["completion_tokens"] for row in rows) == 55 * 4 * 10
    assert location.startswith(str(config.home.resolve() / "pilot"))
    seeds = {}
    for row in rows:
        seeds.setdefault(row["question_id"], []).append((row["candidate"], row["seed"]))
    assert {tuple(number for number, _ in sorted(found)) for found in seeds.values()} == {(0, 1, 2, 3)}
    assert sample(config, questions, 2300).pool == location
    assert len(Pool.open(location).question_ids) == 57  # the look is over
    sample(config, questions, 10**6)
    assert len(Pool.open(location).question_ids) == 70
    assert len(list(Pool.open(location).rows())) == 280


def test_without_a_reward_model_answers_are_sampled_alone(setting):
    config, questions = setting()
    found = look(sample(config.model_copy(update={"reward": None}), questions, 3000))
    assert (found["verifier"], found["questions"], found["candidates"]) == (None, 70, 4)
    assert set(found["accuracy"]) == {"single", "majority"}
    assert "verifier" not in page(found)


def test_a_budget_that_says_nothing_is_refused_before_it_is_spent(setting, server):
    config, questions = setting()
    before = server.requests["plain"]
    with pytest.raises(ConfigError, match="a look at lengths may take 160"):
        sample(config, questions, 100)
    assert server.requests["plain"] == before
    with pytest.raises(ConfigError, match="50 questions with 4 candidates of 10 tokens take 2,000"):
        sample(config, questions, 1900)


def test_candidates_that_fail_are_not_kept(setting):
    config, questions = setting("empty")
    with pytest.raises(CollectError, match="candidates failed"):
        sample(config, questions, 10**6)


def test_the_command_samples_and_tells(setting, tmp_path):
    setting()
    line = [
        "pilot",
        "-c",
        str(tmp_path / "c.yaml"),
        "-s",
        "policy.cap=4",
        "--questions",
        str(tmp_path / "q.jsonl"),
    ]
    done = CliRunner().invoke(cli.app, [*line, "--budget", "100000", "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["questions"], told["candidates"]) == (70, 4)
    assert set(told["accuracy"]["majority"]) == {"mean", "low", "high"}
    assert not told["go"]  # it always answers 7
    with pytest.raises(ConfigError, match="--budget"):
        CliRunner().invoke(cli.app, line, catch_exceptions=False)


def test_the_page_of_a_pool_ends_with_a_verdict(tmp_path):
    pool = make_pool(tmp_path / "pool", questions=120, candidates=8)
    found = look(load_config(None, (f"pool={pool.location}", "policy.target=0.8")))
    assert (found["questions"], found["candidates"]) == (120, 8)
    assert found["accuracy"]["best score"].mean > found["accuracy"]["single"].mean
    told = page(found)
    for words in (
        "How often answers are right",
        "Effective N",
        "| 4 |",
        "the verifier worth it?",
        "| goal.lose 0.05 |",
    ):
        assert words in told
    assert (
        told.rstrip().splitlines()[-3].startswith("## GO" if found["go"] else "## NO GO") or not found["go"]
    )


def test_too_few_questions_are_no_go(tmp_path):
    pool = make_pool(tmp_path / "pool", questions=20)
    found = look(load_config(None, (f"pool={pool.location}",)))
    assert not found["go"]
    assert "20 questions are too few" in page(found)


def curve(effective, low, high):
    block = Block(8, effective, effective, effective)
    return Curve("any right", (block,), Interval((low + high) / 2, low, high))


@pytest.mark.parametrize(
    ("shown", "order", "parts", "words"),
    [
        (curve(8.0, -0.01, 0.01), "fine", "fine", "No dependence is shown: certificates"),
        (curve(7.9, -0.02, -0.01), "fine", "fine", "a little"),
        (curve(8.0, -0.01, 0.01), "look", "fine", "a little"),
        (curve(4.0, -0.2, -0.1), "fine", "fine", "confidence and plans do not"),
        (curve(8.0, -0.01, 0.01), "broken", "fine", "confidence and plans do not"),
        (curve(8.0, -0.01, 0.01), "fine", "look", "no promise over questions to come"),
    ],
)
def test_what_survives_follows_from_what_was_found(shown, order, parts, words):
    verdicts = {"order": order, "duplicates": "fine", "parts": parts}
    findings = [Finding(name=name, verdict=verdict, values={}) for name, verdict in verdicts.items()]
    assert words in promises([shown], findings)


@pytest.mark.parametrize("kept", ["answers", "verdicts"])
def test_a_pool_without_scores_is_looked_at_by_what_it_has(tmp_path, kept):
    rng = np.random.default_rng(0)
    lines = []
    for number in range(60):
        answers = rng.choice(["1", "2", "3"], 8, p=[0.6, 0.3, 0.1]).tolist()
        record = {"question": f"q{number}", "answers": answers}
        if kept == "verdicts":
            record["correct"] = [answer == "1" for answer in answers]
        lines.append(json.dumps(record))
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    import_ = ["import-pool", "--input", str(tmp_path / "a.jsonl"), "--pool", str(tmp_path / "pool")]
    assert CliRunner().invoke(cli.app, import_, catch_exceptions=False).exit_code == 0
    found = look(load_config(None, (f"pool={tmp_path / 'pool'}",)))
    assert found["judged_by"].startswith("agreement")
    assert found["verifier"] is None
    assert ("no reference answers" in page(found).lower()) is (kept == "answers")
