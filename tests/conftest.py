"""A state folder of the tests' own; converted models are kept between runs, all else is fresh."""

import gc
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parent.parent
settings.register_profile("shared machine", deadline=None)  # its speed says nothing
settings.load_profile("shared machine")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TQDM_DISABLE", "1")
# BentoML gathers metrics across processes; the client library looks at this when first imported.
os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp()
for name in [n for n in os.environ if n.startswith("OPTSCALE_")]:
    del os.environ[name]
os.environ["OPTSCALE_DTYPE"] = "float32"  # the same arithmetic on every processor
gc.disable()  # until all is imported


def pytest_collection_finish():
    """What is imported stays, and the collector need not look through it again and again."""
    gc.freeze()
    gc.enable()


def pytest_ignore_collect(collection_path, config):
    """Modules that are left out as a whole are not even imported."""
    marks = {
        "not slow": "\npytestmark = ",
        "not suite": "\npytestmark = [pytest.mark.slow, pytest.mark.suite]",
    }
    mark = marks.get(config.option.markexpr)
    return (mark and collection_path.suffix == ".py" and mark in collection_path.read_text("utf-8")) or None


def pytest_itemcollected(item):
    """What is of the suites is slow."""
    if item.get_closest_marker("suite"):
        item.add_marker("slow")


# Files of one lane run in one process, one after the other: they share a server. (xdist has its own groups,
# which version 3.8 does not see with pytest 9.2.)
LANES = {
    **dict.fromkeys(
        (
            *("flows/test_faults", "flows/test_loop", "flows/test_monitor", "flows/test_registry"),
            "flows/test_schedule",
        ),
        "flows",
    ),
    **dict.fromkeys(("serving/test_faults", "serving/test_gateway"), "served"),
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class Lanes(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition(".py::")[0].removeprefix("tests/")
            return LANES.get(file, file)

    return Lanes(config, log)


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory):
    from flows.config import Config, enter_home

    folder = tmp_path_factory.mktemp("home")
    kept = ROOT / ".optscale" / "backbones"
    kept.mkdir(parents=True, exist_ok=True)
    (folder / "backbones").symlink_to(kept)
    for name in ("PREFECT_HOME", "BENTOML_HOME", "PREFECT_API_URL"):
        os.environ.pop(name, None)
    os.environ["OPTSCALE_HOME"] = str(folder)
    enter_home(Config(home=folder))
    for name in [n for n in os.environ if n.startswith("PREFECT_API_")]:  # of the user's own profile
        del os.environ[name]
    return folder


@pytest.fixture(scope="session")
def trunk(tmp_path_factory):
    """Folder of a backbone for predictors, of a few numbers: wherever a test is not about the real one."""
    from tests.models.tiny import save_trunk

    return save_trunk(tmp_path_factory.mktemp("trunk"))


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """Folder of a tokenizer that reward models over HTTP are read with; it is opened once for all of them."""
    from functools import cache

    from models.reward import http
    from tests.models.tiny import save_qwen_tokenizer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http, "open_tokenizer", cache(http.open_tokenizer))
        yield str(save_qwen_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture
def contract():
    from tests.helpers import make_contract

    return make_contract()
