import time

import numpy as np
import pytest
from scipy import stats

from data.question import Question
from data.scores import ScoreTable
from predictor.assumptions import LEVEL, check

NAMES = ["misses", "censoring", "duplicates", "order", "parts", "clusters", "ties", "differences"]
WORDS = "abcdefghijklmnopqrst"


def pool(questions=300, n=16, seed=0, texts=None, **changes):
    """A pool without fault: beta scores of questions that differ, and texts from a discrete law."""
    rng = np.random.default_rng(seed)
    mean = rng.beta(3, 2, (questions, 1))
    columns = {
        "scores": rng.beta(6 * mean, 6 * (1 - mean), (questions, n)),
        "status": np.full((questions, n), "complete", dtype="U16"),
        "texts": rng.geometric(rng.beta(2, 2, (questions, 1)), (questions, n)) if texts is None else texts,
        "tokens": np.full((questions, n), 10.0),
        "parts": np.arange(questions) // 50,
    }
    return columns | changes


def look(columns, target=0.8, scale="unit", questions=None):
    """The findings on a table of these columns; by default no two questions are alike but for numbers."""
    scores = columns["scores"]
    count, blank = len(scores), np.full(scores.shape, np.nan)
    names = questions or ["".join(WORDS[int(d)] for d in str(n)) for n in range(count)]
    table = ScoreTable(
        questions=[Question.ask(name) for name in names],
        folds=np.full(count, "test"),
        drawn=(columns["status"] != "").sum(axis=1),
        prompt_tokens=np.ones(count),
        scale=scale,
        raw_scores=blank,
        correct=blank,
        reward_tokens=columns["tokens"],
        answers=columns["texts"],
        scores_or_nan=scores if scale == "unit" else blank,
        **{name: columns[name] for name in ("parts", "tokens", "status", "texts")},
    )
    return check(table, target)


def found(columns, **options):
    return {finding.name: finding for finding in look(columns, **options)}


@pytest.fixture(scope="module")
def sound():
    return found(pool())


def test_a_sound_pool_is_fine_in_a_fixed_order(sound):
    assert list(sound) == NAMES
    assert {f.verdict for f in sound.values()} == {"fine"}
    assert look(pool()) == list(sound.values())


def test_false_alarms_are_as_rare_as_the_level_says():
    seen = [found(pool(60, 8, seed)) for seed in range(30)]
    for name in ("duplicates", "order", "parts"):
        values = np.array([f[name].p_value for f in seen])
        assert (values < LEVEL).sum() <= 2
        assert stats.kstest(values, "uniform").pvalue > 0.001


def test_repeats_and_unseen_mass_by_hand():
    texts = np.array([[5, 5, 7, -1], [1, 2, 3, 1]])
    duplicates = found(pool(2, 4, texts=texts))["duplicates"]
    assert duplicates.values["repeated"] == pytest.approx(2 / 7)
    assert duplicates.values["unseen"] == pytest.approx(3 / 7)  # 7, 2, 3


def test_unseen_mass_predicts_the_next_candidate():
    rng = np.random.default_rng(2)
    texts = rng.geometric(rng.beta(2, 6, (3000, 1)), (3000, 13))
    new = (texts[:, :-1] != texts[:, -1:]).all(axis=1).mean()
    seen = found(pool(3000, 12, texts=texts[:, :-1]))["duplicates"]
    assert seen.values["unseen"] == pytest.approx(new, abs=0.03)
    assert seen.verdict == "fine"


@pytest.mark.parametrize("apart", [1, 4])
def test_copies_at_a_distance_are_found(apart):
    columns = pool()
    rows = np.arange(300) % 3 == 0
    columns["texts"][rows, apart : 2 * apart] = columns["texts"][rows, :apart] = 1000 + np.arange(apart)
    columns["texts"][rows, 2 * apart :] = 2000 + np.arange(16 - 2 * apart)
    duplicates = found(columns)["duplicates"]
    assert duplicates.p_value < LEVEL
    assert duplicates.values["apart"] == apart
    assert duplicates.verdict == ("look" if apart == 1 else "broken")


def test_a_cache_over_whole_questions_is_found_though_its_order_is_innocent():
    texts = np.random.default_rng(0).geometric(0.3, (300, 16))
    texts[::6] = 1
    duplicates = found(pool(texts=texts))["duplicates"]
    assert duplicates.p_value > LEVEL
    assert duplicates.verdict == "look"
    assert duplicates.values["single"] == pytest.approx(1 / 6, abs=0.01)


def test_many_easy_questions_are_no_cache():
    rng = np.random.default_rng(1)
    texts = rng.geometric(rng.beta(4, 0.6, (600, 1)), (600, 16))
    duplicates = found(pool(600, texts=texts))["duplicates"]
    assert duplicates.values["single"] > 0.3
    assert duplicates.verdict == "fine"


def test_a_trend_along_the_order_is_measured():
    columns = pool()
    columns["scores"] = np.clip(columns["scores"] - np.linspace(0, 0.06, 16), 0, 1)
    order = found(columns)["order"]
    assert order.values["change"] == pytest.approx(-0.055, abs=0.02)
    assert order.verdict in ("look", "broken")
    assert order.p_value < 0.001


