"""The one folder that holds all state: pool, runs, bundles, converted models, the decision log."""

import os
from pathlib import Path

HOME = "OPTSCALE_HOME"
"""Environment variable with its path."""


def state_home() -> Path:
    """``$OPTSCALE_HOME``, else ``.optscale`` here."""
    return Path(os.environ.get(HOME, ".optscale")).resolve()
