"""MLflow servers and databases of another release, and secrets that no record may hold."""

import json
import sqlite3
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import mlflow
import pytest

from data.errors import ConfigError, TrackingError
from flows.config import Config, load_config
from flows.tracking import Tracking
from models.settings import HttpGeneratorSettings
from tests.servers import free_port, running

pytestmark = pytest.mark.slow


@pytest.fixture
def another_release():
    """A server that only says that it is MLflow 2.9.2; a whole one of that age takes minutes to install."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            told = b"2.9.2" if self.path == "/version" else b"{}"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(told)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_server_of_another_major_release_is_refused_before_the_fit(tmp_path, another_release):
    config = Config.model_validate({"home": tmp_path, "tracking": {"uri": another_release}})
    with pytest.raises(TrackingError, match=f"is release 2.9.2 and this side is {mlflow.__version__}"):
        Tracking(config)


def test_a_database_of_another_release_says_what_to_do(tmp_path):
    config = Config(home=tmp_path)
    Tracking(config)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    (tmp_path / "mlflow.db").rename(tmp_path / "other.db")  # MLflow remembers what it has looked at
    other = Config.model_validate({"home": tmp_path, "tracking": {"uri": f"sqlite:///{tmp_path}/other.db"}})
    told = rf"451aebb31d03.*this side is MLflow {mlflow.__version__}.*mlflow db upgrade"
    with pytest.raises(TrackingError, match=told):
        Tracking(other)


def test_a_driver_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PASSWORD_OF_DB", "s3cret")
    uri = "mysql://me:${PASSWORD_OF_DB}@127.0.0.1:9/db"
    config = Config.model_validate({"home": tmp_path, "tracking": {"uri": uri}})
    with pytest.raises(TrackingError, match="Install the driver") as raised:
        Tracking(config)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://me:s3cret@host/db",
        "https://me:s3cret@host",
        "https://s3cret@host",
        "postgresql://me@host/db?password=s3cret",
        "postgresql://me:s3cret${NAME}@host/db",
    ],
)
def test_a_secret_is_no_setting(uri):
    for key in ("tracking.uri", "pool"):
        with pytest.raises(ConfigError, match=f"{key}: .*holds a secret") as raised:
            load_config(None, (f"{key}={uri}",))
        assert "s3cret" not in str(raised.value)
    for body in (
        {"base_url": "https://me:s3cret@host/v1"},
        {"base_url": "https://h", "extra_body": {"api_key": 1}},
    ):
        with pytest.raises(ValueError, match="secret"):
            HttpGeneratorSettings(model="m", **body)


def test_a_secret_of_the_environment_is_in_no_record(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_DATABASE", "s3cret")
    uri = f"sqlite:///{tmp_path}/${{MY_DATABASE}}.db"
    config = Config.model_validate({"home": tmp_path, "tracking": {"uri": uri}})
    tracking = Tracking(config)
    with tracking.run("r") as run:
        pass
    assert (tmp_path / "s3cret.db").exists()
    assert json.loads(tracking.read(run, "config.json"))["tracking"]["uri"] == uri
    assert "s3cret" not in str(tracking.client.get_run(run).data.params)
    monkeypatch.delenv("MY_DATABASE")
    with pytest.raises(ConfigError, match=r"\$\{MY_DATABASE\}, an environment variable that is not set"):
        Tracking(config)


@pytest.mark.suite
def test_a_server_behind_a_prefix_takes_runs_and_artifacts(tmp_path):
    uri = f"http://127.0.0.1:{(port := free_port())}/team"
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--static-prefix", "/team"]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{tmp_path / 'm.db'}"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    with running(command, f"{uri}/health", tmp_path / "log"):
        tracking = Tracking(Config.model_validate({"home": tmp_path, "tracking": {"uri": uri}}))
        (tmp_path / "page.txt").write_text("read me")
        with tracking.run("train") as number:
            tracking.file(tmp_path / "page.txt")
        assert tracking.read(number, "page.txt") == "read me"
        assert "the server is" in tracking.release
