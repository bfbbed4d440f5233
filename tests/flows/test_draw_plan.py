"""Few candidates of most train questions: who gets them, what is saved, what such a pool is good for."""

from collections import Counter

import pytest

from data.errors import ConfigError
from data.folds import FoldSettings
from data.pool import Pool, pending
from data.questions import write_questions
from data.scores import load_scores
from flows.compare import compare_pools
from flows.config import Config, load_config
from flows.draw_plan import CollectSettings, choose_few, plan_parts
from flows.examine import examine
from flows.pilot import look
from flows.plan import plan
from tests.helpers import make_contract, make_pool, make_questions, make_uneven_pool, score_rows

FOLDS = FoldSettings(train=0.5, tune=0.15, calibration=0.2, test=0.15)
DRAWS = CollectSettings(candidates=6, train_candidates=2, full_train=20, part_questions=4)
ASKED = make_questions(120)


def folds_of(ids):
    return Counter(FOLDS.fold_of(name) for name in ids)


def test_all_but_some_train_questions_get_few_candidates_and_nobody_else():
    few = choose_few(ASKED, None, FOLDS, DRAWS)
    assert folds_of(few) == {"train": folds_of(q.id for q in ASKED)["train"] - 20}
    assert choose_few(ASKED, None, FOLDS, DRAWS.model_copy(update={"full_train": 500})) == set()
    assert not choose_few(ASKED, None, FOLDS, DRAWS.model_copy(update={"train_candidates": None}))


def test_a_small_pool_has_no_train_question_to_spare():
    many = make_questions(1000)
    draws = CollectSettings(candidates=32, train_candidates=4)
    assert not choose_few(many[:800], None, FoldSettings(), draws)
    assert len(choose_few(many, None, FoldSettings(), draws)) == pytest.approx(250, abs=50)


def test_a_collection_that_was_killed_goes_on_with_the_same_plan(tmp_path):
    planned = choose_few(ASKED, None, FOLDS, DRAWS)
    pool = Pool.create(str(tmp_path), make_contract())
    parts = plan_parts(ASKED, planned, DRAWS)
    for part, settings in parts[::2]:
        pool.append(score_rows(part, pool.manifest.contract, settings.candidates))
        left = pending(ASKED, pool)
        assert choose_few(left, pool, FOLDS, DRAWS) == planned & {q.id for q in left}


def test_later_questions_are_few_where_enough_are_full(tmp_path):
    pool = make_pool(tmp_path, questions=60, candidates=6)
    later = make_questions(60, start=60)
    assert folds_of(choose_few(later, pool, FOLDS, DRAWS))["train"] == folds_of(q.id for q in later)["train"]


def test_parts_hold_as_many_candidates_whoever_is_in_them():
    few = choose_few(ASKED, None, FOLDS, DRAWS)
    parts = plan_parts(ASKED, few, DRAWS)
    assert {(len(part), settings.candidates) for part, settings in parts} >= {(4, 6), (12, 2)}
    drawn = {question.id: settings.candidates for part, settings in parts for question in part}
    assert drawn == {question.id: 2 if question.id in few else 6 for question in ASKED}


def test_more_for_train_questions_than_for_others_is_refused():
    with pytest.raises(ConfigError, match="train_candidates is 8, and candidates 4"):
        load_config(overrides=("collect.candidates=4", "collect.train_candidates=8"))


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """A config and its pool of 120 questions, most train questions with two candidates of six."""
    home = tmp_path_factory.mktemp("uneven")
    values = {"home": home, "folds": FOLDS, "collect": DRAWS, "certify": {"orders": 2}, "goal": {"lose": 0.3}}
    config = Config.model_validate(values | {"policy": {"kind": "value", "cap": 6, "target": 0.7}})
    make_uneven_pool(config, 120)
    return config


@pytest.mark.slow
def test_a_dry_run_tells_what_few_candidates_save(uneven, tmp_path):
    from flows.collect import estimate

    write_questions(ASKED, tmp_path / "q.jsonl")
    collect = DRAWS.model_copy(update={"questions": (str(tmp_path / "q.jsonl"),)})
    told = estimate(uneven.model_copy(update={"collect": collect, "pool": str(tmp_path / "none")}))
    few = len(choose_few(ASKED, None, FOLDS, DRAWS))
    assert (told["with few candidates"], told["candidates"]) == (few, 720 - 4 * few)
    assert told["saved by that"] == f"{4 * few / 720:.0%}"


@pytest.mark.slow
def test_the_report_replays_full_questions_and_learns_the_prior_of_all(uneven):
    table = load_scores(Pool.open(uneven.pool_location), FOLDS)
    assert set(table.fold("train").drawn) == {2, 6}
    assert set(table.fold("tune", "calibration", "test").drawn) == {6}
    _, found = examine(uneven)
    assert found.certificate.cap == 6
    assert found.certificate.questions == len(table.fold("calibration"))
    assert len(found.train) == 20
    assert len(found.design.measured[0].loss) == 20 + len(table.fold("tune"))
    censoring = next(finding for finding in found.findings if finding.name == "censoring")
    assert (censoring.verdict, censoring.values["candidates"], censoring.values["short"]) == ("fine", 6, 0)
    assert censoring.values["planned"] == pytest.approx((table.drawn == 2).mean())


@pytest.mark.slow
def test_other_commands_take_it_too(uneven, tmp_path):
    compared = compare_pools(uneven.pool_location, folds=FOLDS)
    drawn = load_scores(Pool.open(uneven.pool_location), FOLDS).drawn
    assert (compared.cap, compared.questions, compared.left_out) == (
        6,
        (drawn == 6).sum(),
        (drawn == 2).sum(),
    )
    write_questions(make_questions(5, start=500), tmp_path / "q.jsonl")
    assert {row["questions"] for row in plan(uneven, tmp_path / "q.jsonl")} == {5}
    assert look(uneven)["questions"] == (drawn == 6).sum()
