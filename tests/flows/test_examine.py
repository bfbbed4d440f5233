"""A pool on disk: replayed, certified and reported on from the command line."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from data.errors import ConfigError, PoolError
from flows import examine as module
from flows.cli import app
from flows.config import load_config
from flows.examine import examine
from predictor.certificate import Certificate
from predictor.policies import FixedN, Schedule
from tests.helpers import make_pool

pytestmark = pytest.mark.slow

SETTINGS = [
    "policy.target=0.9",
    "policy.cap=6",
    "certify.orders=2",
    "certify.round_candidates=0.2",
    "certify.lost_hit=0.15",
    "certify.lost_answer=0.15",
    "certify.lost_accuracy=0.15",
]


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    location = tmp_path_factory.mktemp("examined") / "pool"
    make_pool(location, questions=180)
    return location


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*arguments):
    sets = [part for setting in SETTINGS for part in ("-s", setting)]
    found = CliRunner().invoke(app, [*arguments, *sets], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


def config_of(pool, *more):
    return load_config(None, (f"pool={pool}", *SETTINGS, *more))


def test_replay_prints_every_policy_and_writes_the_report(pool, tmp_path):
    (tmp_path / "mine.json").write_text(Schedule(target=0.9, cap=6, start=2).model_dump_json())
    rows = json.loads(
        run("replay", "--pool", str(pool), "--policy", "mine.json", "--output", "report", "--json")
    )
    found = {row["policy"]: row for row in rows}
    full, shipped = found["fixed N = 6"], found["shipped policy"]
    assert full["draws"] == 6
    assert full["lost_hit"] == 0
    assert shipped["tokens"] < full["tokens"]
    assert found["mine"]["rounds"] <= 3
    assert found["shipped policy, oracle"]["tokens"] <= full["tokens"]
    assert {"OptScale-t, .95", "best fixed schedule"} <= set(found)
    assert any(name.startswith("best BEACON") for name in found)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Are the assumptions true here?" in page
    assert page.count('class="example"') == 10


def test_certify_prints_and_writes_a_certificate(pool, tmp_path):
    printed = Certificate.model_validate_json(
        run("certify", "--json", "--pool", str(pool), "--output", "c.json")
    )
    assert printed == Certificate.model_validate_json((tmp_path / "c.json").read_text())
    assert printed.policy is not None
    assert printed.tried[0].policy == FixedN(target=0.9, cap=6)
    assert printed.epsilon == {"lost_hit": 0.15, "lost_answer": 0.15, "lost_accuracy": 0.15}


def test_a_policy_and_a_family_of_the_users_own_are_taken_as_they_are(pool):
    policy = "policy={kind: schedule, start: 2, target: 0.9, cap: 6}"
    config = config_of(pool, policy, "certify.choose=false", "predictor.family=beta")
    _, found = examine(config)
    assert [t.policy for t in found.certificate.tried] == [config.policy]
    assert found.policy == config.policy
    assert [f.family for f in found.families] == ["beta"]
    assert found.test.priors.family.name == "beta"


def test_scores_alone_are_enough(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(module, "examine", lambda *asked: seen.append(examine(*asked)) or seen[-1])
    rng = np.random.default_rng(0)
    lines = [
        json.dumps({"question": f"q {n}", "scores": rng.beta(1 + n % 7, 2, 6).round(4).tolist()})
        for n in range(100)
    ]
    (tmp_path / "scores.jsonl").write_text("\n".join(lines))
    run_import = ["import-pool", "--format", "scores", "--input", "scores.jsonl", "--pool", "pool"]
    assert CliRunner().invoke(app, run_import).exit_code == 0
    text = run("replay", "--pool", "pool", "--output", "report")
    assert "misses a target score" in text
    assert "wrong answer" not in text
    assert "no reference answers" in (tmp_path / "report" / "report.html").read_text()
    ((_, found),) = seen
    assert found.correctness is None
    assert found.outcomes["fixed N = 6"].tokens.mean() == 6  # a candidate counts as one token


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("policy.cap=7", "no question has 7 candidates"),
        ("policy.target=0.9512", "multiple of"),
        ("folds={train: 0.989, tune: 0.01, calibration: 0.0005, test: 0.0005}", "too|fold is empty|at least"),
    ],
)
def test_what_cannot_be_examined_says_why(pool, setting, message):
    with pytest.raises((PoolError, ConfigError), match=message):
        examine(config_of(pool, setting))
