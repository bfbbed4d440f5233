"""Why a decision was taken, from the gateway's log and from a pool."""

import json

import pytest
from typer.testing import CliRunner

from data.errors import ConfigError, PoolError
from data.feedback import Feedback, keep_feedback
from data.questions import write_questions
from flows.cli import app
from flows.config import load_config
from flows.explain import explain_question, explain_request
from flows.pages import render
from predictor.policies import Schedule
from tests.decision_log import ASKED, CONTRACT, POLICY, write_log
from tests.helpers import make_pool

pytestmark = pytest.mark.slow


def run(*arguments):
    done = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def text_of(found):
    return render("explain.md.j2", **found)


def test_a_request_is_told_round_by_round(tmp_path):
    write_log(tmp_path / "log", [(ASKED[0], False), (ASKED[1], False)], text=True)
    found = explain_request(tmp_path / "log", "r1")
    assert [told["drawn"] for told in found["rounds"]] == [0, 2, 4]
    assert [told["decision"].more for told in found["rounds"]] == [2, 2, 0]
    assert [new["score"] for new in found["rounds"][1]["new"]] == [0.25, 0.25]
    assert [new["answer"] for new in found["rounds"][1]["new"]] == ["2", "2"]
    assert found["versions"]["contract_digest"] == CONTRACT.fingerprint
    assert found["versions"]["promise"] is None
    assert found["delivered"]["correct"] is None
    assert {a["draws"] for a in found["alternatives"]} == {1, 4}
    told = text_of(found)
    assert ASKED[1].text in told
    assert "after 4 candidates in 2 rounds: the cap is reached" in told


def test_a_verdict_is_the_references_or_a_persons(tmp_path):
    write_log(tmp_path / "log", [(ASKED[0], False)], text=True)
    write_questions(ASKED, tmp_path / "q.jsonl")
    known = explain_request(tmp_path / "log", "r0", tmp_path / "q.jsonl")
    assert known["delivered"]["correct"] is True
    assert {a["correct"] for a in known["alternatives"]} == {True}
    keep_feedback(tmp_path / "log", [Feedback(request_id="r0", verdict="wrong", who="ann", when=0)])
    told = json.loads(run("explain", "r0", "--log", tmp_path / "log", "--json"))
    assert told["delivered"]["correct"] is False
    assert "wrong, says ann" in text_of(explain_request(tmp_path / "log", "r0"))


def test_what_is_not_stored_is_said(tmp_path):
    write_log(tmp_path / "log", [(ASKED[0], True)])
    found = explain_request(tmp_path / "log", "r0")
    assert found["question"]["text"] is None
    assert len(found["notes"]) == 2
    assert "log.text is off" in text_of(found)
    assert found["rounds"][-1]["decision"].selected == 0


def test_early_stops_leave_the_rest_unknown(tmp_path):
    write_log(
        tmp_path / "log", [(ASKED[0], False)], text=True, policy=POLICY.model_copy(update={"target": 0.2})
    )
    found = explain_request(tmp_path / "log", "r0")
    assert {a["draws"] for a in found["alternatives"]} == {1}
    assert found["stopped_by"] == "a score has reached the target"
    assert "2 of 4 candidates are known" in text_of(found)


def test_an_unknown_request_names_those_like_it(tmp_path):
    write_log(tmp_path / "log", [(q, False) for q in ASKED])
    with pytest.raises(PoolError, match="no request 'r9'.*nearest are r"):
        explain_request(tmp_path / "log", "r9")


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return make_pool(tmp_path_factory.mktemp("explained") / "pool", questions=80)


def test_a_question_of_a_pool_is_told_under_the_configs_policy(pool):
    name = sorted(pool.question_ids)[0]
    config = load_config(None, (f"pool={pool.location}", "policy.target=0.8", "policy.cap=6"))
    found = explain_question(config, name)
    assert found["versions"]["predictor"].startswith("the population's")
    assert "chance of a hit within the cap" in found["rounds"][0]["evidence"]
    last = found["rounds"][-1]
    assert last["decision"].more == 0
    assert found["delivered"]["correct"] is (found["delivered"]["score"] > 0.7)
    assert {a["draws"] for a in found["alternatives"]} == {1, 4, 6}
    assert explain_question(config, name[:12])["question"]["id"] == name


def test_a_policy_in_a_file_and_what_it_promises(pool, tmp_path):
    name = sorted(pool.question_ids)[0]
    (tmp_path / "p.json").write_text(Schedule(target=0.99, cap=6, start=2).model_dump_json())
    line = ["explain", "--question", name, "--pool", pool.location]
    told = json.loads(run(*line, "--policy", tmp_path / "p.json", "--json"))
    assert [r["drawn"] for r in told["rounds"]] == [0, 2, 6]
    certify = ["certify", "--pool", pool.location, "-s", "policy.target=0.8", "-s", "policy.cap=6"]
    risks = ["-s", "goal.lose=0.4"]
    run(*certify, *risks, "--output", tmp_path / "c.json")
    told = run(*line, "--policy", tmp_path / "c.json")
    assert "With confidence 90" in told
    assert "On the same candidates" in told


def test_an_unknown_question_names_those_like_it(pool):
    config = load_config(None, (f"pool={pool.location}",))
    near = sorted(pool.question_ids)[0]
    with pytest.raises(PoolError, match=near):
        explain_question(config, near[:-1] + "x")


def test_what_is_asked_must_be_clear():
    with pytest.raises(ConfigError, match="--log"):
        run("explain")
