import numpy as np
import pytest
from pydantic import ValidationError

from data.errors import ConfigError, ScoreError
from predictor.contenders import contenders, of_rule
from predictor.decision import decide
from predictor.policies import load_policy
from predictor.replay import replay
from predictor.selection import Selection
from predictor.stopping import load_rule
from predictor.value_rule import Orders, fit_value_rules, show
from predictor.vote_policies import Agreement, Lead, Learned, OwnRule
from tests.predictor.test_comparison import pool

MAJORITY = Selection(kind="majority")
WEIGHTED = Selection(kind="weighted_vote", power=3)
RULE = load_rule("public-1")
OTHER = RULE.model_copy(update={"name": "mine", "trees": RULE.trees.model_copy(update={"base": 0.05})})
"""A rule that does not come with the product."""


def drawn_by(policy, candidates):
    return replay(policy, candidates.scores, tokens=candidates.tokens, answers=candidates.answers)


@pytest.mark.parametrize(("selection", "rule"), [(MAJORITY, RULE), (WEIGHTED, RULE), (MAJORITY, OTHER)])
def test_a_policy_stops_where_the_comparison_says_it_does(selection, rule):
    candidates = pool(150, 16)
    shown = show(candidates, selection, rule)
    entries = [each for each in contenders(16, selection, candidates.scores, rule) if each.policy is not None]
    assert {each.name for each in entries} >= {"fixed N", "adaptive consistency", "lead"}
    for each in entries[::3]:
        run, (drawn, rounds) = drawn_by(each.policy, candidates), each.stop(shown)
        np.testing.assert_array_equal(run.drawn, drawn, err_msg=str(each.policy))
        np.testing.assert_array_equal(run.rounds, rounds, err_msg=str(each.policy))
        np.testing.assert_array_equal(run.chosen, shown.votes.chosen[np.arange(150), drawn - 1])


def test_an_own_rule_is_the_same_as_a_policy():
    candidates = pool(150, 16)
    for selection, rule in ((MAJORITY, RULE), (WEIGHTED, RULE), (Selection(), RULE), (WEIGHTED, OTHER)):
        (value,) = fit_value_rules(Orders(candidates, rule), np.arange(100), selection, (0.1,))
        policy = of_rule(value, selection, 16, rule).policy
        drawn, _ = value.stop(show(candidates, selection, rule))
        np.testing.assert_array_equal(drawn_by(policy, candidates).drawn, drawn)
        assert load_policy(policy.model_dump_json()) == policy


def test_a_policy_holds_a_rule_that_does_not_come_with_the_product(tmp_path):
    """Where it is served the file need not be."""
    (tmp_path / "mine.json").write_text(OTHER.model_dump_json())
    policy = Learned(rule=str(tmp_path / "mine.json"))
    (tmp_path / "mine.json").unlink()
    load_rule.cache_clear()
    assert load_rule(load_policy(policy.model_dump_json()).rule) == OTHER
    assert Learned(rule="public-1").rule == "public-1"
    with pytest.raises(ConfigError, match="no stopping rule 'public-99'"):
        Learned(rule="public-99")


def test_without_a_verifier_the_vote_decides():
    policy = Learned(cap=16, price=0.02)
    first = decide(policy, answers=[])
    assert (first.action, first.more, first.selected) == ("sample", 1, None)
    scattered, agreed = (
        decide(policy, answers=["3", "4", None, "5"]),
        decide(policy, answers=["3", None, "3", "3"]),
    )
    assert scattered.action == "sample" or scattered.reason == "more answers are not worth their price"
    assert (agreed.action, agreed.best, agreed.selected) == ("accept", None, 0)
    assert agreed.reason == "more answers are not worth their price"


def test_candidates_without_any_answer_are_given_up_at_the_cap():
    found = decide(Agreement(cap=4), answers=[None] * 4)
    assert (found.action, found.reason) == ("give up", "the cap is reached")


def test_the_delivered_candidate_is_the_best_scored_of_the_leading_answer():
    found = decide(
        Lead(cap=4, selection=WEIGHTED), scores=[0.9, 0.8, 0.85, 0.1], answers=["a", "b", "b", "c"]
    )
    assert found.selected == 2


def test_answers_that_do_not_fit_the_scores_are_refused():
    with pytest.raises(ScoreError, match="2 answers for 3 scores"):
        decide(Lead(cap=8), scores=[0.1, 0.2, 0.3], answers=["a", "b"])
    with pytest.raises(ConfigError, match="none were given"):
        decide(Lead(cap=8), scores=[0.1, 0.2, 0.3])


def test_a_rule_learned_for_another_cap_is_refused():
    (value,) = fit_value_rules(Orders(pool(60, 8), RULE), np.arange(60), MAJORITY, (0.1,))
    with pytest.raises(ValidationError, match="learned up to 8 candidates, not 16"):
        OwnRule(cap=16, value=value)


def test_a_lead_that_cannot_be_overtaken_changes_no_answer():
    candidates = pool(200, 12, scored=False)
    safe = drawn_by(Lead(cap=12, share=1), candidates)
    answers = np.take_along_axis(candidates.answers, safe.chosen[:, None], axis=1)[:, 0]
    np.testing.assert_array_equal(answers, MAJORITY.count(candidates.answers, None).answer[:, -1])
    assert drawn_by(Agreement(cap=12, confidence=0.7), candidates).drawn.mean() < safe.drawn.mean() < 12
