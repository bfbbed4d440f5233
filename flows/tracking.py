"""The one door to MLflow: runs, the registered predictor, and its aliases."""

import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from requests.exceptions import RequestException
from sqlalchemy.exc import SQLAlchemyError

from data.errors import GateError, TrackingError
from data.scores import ScoreTable
from flows.config import ROOT, Config
from flows.relocate import artifact_root, require_in_place
from predictor.learned.card import CARD

CHALLENGER, CHAMPION = "challenger", "champion"
VALIDATED, VALIDATION_RUN, CHAMPION_THEN = "validated", "validation_run", "champion_then"
"""Tags of a version whose last validation passed the gate: the pool's digest, the run, and the version that
was champion when it began (empty for none)."""
BUNDLE = "bundle"
"""Tag of a version that was shipped: its bento."""
ABSENT = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
REQUIREMENTS = ("numpy", "peft", "pydantic", "safetensors", "scikit-learn", "scipy", "torch", "transformers")


class Tracking:
    """MLflow as one config sets it up."""

    def __init__(self, config: Config) -> None:
        require_in_place(config)
        self.config = config
        self.model = config.tracking.model
        self.release = mlflow.__version__
        """What to call the two sides in an error."""
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(int(config.tracking.timeout) or 1)
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "2"
        os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"  # redrawn for each file
        warnings.filterwarnings("ignore", "The specified dataset source", UserWarning)
        self._require_same_major()
        with self._answering(OSError):
            mlflow.set_tracking_uri(config.tracking_uri)
            mlflow.set_registry_uri(config.tracking_uri)
            self.client = mlflow.MlflowClient()
            name = config.tracking.experiment
            if self.client.get_experiment_by_name(name) is None:
                local = config.tracking_uri.startswith("sqlite:")
                artifacts = artifact_root(config) if local else None
                self.client.create_experiment(name, artifact_location=artifacts)
            mlflow.set_experiment(name)

    @contextmanager
    def run(self, name: str, table: ScoreTable | None = None, digest: str = "", **tags: str) -> Iterator[str]:
        """A run with the config as parameters and the pool as its dataset; yields the run's id."""
        with self._answering(), mlflow.start_run(run_name=name, tags=tags) as run:
            settings = self.config.model_dump(mode="json")
            (flat,) = pd.json_normalize(settings).to_dict("records")
            mlflow.log_params({str(key): str(value)[:500] for key, value in flat.items()})
            mlflow.log_dict(settings, "config.json")
            if table is not None:
                folds = pd.DataFrame({"question": [q.id for q in table.questions], "fold": table.folds})
                source = self.config.pool_location
                mlflow.log_input(mlflow.data.from_pandas(folds, source=source, name="pool", digest=digest))
            yield run.info.run_id

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics to the active run."""
        mlflow.log_metrics({k: float(v) for k, v in values.items()}, step=step)

    def table(self, rows: list[dict[str, Any]], name: str) -> None:
        """Log a table (JSON) to the active run."""
        with self._answering(OSError):  # an artifact store that cannot be written
            mlflow.log_table(pd.DataFrame(rows), name)

    def file(self, path: Path) -> None:
        """Log a file to the active run."""
        with self._answering(OSError):
            mlflow.log_artifact(str(path))

    def read(self, run_id: str, name: str) -> str:
        """Text of a file that a run logged."""
        with self._answering():
            return str(mlflow.artifacts.load_text(f"runs:/{run_id}/{name}"))

    def register(self, predictor: Path) -> str:
        """Log the predictor directory as a pyfunc model and register it; returns the new version."""
        with self._answering(OSError):
            logged = mlflow.pyfunc.log_model(
                name="predictor",
                python_model=str(ROOT / "flows" / "pyfunc_model.py"),
                artifacts={"predictor": str(predictor)},
                code_paths=[str(ROOT / "predictor"), str(ROOT / "models")],
                pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
                registered_model_name=self.model,
            )
            return str(logged.registered_model_version)

    def version_of(self, alias: str) -> str:
        """The version that an alias names.

        Raises
        ------
        TrackingError
            If there is none.
        """
        found = self.find(alias)
        if found is None:
            hint = "train first" if alias == CHALLENGER else "validate a challenger first"
            raise TrackingError(f"no model {self.model}@{alias} in {self.where}: {hint}")
        return found

    def find(self, alias: str) -> str | None:
        """The version that an alias names, or None."""
        found = self._or_none(self.client.get_model_version_by_alias, alias)
        return found and str(found.version)

    def run_of(self, number: str) -> str | None:
        """The run that registered a version, or None where there is no such version."""
        found = self._or_none(self.client.get_model_version, number)
        return found and str(found.run_id)

    def _or_none(self, get: Callable[[str, str], Any], name: str) -> Any:
        """What MLflow has under a name of the model, or None."""
        with self._answering():
            try:
                return get(self.model, name)
            except MlflowException as error:
                if error.error_code in ABSENT:
                    return None
                raise

    def set_alias(self, alias: str, version: str) -> None:
        """Let an alias name a version."""
        with self._answering():
            self.client.set_registered_model_alias(self.model, alias, version)

    def tag(self, number: str, **tags: str) -> None:
        """Tag a version, in the order given."""
        with self._answering():
            for key, value in tags.items():
                self.client.set_model_version_tag(self.model, number, key, value)

    def untag(self, number: str, *names: str) -> None:
        """Remove tags of a version, those that it has."""
        with self._answering():
            for name in names:
                self.client.delete_model_version_tag(self.model, number, name)

    def tags(self, number: str) -> dict[str, str]:
        """Tags of a version."""
        with self._answering():
            return dict(self.client.get_model_version(self.model, number).tags)

    def holds(self, number: str) -> bool:
        """Whether the files of a version's predictor are there."""
        with self._answering():
            found = mlflow.artifacts.list_artifacts(f"models:/{self.model}/{number}/artifacts/predictor")
        return any(Path(file.path).name == CARD for file in found)

    def download(self, number: str, target: Path) -> Path:
        """Copy a version's predictor directory below ``target``.

        Raises
        ------
        TrackingError
            If its files are not there.
        """
        if not self.holds(number):
            raise TrackingError(
                f"the files of version {number} of {self.model} are gone from the artifact store of "
                f"{self.where}: put them back, or train again"
            )
        with self._answering():
            local = mlflow.artifacts.download_artifacts(
                f"models:/{self.model}/{number}", dst_path=str(target)
            )
        return Path(local) / "artifacts" / "predictor"

    @property
    def where(self) -> str:
        """The tracking URI as the user wrote it: without what ``${NAME}`` stands for."""
        return self.config.tracking.uri or self.config.tracking_uri

    def _require_same_major(self) -> None:
        """Ask a server for its release before anything is computed for it."""
        if not self.config.tracking_uri.startswith(("http://", "https://")):
            return
        login = tuple(os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in ("USERNAME", "PASSWORD"))
        url = f"{self.config.tracking_uri.rstrip('/')}/version"
        try:
            answer = httpx.get(
                url, auth=(login[0], login[1]) if any(login) else None, timeout=self.config.tracking.timeout
            )
        except httpx.HTTPError:
            return  # the first call says what is wrong
        found = re.fullmatch(r"(\d+)\.\d+[\w.]*", answer.text.strip())
        if answer.status_code == 200 and found:  # other services that speak MLflow's protocol do not tell
            self.release = f"{mlflow.__version__}, the server is {found[0]}"
            if found[1] != mlflow.__version__.partition(".")[0]:
                raise TrackingError(
                    f"MLflow at {self.where} is release {found[0]} and this side is {mlflow.__version__}: "
                    "they do not understand each other; run the server with this side's major release"
                )

    @contextmanager
    def _answering(self, *more: type[Exception]) -> Iterator[None]:
        """MLflow's errors, and ``more``, are one of ours."""
        try:
            yield
        except (MlflowException, SQLAlchemyError, RequestException, ImportError, *more) as error:
            said = (str(error).splitlines() or [type(error).__name__])[0][:400]
            if "database schema" in said:
                hint = (
                    "If the database is the newer side, install the MLflow that made it; if it is the older, "
                    "back it up and run: mlflow db upgrade"
                )
            elif isinstance(error, ImportError):
                hint = "Install the driver that this tracking.uri or its artifact store needs"
            else:
                hint = "If it is a server, see that it runs and that tracking.uri is right"
            raise TrackingError(
                f"MLflow at {self.where} failed: {said} (this side is MLflow {self.release}). {hint}"
            ) from error


def check_gate(metrics: dict[str, float], floors: dict[str, float]) -> None:
    """Compare metrics with the least that each must be.

    Raises
    ------
    GateError
        Naming each metric that missed its threshold.
    """
    missed = [
        f"{name} is {metrics[name]:.4f}, must be at least {floor:g}"
        for name, floor in floors.items()
        if not metrics[name] >= floor  # nor is what is not a number
    ]
    if missed:
        raise GateError("the challenger was not promoted: " + "; ".join(missed))


def temporary_folder(config: Config) -> tempfile.TemporaryDirectory[str]:
    """A temporary directory in the state folder, so that large files stay on its disk."""
    home = config.home.resolve() / "tmp"
    home.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=home)
