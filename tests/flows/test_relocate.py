"""A state folder that was moved, and one that was copied."""

import shutil

import mlflow
import pytest

from data.errors import TrackingError
from flows.config import Config
from flows.relocate import relocate, require_in_place
from flows.tracking import Tracking

pytestmark = pytest.mark.slow


def log_file(config, text, name="note.txt"):
    """A run with a file in it; its id."""
    tracking = Tracking(config)
    file = config.home / name
    file.write_text(text)
    with tracking.run("note") as run:
        tracking.file(file)
    return run


@pytest.mark.parametrize("move", [shutil.move, shutil.copytree])
def test_a_state_folder_at_another_place_is_found_and_mended(tmp_path, move):
    old, new = tmp_path / "old_%", tmp_path / "new é"
    run = log_file(Config(home=old), "before")
    mlflow.MlflowClient().create_experiment("another", artifact_location=(tmp_path / "oldx%/z").as_uri())
    move(old, new)
    config = Config(home=new)
    with pytest.raises(TrackingError, match=r"moved or copied.*optscale relocate"):
        Tracking(config)
    changed = relocate(config)
    assert changed["experiments.artifact_location"] == changed["runs.artifact_uri"] == 1
    require_in_place(config)
    assert relocate(config) == {}
    assert Tracking(config).read(run, "note.txt") == "before"
    later = log_file(config, "after", "later.txt")
    assert list(new.glob(f"artifacts/{later}/**/later.txt"))
    assert not list(old.glob(f"artifacts/{later}"))


def test_a_folder_that_never_moved_is_left_alone(tmp_path):
    config = Config(home=tmp_path)
    require_in_place(config)  # there is no database yet
    log_file(config, "x")
    require_in_place(config)
    (tmp_path / "mlflow.db").write_text("not a database")
    require_in_place(config)  # MLflow says so itself
    with pytest.raises(TrackingError):
        Tracking(config)
