import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from data.errors import ScoreError
from data.score_map import KNOTS, ScoreMap

numbers = st.floats(-1e9, 1e9)


@given(seen=st.lists(numbers | st.just(0.5), min_size=1), asked=st.lists(numbers))
def test_a_map_never_falls_and_stays_in_0_to_1(seen, asked):
    fitted = ScoreMap.fit(seen)
    found = fitted.apply(sorted([*asked, *seen]))
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found) > -1e-12).all()
    assert ScoreMap.model_validate_json(fitted.model_dump_json()) == fitted


@given(seen=st.lists(st.integers(-20, 20), min_size=1))
def test_a_score_becomes_its_rank_with_half_of_its_equals(seen):
    found = ScoreMap.fit(seen).apply(seen)
    expected = [np.mean([(s < one) + (s == one) / 2 for s in seen]) for one in seen]
    np.testing.assert_allclose(found, expected)


def test_scores_beyond_those_seen_are_0_and_1_and_none_stays_none():
    fitted = ScoreMap.fit([[-3.0, np.nan], [-1.0, -1.0]])
    np.testing.assert_allclose(
        fitted.apply([-4, -3, -2, -1, 0, np.nan]), [0, 1 / 6, 5 / 12, 2 / 3, 1, np.nan]
    )


def test_many_scores_make_a_small_map():
    rng = np.random.default_rng(0)
    raw = rng.normal(size=20_000)
    fitted = ScoreMap.fit(raw)
    assert len(fitted.values) <= KNOTS
    exact = raw.argsort().argsort() / len(raw)
    assert np.abs(fitted.apply(raw) - exact).max() < 2 / KNOTS


@pytest.mark.parametrize("raw", [[], [np.nan], [1, np.inf]])
def test_a_map_of_nothing_is_refused(raw):
    with pytest.raises(ScoreError, match="finite"):
        ScoreMap.fit(raw)


@pytest.mark.parametrize(
    ("values", "ranks"),
    [((1, 1), (0.2, 0.3)), ((1, 2), (0.3, 0.2)), ((1,), (1.5,)), ((1, 2), (0.5,)), ((), ())],
)
def test_what_is_no_map_is_refused(values, ranks):
    with pytest.raises(ValidationError):
        ScoreMap(values=values, ranks=ranks)
