"""What a report says first, and that nothing is called saved without a certificate."""

import numpy as np
import pytest

from flows import report
from flows.config import load_config
from flows.examine import examine
from flows.output import verdict_lines
from flows.pages import environment
from predictor.assessment import bound_coverage
from predictor.policies import Value
from predictor.replay import replay
from tests.helpers import make_pool

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def examined(tmp_path_factory):
    """A config that aims at .6, its pool, and what was found there: a certified policy."""
    location = tmp_path_factory.mktemp("verdicts") / "pool"
    make_pool(location, questions=160)
    settings = ("policy.cap=6", "certify.orders=4", "goal.lose=0.2")
    config = load_config(None, (f"pool={location}", "policy.target=0.6", "predictor.family=beta", *settings))
    pool, found = examine(config)
    assert found.certificate.policy is not None
    return config, pool, found


def page_of(folder, config, pool, found):
    report.write(folder, config, pool, found, {})
    return (folder / "report.html").read_text()


def test_without_a_certificate_nothing_is_saved_and_the_loss_is_told(examined, tmp_path):
    config, pool, found = examined
    none = found.certificate.model_copy(update={"policy": None})
    page = page_of(tmp_path, config, pool, found._replace(certificate=none))
    first = page[page.index("<h1") : page.index('<div class="cards">')]
    assert "NOTHING THAT SAVES IS CERTIFIED: all 6 candidates" in first
    assert "saved" not in first
    right = f"right on {found.row('shipped policy').accuracy:.1%}"
    assert right in first
    lines = verdict_lines(config, none, found.rows, found.refuted)
    assert lines[0].startswith("NOTHING THAT SAVES IS CERTIFIED")
    assert right in lines[1]
    assert "saved" not in lines[1]


def test_with_one_the_verdict_comes_first_and_the_schedule_beside(examined, tmp_path):
    config, pool, found = examined
    page = page_of(tmp_path, config, pool, found)
    order = [
        "CERTIFIED: ",
        "fixed N and schedules",
        "With confidence",
        "Right answers against",
        "What a thousand",
    ]
    assert [page.index(words) for words in order] == sorted(page.index(words) for words in order)
    refused = verdict_lines(config, found.certificate, found.rows, {"lost_accuracy": 1e-6})
    assert refused[0] == "REFUTED, DO NOT SHIP"
    assert "saved" not in refused[1]
    votes = [row for row in found.rows if " vote of " in row.policy]
    assert {row.selection for row in votes} == {"majority", "weighted_vote"}
    shipped = found.row("shipped policy")
    for row in votes:
        assert row.tokens == pytest.approx(shipped.tokens, rel=0.5 / shipped.draws + 0.05)
        assert f"{row.policy} on {row.accuracy:.1%}" in refused[1]


def test_goals_are_forecast_and_the_papers_bound_is_held_against_what_happened(examined, tmp_path):
    config, pool, found = examined
    page = page_of(tmp_path, config, pool, found)
    assert "<td>goal.lose</td><td>0.05</td>" in page
    covered = bound_coverage(found._replace(target=0.3))
    assert 0 <= covered["bound_feasible"] <= 1
    assert 1 <= covered["bound_samples"] <= 6
    assert covered["bound_coverage"] > 0.8


def test_money_is_told_before_and_after_where_prices_are_set(examined):
    config, _, found = examined
    priced = load_config(None, (f"pool={config.pool}", "prices.generator_per_million=2"))
    before, after = report.money(priced, found)
    row = found.row("shipped policy")
    assert after["generated"] == pytest.approx(row.tokens / 1000)  # millions per thousand questions
    assert after["cost"] == pytest.approx(2 * row.tokens / 1000)
    assert before["cost"] > after["cost"]
    assert all(line["cost"] == 0 for line in report.money(config, found))
    waiting = report.money(load_config(None, (f"pool={config.pool}", "prices.per_round=0.5")), found)
    assert [line["cost"] for line in waiting] == pytest.approx([500, 500 * row.rounds])


def test_the_moment_of_each_decision_is_that_of_a_policy_that_weighs_tokens(examined):
    """Candidates of 10 to 15 tokens, first taken for one: their true price is seen as they come."""
    _, _, found = examined
    policy = Value(target=0.9, cap=6, token_price=0.03, candidate_tokens=1, round_price=0.001)
    shown = report.examples(found._replace(policy=policy))
    candidates = found.test.candidates(6)
    course = replay(
        policy, candidates.scores, found.test.priors, candidates.tokens, answers=candidates.answers
    )
    assert np.any(course.drawn != replay(policy, candidates.scores, found.test.priors).drawn)
    drawn = {q.text: int(n) for q, n in zip(found.test.table.questions, course.drawn, strict=True)}
    for example in shown:
        assert example["drawn"] == example["ends"][-1] == drawn[example["question"].text]
        assert example["ends"] == sorted(set(example["ends"]))


@pytest.mark.parametrize("verdict", ["fine", "look", "unknown"])
def test_every_finding_is_put_into_words(examined, verdict):
    template = environment().get_template("findings.html.j2")
    for finding in examined[2].findings:
        if verdict == "unknown" and finding.name not in ("duplicates", "order", "parts", "ties"):
            continue
        shown = finding.model_copy(update={"verdict": verdict, "values": finding.values | {"short": 0.1}})
        words = " ".join(str(template.module.words(shown)).split())
        assert words.endswith(".")
        assert ".." not in words
