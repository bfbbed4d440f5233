"""A pool on disk: replayed, certified and reported on from the command line."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from data.errors import ConfigError, PoolError
from data.pool import Pool
from flows.cli import app
from flows.config import load_config
from flows.examine import examine
from predictor.certificate import Certificate
from predictor.policies import FixedN, Schedule
from tests.helpers import make_contract, make_pool, make_questions, score_rows

pytestmark = pytest.mark.slow

SETTINGS = ["policy.target=0.9", "policy.cap=6", "certify.orders=4", "goal.lose=0.15"]


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
    found = CliRunner().invoke(app, [arguments[0], *sets, *arguments[1:]], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


def config_of(pool, *more):
    return load_config(None, (f"pool={pool}", *SETTINGS, *more))


def test_replay_prints_every_policy_and_writes_the_report(pool, tmp_path):
    (tmp_path / "mine.json").write_text(Schedule(target=0.9, cap=6, start=2).model_dump_json())
    rows = json.loads(
        run("replay", "--pool", str(pool), "--policy", "mine.json", "--output", "report", "--json")
    )
    found = {(row["policy"], row["setting"]): row for row in rows if not row["chosen"]}
    full, shipped = found["fixed N", "6"], found["shipped policy", ""]
    assert full["draws"] == 6
    assert full["changed"] == 0
    assert shipped["tokens"] <= full["tokens"]
    assert found["mine", ""]["rounds"] <= 3
    assert {name for name, _ in found} >= {"fixed schedule", "lead", "learned on the own questions"}
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Are the assumptions true here?" in page
    assert page.count('class="example"') == 10


def test_certify_prints_and_writes_a_certificate(pool, tmp_path):
    printed = Certificate.model_validate_json(
        run("certify", "--json", "--pool", str(pool), "--output", "c.json")
    )
    assert printed == Certificate.model_validate_json((tmp_path / "c.json").read_text())
    assert printed.policy is not None
    assert printed.reference == FixedN(target=0.9, cap=6, selection=printed.reference.selection)
    assert printed.epsilon == {"lost_accuracy": 0.15}
    beside = json.loads(run("replay", "--json", "--pool", str(pool), "--policy", "c.json"))
    (shown,) = [row for row in beside if row["policy"] == "c"]
    (shipped,) = [row for row in beside if row["policy"] == "shipped policy"]
    assert shown["tokens"] == shipped["tokens"]
    compared = CliRunner().invoke(app, ["compare", "--pool", str(pool), "--policy", "c.json", "--json"])
    assert [row["policy"] for row in json.loads(compared.stdout)].count("c") == 1


@pytest.mark.parametrize(
    ("goal", "said"),
    [
        ("goal={change: 0.3}", "answers differently from all 6 candidates"),
        ("goal={hit: 0.2, target: 0.9}", "misses a target score that all 6 candidates"),
        ("goal={hit: 0.2}", "misses a target score"),
        ("goal={spend: 0.5}", "Nothing is promised: the goal was spend"),
        ("goal={price_per_point: 0.001}", "Nothing is promised: the goal was price per point"),
        ("goal={lose: 0.2, reference: {n: 4, select: best_score}}", "than all 4 candidates by best score"),
        ("goal={lose: 0.2, reference: {n: 5}}", "5 candidates by"),
        ("goal={lose: 0.15, rounds: 1}", "all 6 candidates"),
    ],
)
def test_each_goal_is_certified_or_its_loss_is_bounded(pool, goal, said):
    found = examine(config_of(pool, "goal.lose=null", goal))[1].certificate
    assert said in found.statement.replace("All", "all")
    if found.goal.rounds:
        assert all(tested.rounds <= 1 for tested in found.tried)


def test_changes_are_certified_with_all_verdicts_deleted(tmp_path):
    rng = np.random.default_rng(0)
    lines = [
        json.dumps({"question": f"q {n}", "answers": rng.choice(list("aab"[: 1 + n % 3]), 6).tolist()})
        for n in range(300)
    ]
    (tmp_path / "answers.jsonl").write_text("\n".join(lines))
    run_import = ["import-pool", "--format", "scores", "--input", "answers.jsonl", "--pool", "pool"]
    assert CliRunner().invoke(app, run_import).exit_code == 0
    config = load_config(None, (f"pool={tmp_path / 'pool'}", "goal.change=0.2", "certify.orders=4"))
    _, found = examine(config)
    assert found.certificate.epsilon == {"changed": 0.2}
    assert found.certificate.policy.selection.kind == "majority"
    assert found.row("shipped policy").tokens < 6
    assert found.population is None
    page = tmp_path / "page"
    page.mkdir()
    from flows import report

    report.write(page, config, Pool.open(config.pool_location), found, {})
    assert "answers as the full cap" not in (page / "report.html").read_text()


def test_an_old_setting_says_what_it_is_called_now(pool):
    with pytest.raises(ConfigError, match=r"lost_hit is a goal now: write goal\.hit"):
        config_of(pool, "certify.lost_hit=0.1")


def test_a_policy_of_the_users_own_is_certified_as_it_is(pool):
    config = config_of(pool, "policy={kind: schedule, start: 2, target: 0.9, cap: 6}", "certify.choose=false")
    _, found = examine(config)
    assert [t.policy for t in found.certificate.tried] == [config.policy]
    assert found.policy == config.policy


def test_a_policy_may_select_otherwise_than_the_reference(pool):
    own = "policy={kind: lead, share: 0.2, cap: 6, selection: {kind: majority}}"
    config = config_of(pool, own, "certify.choose=false", "goal={lose: 0.9, reference: {select: best_score}}")
    _, found = examine(config)
    assert found.policy == config.policy
    assert [found.row(name).selection for name in ("fixed N", "shipped policy")] == ["best_score", "majority"]


@pytest.mark.suite
def test_scores_alone_are_enough(tmp_path):
    rng = np.random.default_rng(0)
    lines = [
        json.dumps({"question": f"q {n}", "scores": rng.beta(1 + n % 7, 2, 6).round(4).tolist()})
        for n in range(200)
    ]
    (tmp_path / "scores.jsonl").write_text("\n".join(lines))
    run_import = ["import-pool", "--format", "scores", "--input", "scores.jsonl", "--pool", "pool"]
    assert CliRunner().invoke(app, run_import).exit_code == 0
    change = ("-s", "goal={change: 0.3, lose: null}")
    text = run("replay", "--pool", "pool", "--output", "report", *change)
    assert "differently from all 6 candidates by best score" in text
    assert "fewer than" not in text
    assert "no reference answers" in (tmp_path / "report" / "report.html").read_text()
    with pytest.raises(ConfigError, match=r"goal\.lose counts right answers, and the pool has no verdict"):
        examine(config_of(tmp_path / "pool"))
    _, found = examine(config_of(tmp_path / "pool", "goal.lose=null"))
    assert found.correctness is None
    assert found.row("fixed N", "6").tokens == 6  # a candidate counts as one token


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("policy.target=0.9512", "multiple of"),
        ("folds={train: 0.989, tune: 0.01, calibration: 0.0005, test: 0.0005}", "too|fold is empty|at least"),
    ],
)
def test_what_cannot_be_examined_says_why(pool, setting, message):
    with pytest.raises((PoolError, ConfigError), match=message):
        examine(config_of(pool, setting))


def test_another_family_can_be_named(pool):
    _, found = examine(config_of(pool, "predictor.family=beta"))
    assert [f.family for f in found.families] == ["beta"]
    assert found.test.priors.family.name == "beta"


def make_raw_pool(location, factor, contract):
    """The candidates of `make_pool`, whose scores come as rewards."""
    asked, raw = make_questions(180), Pool.create(str(location), contract)
    rows = score_rows(asked, contract)
    raw.append([r | {"score": None, "raw_score": factor * (r["score"] - 1)} for r in rows], seconds=1.0)


def test_raw_scores_are_decided_on_by_their_rank(tmp_path):
    """However they are scaled, the same is certified, and the certificate carries the map."""
    contract = make_contract(scale="raw")
    found = []
    for factor in (7.0, 30.0):
        make_raw_pool(tmp_path / f"{factor}", factor, contract)
        _, assessment = examine(config_of(tmp_path / f"{factor}"))
        found.append(assessment.certificate)
        raw = assessment.test.table.raw_scores
        assert (found[-1].score_map.apply(raw) == assessment.test.table.scores).all()
    one, other = found
    assert one.certified
    assert one.model_copy(update={"score_map": None}) == other.model_copy(update={"score_map": None})
    assert np.allclose(np.array(one.score_map.values) / 7, np.array(other.score_map.values) / 30)
    assert Certificate.model_validate_json(one.model_dump_json()) == one
