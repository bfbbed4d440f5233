import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from data.errors import ConfigError
from predictor.stopping import Source, StoppingRule, Trees, load_rule, totals
from predictor.votes import FEATURES

STUMPS = Trees(
    base=0.5,
    feature=((0, -1, -1), (1, -1, 0, -1, -1)),
    threshold=((0.3, 0, 0), (0.6, 0, 0.1, 0, 0)),
    left=((1, 0, 0), (1, 0, 3, 0, 0)),
    right=((2, 0, 0), (2, 0, 4, 0, 0)),
    value=((0, 1.0, 2.0), (0, 10.0, 0, 20.0, 30.0)),
)


@given(st.integers(1, 200), st.integers(1, 8), st.floats(1, 4))
def test_totals_rise_to_the_cap(cap, start, growth):
    found = totals(cap, start, growth)
    assert found[-1] == cap
    assert found[0] == min(start, cap)
    assert (np.diff(found) > 0).all()


def test_trees_add_the_leaves_that_a_row_ends_in():
    rows = np.array([[0.3, 0.6], [0.4, 0.6], [0.05, 0.7], [0.4, 0.7]])
    assert STUMPS.predict(rows).tolist() == [11.5, 12.5, 21.5, 32.5]


def test_many_rows_are_as_one_by_one():
    rows = np.random.default_rng(0).random((9000, 2))
    one = np.concatenate([STUMPS.predict(row[None]) for row in rows[::97]])
    np.testing.assert_array_equal(STUMPS.predict(rows)[::97], one)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"left": ((0, 0, 0), (1, 0, 3, 0, 0))}, "does not lead to a later one"),
        ({"value": ((0, 1.0), (0,))}, "differ"),
    ],
)
def test_broken_trees_are_refused(change, problem):
    with pytest.raises(ValidationError, match=problem):
        Trees.model_validate(STUMPS.model_dump() | change)


def test_a_rule_of_other_features_is_refused():
    source = Source(name="a", family="b", source="c", licence="MIT", questions=1, candidates=2)
    with pytest.raises(ValidationError, match="it reads length"):
        StoppingRule(name="r", features=("length",), trees=STUMPS, sources=(source,))


def test_the_rule_that_is_shipped_names_its_sources_and_gains_less_where_answers_agree():
    rule = load_rule("public-1")
    assert rule.features == FEATURES
    assert all(source.source and source.licence for source in rule.sources)
    agreed, scattered = np.zeros(len(FEATURES)), np.zeros(len(FEATURES))
    for row, first, second, distinct in ((agreed, 1.0, 0.0, 0.25), (scattered, 0.5, 0.25, 0.75)):
        names = {"left": 0.75, "first": first, "second": second, "distinct": distinct, "tail": first}
        for name, value in names.items():
            row[FEATURES.index(name)] = value
    gain = rule.gain(np.stack([agreed, scattered])[None])
    assert gain[0, 0] < gain[0, 1]


def test_an_unknown_rule_says_which_there_are(tmp_path):
    with pytest.raises(ConfigError, match="there are public-1"):
        load_rule("public-99")
    (tmp_path / "rule.json").write_text(json.dumps({"name": "r"}))
    with pytest.raises(ConfigError, match="is no stopping rule"):
        load_rule(str(tmp_path / "rule.json"))
