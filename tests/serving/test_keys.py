"""Keys with limits: read from a file, held to what they may spend, counted across workers and restarts."""

import hashlib

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from data.errors import ConfigError
from serving import keys, metrics
from serving.auth import read_keys
from serving.keys import CALLER, ApiKey, Spend, over
from tests.serving.conftest import with_middlewares


def digest(key):
    return hashlib.sha256(key.encode()).hexdigest()


def make_key(name="team", **limits):
    return ApiKey(name=name, sha256=digest(name), **limits)


@pytest.fixture
def now(monkeypatch):
    """The time of day, which tests move."""
    clock = [86_400.0 * 20_000 + 3000]
    monkeypatch.setattr(keys.time, "time", lambda: clock[0])
    return clock


def test_a_file_has_digests_and_limits(monkeypatch, tmp_path):
    file = tmp_path / "keys.yaml"
    file.write_text(
        "# who may ask\nkeys:\n"
        f"  - {{name: team, sha256: {digest('one')}, tokens_per_day: 1000, models: [m]}}\n"
        f"  - {{name: guests, sha256: {digest('two')}, candidates: 4, feedback: false}}\n"
    )
    monkeypatch.setenv("OPTSCALE_API_KEYS_FILE", str(file))
    monkeypatch.setenv("OPTSCALE_API_KEYS", "three")
    team, guests, plain = read_keys()
    assert (team.name, team.tokens_per_day, team.models, team.limits) == (
        "team",
        1000,
        ("m",),
        [("tokens", "day", 1000)],
    )
    assert (guests.candidates, guests.feedback, guests.limits) == (4, False, [])
    assert (plain.sha256, plain.name) == (digest("three"), digest("three")[:8])
    for wrong, told in (
        ("keys: [{name: a, sha256: abc}]", "sha256"),
        ("keys: [{name: a, requests_per_hour: 5}]", "requests_per_hour is unknown"),
        (
            f"keys: [{{name: a, sha256: {'a' * 64}}}, {{name: a, sha256: {'b' * 64}}}]",
            "two keys have the same",
        ),
        ("keys: [", "while parsing"),
    ):
        file.write_text(wrong)
        with pytest.raises(ConfigError, match=told):
            read_keys()


def test_workers_share_counts_and_a_restart_keeps_them(tmp_path, now):
    key = make_key(requests_per_minute=3, tokens_per_day=100)
    one, other = Spend(tmp_path / "home" / "spent.db"), Spend(tmp_path / "home" / "spent.db")
    assert over(one.add(key, 1, 0)) is None
    assert over(other.add(key, 1, 60)) is None
    assert [left.left for left in Spend(tmp_path / "home" / "spent.db").add(key, 1, 0)] == [0, 40]
    refused = over(one.add(key, 1, 0))
    assert (refused.what, refused.window, refused.limit, refused.seconds) == ("requests", "minute", 3, 60)
    now[0] += 60
    assert [left.left for left in one.add(key, 1, 0)] == [2, 40]  # a refused one was not counted
    assert [left.left for left in one.add(key, 0, 40)] == [2, 0]
    assert over(other.add(key, 1, 0)).what == "tokens"
    assert over(one.add(make_key("another", requests_per_minute=3, tokens_per_day=9), 1, 0)) is None
    now[0] += 86_400
    assert over(one.add(key, 1, 0)) is None


def test_a_place_for_counts_must_be_named_and_writable(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be kept"):
        Spend(tmp_path / "file" / "spent.db")
    monkeypatch.delenv("OPTSCALE_HOME")
    with pytest.raises(ConfigError, match=r"\$OPTSCALE_HOME"):
        with_middlewares(Starlette(), keys=[make_key(requests_per_day=1)])
    with_middlewares(Starlette(), keys=[make_key()])


@pytest.fixture
def client(tmp_path, monkeypatch, now):
    """A client of a route that generates seven tokens, behind the service's middlewares."""
    monkeypatch.setenv("OPTSCALE_HOME", str(tmp_path))

    async def generate(request):
        CALLER.get().tokens += 7
        return JSONResponse({})

    def make(**limits):
        paths = ("/v1/chat/completions", "/v1/models", "/v1/feedback", "/decide")
        app = Starlette(routes=[Route(path, generate, methods=["GET", "POST"]) for path in paths])
        app = with_middlewares(app, keys=[make_key(**limits), make_key("other")])
        return TestClient(app, headers={"authorization": "Bearer team"})

    return make


def test_requests_over_a_limit_are_refused_until_the_window_ends(client, now):
    asked = client(requests_per_minute=2, requests_per_day=100)
    first, second, third = (asked.post("/v1/chat/completions") for _ in range(3))
    assert (first.headers["x-ratelimit-limit-requests"], first.headers["x-ratelimit-remaining-requests"]) == (
        "2",
        "1",
    )
    assert second.headers["x-ratelimit-remaining-requests"] == "0"
    assert (third.status_code, third.headers["retry-after"]) == (429, "60")
    assert third.json()["error"]["type"] == "rate_limit_error"
    assert third.json()["error"]["message"] == "this key has spent its 2 requests of this minute"
    for method, path in (("GET", "/v1/models"), ("POST", "/decide"), ("POST", "/v1/feedback")):
        assert asked.request(method, path).status_code == 200
    assert asked.post("/v1/chat/completions", headers={"authorization": "Bearer other"}).status_code == 200
    now[0] += 60
    assert asked.post("/v1/chat/completions").status_code == 200


def test_tokens_are_charged_when_they_are_known_and_seen_in_metrics(client):
    spent = metrics.KEY_TOKENS.labels("team")._value
    asked, before = client(tokens_per_day=10), spent.get()
    left = [asked.post("/v1/chat/completions").headers["x-ratelimit-remaining-tokens"] for _ in range(2)]
    assert left == ["3", "0"]
    assert asked.post("/v1/chat/completions").status_code == 429
    assert spent.get() - before == 14


def test_a_key_without_limits_is_not_counted_in_the_file(client, tmp_path):
    answer = client().post("/v1/chat/completions")
    assert not any(name.startswith("x-ratelimit") for name in answer.headers)
    assert not (tmp_path / "spent.db").exists()


def test_feedback_is_for_those_who_may(client):
    assert client().post("/v1/feedback").status_code == 200
    assert client(feedback=False).post("/v1/feedback").status_code == 403
