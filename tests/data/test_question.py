import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from data.contract import require_same_contract
from data.errors import ContractError, QuestionError, ScoreError
from data.question import Message, Question, require_distinct
from tests.helpers import make_contract


@given(st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip))
def test_identity_ignores_white_space_and_nothing_else(text):
    question = Question.ask(text)
    assert Question.ask(f"  {text}\n").id == question.id
    assert Question.ask(text + "x").id != question.id
    assert len(question.id) == 16


def test_identity_knows_who_spoke():
    alone = Question.ask("What is 2?")
    told = Question(messages=(Message(role="system", content="Be brief."), *alone.messages))
    assert told.id != alone.id
    assert told.text == alone.text


@pytest.mark.parametrize("text", ["", " \n\t", "x" * 10_000_001])
def test_an_empty_or_endless_question_is_refused(text):
    with pytest.raises(ValidationError):
        Question.ask(text)


def test_a_repeated_question_is_named():
    with pytest.raises(QuestionError, match="question 2 repeats question 1"):
        require_distinct([Question.ask("a b"), Question.ask("a  b")], "here")


def test_fingerprint_follows_every_field():
    base = make_contract()
    assert make_contract().fingerprint == base.fingerprint
    for change in ({"reward_revision": "2"}, {"aggregation": "mean"}, {"span": "answer"}, {"markup": "qwen"}):
        assert make_contract(**change).fingerprint != base.fingerprint
    with pytest.raises(ContractError, match="cannot be compared"):
        require_same_contract(base.fingerprint, make_contract(generator="h").fingerprint, "here")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_aggregations_order_as_they_must(steps):
    score = {how: make_contract(aggregation=how).score(steps) for how in ("mean", "min", "last", "product")}
    slack = 1e-4
    assert score["product"] <= score["min"] + slack
    assert score["min"] <= score["mean"] + slack
    assert all(0 <= value <= 1 for value in score.values())
    assert score["last"] == pytest.approx(steps[-1], abs=slack)


@pytest.mark.parametrize("steps", [[], [float("nan")], [1.01], ["a"]])
def test_steps_that_are_no_probabilities_are_refused(steps):
    with pytest.raises(ScoreError):
        make_contract().score(steps)
