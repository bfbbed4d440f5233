"""A state folder of the tests' own; converted models are kept between runs, all else is fresh."""

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
    return folder


@pytest.fixture
def contract():
    from tests.helpers import make_contract

    return make_contract()