def test_correlation_of_neighbours_is_measured():
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(400, 24))
    for k in range(1, 24):
        noise[:, k] = 0.3 * noise[:, k - 1] + np.sqrt(1 - 0.3**2) * noise[:, k]
    order = found(pool(400, 24, scores=0.5 + 0.1 * np.clip(noise, -4, 4)))["order"]
    assert order.values["correlation"] == pytest.approx(0.3, abs=0.04)
    assert order.verdict == "broken"


def test_parts_that_differ_are_found_as_by_kruskal():
    columns = pool()
    columns["scores"][250:] *= 0.7
    parts = found(columns)["parts"]
    expected = stats.kruskal(*np.split(columns["scores"].mean(axis=1), 6))
    assert parts.p_value == pytest.approx(expected.pvalue)
    assert parts.verdict == "look"
    assert parts.values["high"] > 1.2 * parts.values["low"]


def test_ties_steps_and_ends_by_hand():
    scores = np.array([[0.5, 0.5, 0.5, 1.0], [0.25, 0.25, 0.75, 0.0]])
    texts = np.array([[1, 1, 2, 3], [1, 1, 2, 3]])
    status = np.array([["complete"] * 4, ["complete"] * 3 + ["failed"]])
    values = found(pool(2, 4, scores=scores, texts=texts, status=status))["ties"].values
    assert values["tied"] == pytest.approx(3 / 7)  # the twins of the second question are one text
    assert values["step"] == 0.25
    assert (values["zero"], values["one"], values["top"]) == pytest.approx((0, 1 / 7, 1 / 7))


def test_ties_of_unknown_texts_count():
    tied = found(pool(scores=pool()["scores"].round(1), texts=np.full((300, 16), -1)))
    assert tied["ties"].verdict == "look"
    assert tied["duplicates"].verdict == "unknown"


def test_misses_are_counted_with_their_cost():
    columns = pool(10, 4)
    columns["status"][0] = "cut"
    columns["status"][1, :2] = "failed"
    columns["tokens"][0] = 30.0
    misses = found(columns)["misses"]
    assert misses.values["cut"] == pytest.approx(4 / 40)
    assert misses.values["failed"] == pytest.approx(2 / 40)
    assert misses.values["tokens"] == pytest.approx(140 / 480)
    assert misses.values["questions"] == pytest.approx(0.1)
    assert misses.verdict == "look"


def test_questions_cut_short_are_named_and_left_out():
    columns = pool()
    whole = found({name: values[100:] for name, values in columns.items()})
    columns["scores"][:100, 4:] = np.nan
    columns["status"][:100, 4:] = ""
    columns["texts"][:100, 4:] = -1
    seen = found(columns)
    assert seen["censoring"].values == pytest.approx({"short": 1 / 3, "candidates": 16, "planned": 0})
    assert seen["censoring"].verdict == "look"
    assert seen["differences"] == whole["differences"]


def test_one_question_with_more_candidates_sets_no_standard():
    columns = pool()
    columns["scores"][1:, 15] = np.nan
    assert found(columns)["censoring"].values == {"short": 0.0, "candidates": 15, "planned": 0.0}


def test_differences_match_the_law_they_were_drawn_from():
    rng = np.random.default_rng(4)
    chance = rng.beta(2, 3, (2000, 1))
    seen = found(pool(2000, 16, scores=(rng.random((2000, 16)) < chance) * 0.9))["differences"]
    assert seen.values["between"] == pytest.approx(stats.beta(2, 3).std(), abs=0.01)
    assert seen.verdict == "fine"


def test_equal_questions_need_no_policy():
    scores = np.random.default_rng(5).random((500, 16))
    assert found(pool(500, scores=scores))["differences"].verdict == "look"
    unreachable = found(pool(500, scores=scores * 0.7))["differences"]
    assert unreachable.values == {"hits": 0.0, "target": 0.8}
    assert unreachable.verdict == "look"


def test_tiny_pools_say_what_they_cannot_show():
    one = found(pool(1, 1))
    unknown = {name for name, finding in one.items() if finding.verdict == "unknown"}
    assert unknown == {"duplicates", "order", "parts"}
    constant = found(pool(scores=np.full((300, 16), 0.5)))
    assert constant["parts"].verdict == "unknown"
    assert constant["order"].verdict == "fine"


def test_a_large_pool_takes_no_more_than_two_seconds():
    columns = pool(2000, 32)
    start = time.process_time()
    look(columns)
    assert time.process_time() - start < 2


def test_questions_that_differ_in_numbers_alone_are_told():
    texts = [f"What is {n} + {n + 1}?" for n in range(30)] + [f"Why does {w}?" for w in "abcdefghijklmnop"]
    clusters = found(pool(46), questions=texts)["clusters"]
    assert clusters.verdict == "look"
    assert clusters.values == {"alike": pytest.approx(30 / 46), "largest": 30}
    assert found(pool())["clusters"].verdict == "fine"


def test_without_scores_nothing_is_said_of_them():
    assert list(found(pool(), scale="none")) == NAMES[:6]
