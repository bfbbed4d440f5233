"""What a command shows while flows run, and where all else goes."""

import io
import logging
import subprocess
import sys

import pytest

from data.errors import ConfigError
from flows import progress
from flows.progress import Progress, clock, counted

STAGES = ("collect", "train")


def record(message, *arguments, stage=None, level=logging.INFO, file=progress.__file__, **extra):
    made = logging.LogRecord("prefect.flow_runs", level, file, 1, message, arguments, None)
    made.__dict__.update(extra, **({"flow_name": stage} if stage else {}))
    return made


@pytest.fixture
def shown(monkeypatch):
    """A handler whose clock is set by hand, what it wrote, and the clock."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    handler = Progress(stream, STAGES)
    yield handler, stream, now
    handler.close()


def test_stages_are_counted_and_like_pieces_give_the_time_left(shown):
    handler, stream, now = shown
    handler.emit(record("%d of %d questions", 2, 8, stage="collect", **counted(2, 8)))
    now[0] = 40.0  # two more in forty seconds, four to go
    handler.emit(record("%d of %d questions", 4, 8, stage="collect", **counted(4, 8)))
    now[0] = 75.0
    handler.emit(record("fitting text", stage="train"))
    now[0] = 80.0
    handler.end_stage()
    assert stream.getvalue().splitlines() == [
        "[1/2] collect · 2 of 8 questions",
        "[1/2] collect · 4 of 8 questions · 1:20 left",
        "[1/2] collect · done in 1:15",
        "[2/2] train · fitting text",
        "[2/2] train · done in 0:05",
    ]


def test_without_a_terminal_the_same_thing_is_said_twice_a_minute(shown):
    handler, stream, now = shown
    for second in range(100):
        now[0] = float(second)
        handler.emit(record("%d of %d", second, 100, stage="collect", **counted(second, 100)))
    assert len(stream.getvalue().splitlines()) == 4


def test_a_library_is_not_shown_and_a_warning_of_ours_is(shown):
    handler, stream, _ = shown
    handler.emit(record("Beginning flow run", stage="train", file=logging.__file__))
    handler.emit(record("a library's", level=logging.WARNING, file=logging.__file__))
    assert not stream.getvalue()
    handler.emit(record("%d candidates failed", 3, level=logging.WARNING))
    assert stream.getvalue() == "WARNING: 3 candidates failed\n"


@pytest.mark.parametrize(("seconds", "text"), [(5, "0:05"), (70.4, "1:10"), (3600, "1 h 00 min")])
def test_a_duration_is_read_at_a_glance(seconds, text):
    assert clock(seconds) == text


@pytest.mark.slow
def test_a_state_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "home").write_text("in its place")
    named = pytest.raises(ConfigError, match="state folder cannot be written .*OPTSCALE_HOME")
    with named, progress.shown(tmp_path / "home" / "logs", "train", ("train",)):
        pass


def test_whatever_is_written_inside_is_in_the_file_and_not_on_the_terminal(tmp_path):
    """By prints, warnings and child processes; what is printed afterwards is on standard output again."""
    code = """if True:
        import subprocess, sys, warnings
        from pathlib import Path
        from flows.progress import shown
        try:
            with shown(Path(sys.argv[1]), "train", ["train"]):
                print("printed")
                warnings.warn("warned")
                subprocess.run([sys.executable, "-c", "print('by a child')"], check=True)
                raise LookupError("the reason")
        except LookupError as error:
            print(error)
    """
    command = [sys.executable, "-c", code, str(tmp_path / "logs")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (log,) = (tmp_path / "logs").iterdir()
    assert done.stdout == "the reason\n"
    assert done.stderr == f"log: {log}\n"
    written = log.read_text()
    assert all(word in written for word in ("printed", "warned", "by a child"))
