"""A predictor certifies nothing on questions that it was fitted on."""

import numpy as np
import pytest

from data.errors import ModelError
from data.pool import Pool
from data.scores import load_scores
from flows.config import load_config
from flows.examine import examine
from flows.train import fit_predictor
from predictor.learned.base import Fold
from predictor.learned.card import REFIT, PredictorCard
from predictor.learned.comparison import refit
from tests.helpers import make_pool

pytestmark = pytest.mark.slow

SETTINGS = (
    "policy.target=0.9",
    "policy.cap=6",
    "certify.orders=1",
    "goal.lose=0.3",
    "predictor.kind=text",
    "predictor.compare=[text]",
    "predictor.family=beta",
)
OTHER_FOLDS = "folds={train: 0.1, tune: 0.1, calibration: 0.4, test: 0.4}"


def config_of(folder, *more):
    return load_config(None, (f"home={folder}", f"pool={folder / 'pool'}", *SETTINGS, *more))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A folder with a pool, and a predictor fitted on train and tune as training leaves it, refit and all."""
    folder = tmp_path_factory.mktemp("unread")
    pool = make_pool(folder / "pool", questions=200)
    config = config_of(folder)
    table = load_scores(pool, config.folds)
    model = fit_predictor(config, pool, table, folder / "checkpoints")
    model.save(folder / "predictor")
    refit(model, Fold(table.questions, table.scores)).save(folder / "predictor" / REFIT)
    return folder


def ids(table):
    return {question.id for question in table.questions}


def test_with_other_folds_only_what_it_has_not_read_certifies_and_reports(fitted):
    config = config_of(fitted, OTHER_FOLDS)
    whole = load_scores(Pool.open(config.pool_location), config_of(fitted).folds)
    read = ids(whole.fold("train", "tune"))
    other = load_scores(Pool.open(config.pool_location), config.folds)
    expected = {name: len(ids(other.fold(name)) & read) for name in ("calibration", "test")}
    assert expected["calibration"] > 20  # they were certified on, before a card told what it had read
    _, found = examine(config, fitted / "predictor")
    assert found.left_out == {name: count for name, count in expected.items() if count}
    assert found.certificate.questions == len(ids(other.fold("calibration")) - read)
    assert not ids(found.test.table) & read


def test_with_the_folds_of_training_nothing_is_left_out(fitted):
    _, found = examine(config_of(fitted), fitted / "predictor")
    assert found.left_out == {}
    assert "text predictor" in found.priors_from


def test_one_that_has_read_every_question_is_refused(fitted):
    with pytest.raises(ModelError, match=r"read every question of the calibration fold.*folder above"):
        examine(config_of(fitted), fitted / "predictor" / REFIT)


def test_the_fit_and_the_refit_have_read_their_own(fitted):
    config = config_of(fitted)
    table = load_scores(Pool.open(config.pool_location), config.folds)
    card, whole = (PredictorCard.open(fitted / "predictor" / part) for part in ("", REFIT))
    assert set(card.read) == ids(table.fold("train", "tune"))
    assert set(whole.read) == ids(table)
    assert (whole.contract, whole.data_digest) == (card.contract, card.data_digest)
    assert not np.any([key in repr(card) for key in card.read])
