"""The gateway follows the champion: another takes its place between two requests, or the old one goes on."""

import shutil
import threading
import time
from datetime import UTC, datetime

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.testclient import TestClient

from flows.champion import note_trained
from flows.config import Config
from predictor.policies import FixedN
from serving.alarms import FILE, Alarm, Alarms
from serving.backend import Backend
from serving.bundle import Bundle, write_card
from serving.champion import Champion, beside, change, change_record
from serving.follow import Stage, Wanted
from serving.metrics import TRAINED_AT
from serving.routes import app
from tests.serving.conftest import gateway_settings, make_card, serve, with_middlewares
from tests.serving.test_routes import BODY, CERTIFICATE, Population

pytestmark = pytest.mark.slow


def make_bundle(folder, bundle, version, draws):
    """A bundle beside another's predictor, with a version and a policy of its own."""
    folder.mkdir()
    (folder / "predictor.json").write_bytes((bundle / "predictor.json").read_bytes())
    card = make_card(policy=FixedN(target=0.9, cap=draws)).model_copy(update={"model_version": version})
    write_card(folder, card)
    return folder


@pytest.fixture
def stage(bundle, upstream, tokenizer, tmp_path):
    """A client, and a function that lets the manifest name a bundle and waits until it was looked at."""
    first = make_bundle(tmp_path / "1", bundle, "1", draws=3)
    location = str(tmp_path / "champion.json")
    settings = gateway_settings(upstream.url("slow"), upstream.url("plain"), tokenizer)

    def make(wanted):
        opened = Bundle.open(wanted.bundle)
        return Backend(opened.at_full_cap() if wanted.full_cap else opened, settings, Population())

    now = Wanted(str(first), False)
    app.state.backend = make(now)
    app.state.stage = Stage(app.state, location, make, now)

    with TestClient(with_middlewares(app)) as client:

        def name(folder, **more):
            values = {"contract": "c", "promise": None, "since": datetime.now(UTC)}
            new = Champion(version=folder.name, tag=folder.name, bundle=str(folder), **values)
            change(location, lambda old: old.name(new).model_copy(update=more))
            client.portal.call(app.state.stage.look)

        yield client, name
    del app.state.stage


def asked(client):
    found = client.post("/v1/chat/completions", json=BODY).json()["optscale"]
    return found["model_version"], found["drawn"]


def test_another_champion_takes_its_place_and_drains_the_old(stage, bundle, tmp_path):
    client, name = stage
    assert asked(client) == ("1", 3)
    old, found = app.state.backend, []
    waiting = threading.Thread(target=lambda: found.append(asked(client)))
    waiting.start()
    while not old.gateway.in_flight:
        time.sleep(0.01)
    name(make_bundle(tmp_path / "2", bundle, "2", draws=5))
    assert asked(client) == ("2", 5)
    assert client.post("/describe").json()["model_version"] == "2"
    waiting.join()
    assert found == [("1", 3)]  # it was answered by the one that it had met


def test_one_that_cannot_be_read_leaves_the_old_one(stage, bundle, tmp_path):
    client, name = stage
    broken = make_bundle(tmp_path / "2", bundle, "2", draws=5)
    (broken / "bundle.json").write_text("{}")
    with pytest.raises(Exception, match="is not a bundle's card"):
        name(broken)
    assert asked(client) == ("1", 3)


def test_one_whose_servers_are_away_leaves_the_old_one(stage, bundle, tmp_path, monkeypatch):
    client, name = stage

    async def away(self):
        return ["generator: gone"]

    new = make_bundle(tmp_path / "2", bundle, "2", draws=5)
    monkeypatch.setattr("serving.gateway.Gateway.away", away)
    with pytest.raises(Exception, match="is not ready"):
        name(new)
    monkeypatch.undo()
    assert asked(client) == ("1", 3)
    name(new)
    assert asked(client) == ("2", 5)


def test_the_full_cap_is_a_switch(stage, bundle, tmp_path):
    client, name = stage
    new = make_bundle(tmp_path / "2", bundle, "2", draws=5)
    name(new, full_cap=True)
    told = client.post("/describe").json()
    assert told["says"] == "nothing is certified: the reference, all 5 candidates by best score, is drawn"
    name(new, full_cap=False)
    assert asked(client) == ("2", 5)


def test_metrics_tell_of_alarms(stage, tmp_path):
    """Those of the champion that is served, and when and how often its questions were certified on."""
    client, _ = stage
    made, alarm = datetime(2026, 1, 1, tzinfo=UTC), {"lately": 0.3, "low": 0.4, "high": None, "seen": 9}
    card = app.state.backend.card
    certificate = CERTIFICATE.model_copy(update={"made": made, "uses": 2})
    app.state.backend.card = card.model_copy(update={"certificate": certificate})

    def metrics(version):
        found = Alarms(
            version=version,
            looked=made,
            statistics=("hits", "lost"),
            standing=(Alarm(statistic="hits", since=made, **alarm),),
        )
        change_record(beside(app.state.stage.location, FILE), Alarms, "alarms", lambda _: found)
        note_trained(
            Config.model_validate({"home": tmp_path, "serve": {"champion": app.state.stage.location}})
        )
        client.portal.call(app.state.stage.show_alarms)
        names = ("optscale_alarm", "optscale_monitor", "optscale_certificate")
        lines = generate_latest(MultiProcessCollector(CollectorRegistry())).decode().splitlines()
        return {
            line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith(names)
        }

    assert metrics("1") == {
        'optscale_alarm{statistic="hits"}': 1,
        'optscale_alarm{statistic="lost"}': 0,
        "optscale_monitor_timestamp_seconds": made.timestamp(),
        "optscale_certificate_timestamp_seconds": made.timestamp(),
        "optscale_certificate_uses": 2,
    }
    assert TRAINED_AT._value.get() > made.timestamp()  # since just now
    assert metrics("another")['optscale_alarm{statistic="hits"}'] == 0


@pytest.mark.suite
def test_the_service_follows_with_its_predictor(bundle, upstream, tokenizer, tmp_path):
    """In their own processes: the predictor's loads the other bundle's while it answers for the first."""
    location, second = tmp_path / "champion.json", tmp_path / "2"
    shutil.copytree(bundle, second)
    write_card(second, make_card(policy=FixedN(target=0.9, cap=5)).model_copy(update={"model_version": "2"}))
    settings = gateway_settings(upstream.url("plain"), upstream.url("plain"), tokenizer)
    with serve(bundle, settings, tmp_path, OPTSCALE_CHAMPION=str(location)) as (url, _):

        def version():
            return httpx.post(f"{url}/v1/chat/completions", json=BODY).json()["optscale"]["model_version"]

        assert version() == "1"
        values = {"contract": "c", "promise": None, "since": datetime.now(UTC)}
        new = Champion(version="2", tag="2", bundle=str(second), **values)
        change(str(location), lambda old: old.name(new))
        while version() != "2":
            time.sleep(0.2)
        predicted = httpx.post(f"{url}/predict", json={"questions": [{"question": "Compute 2 + 2."}]})
        assert predicted.status_code == 200, predicted.text
