from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import beta

from predictor.votes import FEATURES, agreement, count_votes, vote_features

ANSWERS = arrays(np.int64, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.integers(-1, 4))


@given(ANSWERS)
def test_votes_are_those_that_counting_gives(answers):
    votes = count_votes(answers)
    for row, asked in enumerate(answers):
        for column in range(len(asked)):
            counts = Counter(a for a in asked[: column + 1].tolist() if a >= 0)
            most = [n for _, n in counts.most_common(3)] + [0, 0, 0]
            seen = (votes.first, votes.second, votes.third)
            assert [v[row, column] for v in seen] == pytest.approx(most[:3])
            assert votes.distinct[row, column] == len(counts)
            assert votes.empty[row, column] == column + 1 - sum(counts.values())
            assert votes.single[row, column] == sum(n == 1 for n in counts.values())
            if counts:
                assert counts[votes.answer[row, column]] == most[0]
                assert asked[votes.chosen[row, column]] == votes.answer[row, column]
            else:
                assert votes.answer[row, column] == -1
            assert votes.chosen[row, column] <= column


@given(ANSWERS, st.integers(2, 50))
def test_names_of_answers_do_not_matter(answers, factor):
    renamed = np.where(answers < 0, -1, answers * factor + 7)
    one, other = count_votes(answers), count_votes(renamed)
    for name in ("chosen", "first", "second", "third", "distinct", "empty", "single", "since"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_at_equal_votes_the_leader_stays():
    votes = count_votes(np.array([[5, 3, 3, 5, 5]]))
    assert votes.answer.tolist() == [[5, 5, 3, 3, 5]]
    assert votes.since.tolist() == [[0, 1, 0, 1, 0]]


def test_weights_are_relative_to_their_mean_and_the_best_scored_of_the_leaders_is_delivered():
    answers, scores = np.array([[0, 1, 1, 1]]), np.array([[0.9, 0.1, 0.3, 0.2]])
    votes = count_votes(answers, weights=scores, scores=scores)
    assert votes.answer.tolist() == [[0, 0, 0, 0]]
    assert votes.first[0, -1] == pytest.approx(4 * 0.9 / 1.5)
    assert votes.second[0, -1] == pytest.approx(4 * 0.6 / 1.5)
    assert count_votes(answers, scores=scores).chosen.tolist() == [[0, 0, 2, 2]]


def test_where_no_candidate_has_an_answer_the_best_scored_is_delivered():
    votes = count_votes(np.array([[-1, -1, -1]]), scores=np.array([[0.2, 0.7, 0.5]]))
    assert votes.chosen.tolist() == [[0, 1, 1]]
    assert votes.first.tolist() == [[0, 0, 0]]


def test_agreement_is_the_beta_tail_of_adaptive_consistency():
    votes = count_votes(np.array([[0, 0, 1, 0]]))
    expected = [beta(v + 1, w + 1).sf(0.5) for v, w in ((1, 0), (2, 0), (2, 1), (3, 1))]
    np.testing.assert_allclose(agreement(votes)[0], expected)


@given(ANSWERS, st.integers(9, 40))
def test_features_are_finite_shares(answers, cap):
    features = vote_features(count_votes(answers), cap)
    assert features.shape == (*answers.shape, len(FEATURES))
    assert np.isfinite(features).all()
    shares = [
        FEATURES.index(name) for name in ("left", "first", "second", "third", "empty", "single", "tail")
    ]
    assert (features[..., shares] >= 0).all()
    assert (features[..., shares] <= 1).all()
