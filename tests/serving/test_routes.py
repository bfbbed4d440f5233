"""What is let in: keys, sizes, how many at once; and that nothing is answered without a key."""

import asyncio
import threading
import time
from contextlib import ExitStack

import httpx
import pytest
import uvicorn
from starlette.testclient import TestClient

from data.answers import answer_key, extract_answer
from data.contract import Sampling, ScoreContract
from data.decision_log import read_log
from data.errors import ConfigError, ContractError
from data.feedback import read_feedback
from data.folds import FoldSettings
from data.log_import import import_log
from data.pool import Pool
from data.question import Question
from data.score_map import ScoreMap
from data.scores import load_scores
from data.shapes import Shapes
from predictor.policies import FixedN
from predictor.prior import Prior
from predictor.selection import Selection
from predictor.vote_policies import Agreement
from serving import metrics
from serving.auth import read_keys
from serving.backend import Backend
from serving.bundle import Bundle
from serving.routes import app
from serving.settings import GatewaySettings, LogSettings, override
from tests.helpers import make_certificate
from tests.serving.conftest import CONTRACT, POLICY, gateway_settings, make_card, with_middlewares
from tests.serving.fuzz import fuzz
from tests.serving.test_keys import make_key
from tests.serving.upstream import answer_of

pytestmark = pytest.mark.slow
BODY = {"model": "m", "messages": [{"role": "user", "content": "Compute 1 + 1."}]}
CERTIFICATE = make_certificate(POLICY, {"lost_hit": 0.05}, contract=CONTRACT.fingerprint)
ROUTES = [
    ("POST", "/v1/chat/completions"),
    ("GET", "/v1/models"),
    ("POST", "/predict"),
    ("POST", "/decide"),
    ("POST", "/describe"),
    ("GET", "/health"),
    ("GET", "/docs.json"),
    ("GET", "/nothing"),
]


class Population:
    """A predictor that knows the population only."""

    async def priors(self, questions):
        return [Prior.centred(0.7, 0.15) for _ in questions]

    async def ready(self):
        return True

    async def prepare(self):
        pass


@pytest.fixture
def make_app(bundle, upstream, tokenizer):
    """The routes with other gateway settings, in this process."""

    def make(
        keys=(), body_bytes=100_000, way="plain", reward_way="plain", predictor=None, policy=POLICY, **changes
    ):
        certified = CERTIFICATE.model_copy(update={"policy": policy, "cap": policy.cap})
        certificate = changes.pop("certificate", certified)
        settings = gateway_settings(upstream.url(way), upstream.url(reward_way), tokenizer, **changes)
        card = make_card(policy=policy).model_copy(update={"certificate": certificate})
        app.state.stage = None  # of a service that another module started
        app.state.backend = Backend(Bundle(path=bundle, card=card), settings, predictor or Population())
        return with_middlewares(app, keys=keys, body_bytes=body_bytes)

    return make


@pytest.fixture
def make_client(make_app):
    """A client of them."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(TestClient(make_app(**options)))


def test_without_a_key_nothing_is_answered(make_client, monkeypatch, tmp_path):
    (tmp_path / "keys").write_text("from-file\n\n")
    monkeypatch.setenv("OPTSCALE_API_KEYS", "one, two")
    monkeypatch.setenv("OPTSCALE_API_KEYS_FILE", str(tmp_path / "keys"))
    client = make_client(keys=read_keys())
    for method, route in ROUTES:
        for headers in ({}, {"authorization": "Bearer three"}, {"authorization": "Basic one"}):
            answer = client.request(method, route, json=BODY, headers=headers)
            assert answer.status_code == 401, route
            assert answer.json()["error"]["type"] == "authentication_error"
    for key in ("one", "two", "from-file"):
        assert client.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code == 200


def test_a_key_asks_its_models_and_draws_its_candidates(make_app, bundle, upstream, tokenizer):
    told = "another promise"
    app_ = make_app(keys=[make_key("few", candidates=2), make_key("other", models=("m2",))])
    backend = app.state.backend
    settings = gateway_settings(upstream.url("plain"), upstream.url("plain"), tokenizer)
    with pytest.raises(ConfigError, match="two bundles answer as m"):
        backend.serve_too(Bundle(path=bundle, card=make_card()), settings, Population())
    with pytest.raises(ConfigError, match="has no gateway settings"):
        backend.serve_too(Bundle(path=bundle, card=make_card()), None, Population())
    generator = settings.generator.model_copy(update={"model": "m2"})
    contract = ScoreContract.model_validate(CONTRACT.model_dump() | {"generator": "m2"})
    policy = FixedN(target=0.5, cap=5)
    certified = {"contract": contract.fingerprint, "policy": policy, "statement": told}
    certificate = CERTIFICATE.model_copy(update=certified)
    card = make_card(policy=policy).model_copy(update={"contract": contract, "certificate": certificate})
    other = settings.model_copy(update={"generator": generator})
    backend.serve_too(Bundle(path=bundle, card=card), other, Population())

    def ask(key, **fields):
        headers = {"authorization": f"Bearer {key}"}
        return client.post("/v1/chat/completions", json=BODY | fields, headers=headers)

    with TestClient(app_) as client:
        few, of_other = ask("few").json()["optscale"], ask("other", model="m2").json()["optscale"]
        assert (few["cap"], few["promise"], few["contract"]) == (2, None, CONTRACT.fingerprint)
        assert (of_other["drawn"], of_other["promise"], of_other["contract"]) == (
            5,
            told,
            contract.fingerprint,
        )
        missing = ask("other")
        assert (missing.status_code, missing.json()["error"]["param"]) == (404, "model")
        for key, models in (("few", ["m", "m2"]), ("other", ["m2"])):
            listed = client.get("/v1/models", headers={"authorization": f"Bearer {key}"}).json()["data"]
            assert [model["id"] for model in listed] == models
        said = client.post("/describe", headers={"authorization": "Bearer few"}).json()["models"]
        assert said == {"m": CERTIFICATE.statement, "m2": told}


def test_what_the_generator_answers_alone_is_charged_too(make_app, upstream):
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    spent = metrics.KEY_TOKENS.labels("team")._value
    with TestClient(make_app(keys=[make_key(models=("m",))])) as client:

        def charged(route, **fields):
            before = spent.get()
            answer = client.post(f"/v1/{route}", json=fields, headers={"authorization": "Bearer team"})
            return answer.status_code, spent.get() - before

        assert charged("chat/completions", **BODY, tools=[tool]) == (200, 4)
        counted = {"stream": True, "stream_options": {"include_usage": True}}
        assert charged("chat/completions", **BODY, tools=[tool], **counted) == (200, 4)
        assert charged("chat/completions", **BODY, tools=[tool], stream=True) == (200, 4)  # its events
        assert charged("responses", model="m", input="hm", stream=True) == (200, 4)
        assert charged("embeddings", model="another", input="hm") == (404, 0)


@pytest.mark.parametrize("way", ["empty", "refused"])
def test_no_answer_is_delivered_as_one(make_client, way):
    answer = make_client(way=way).post("/v1/chat/completions", json=BODY)
    assert answer.status_code == 502
    cause = {"empty": "an empty answer", "refused": "the model refused: I cannot."}[way]
    assert f"the generator gave no candidate: {cause}" in answer.json()["error"]["message"]


def test_of_good_and_empty_answers_a_good_one_without_a_promise(make_client):
    policy = FixedN(target=0.9, cap=4)
    client = make_client(way="every other", policy=policy)
    found = client.post("/v1/chat/completions", json=BODY | {"seed": 2}).json()
    assert found["choices"][0]["message"]["content"].strip()
    explanation = found["optscale"]
    assert [score is None for score in explanation["scores"]] == [True, False, True, False]
    (why,) = explanation["degraded"]
    assert why == "the generator failed on some candidates: an empty answer (finish_reason stop)"
    assert explanation["promise"] is None
    assert "optscale_degraded_total" in metrics.DEGRADED.collect()[0].samples[0].name
    labels = {sample.labels["why"] for sample in metrics.DEGRADED.collect()[0].samples}
    assert not any(":" in label for label in labels)


def test_a_shape_that_calibration_questions_did_not_have_carries_no_promise(make_client):
    shapes = Shapes.of([Question.ask(f"Compute {n} + 1.") for n in range(50)])
    client = make_client(certificate=CERTIFICATE.model_copy(update={"shapes": shapes}))

    def promise(*turns):
        messages = [{"role": role, "content": text} for role, text in turns]
        found = client.post("/v1/chat/completions", json=BODY | {"messages": messages}).json()["optscale"]
        assert (found["promise"] is None) == any("calibration questions" in note for note in found["notes"])
        return found["promise"]

    assert promise(("user", "Compute 1 + 1.")) == CERTIFICATE.statement
    assert promise(("system", "Be brief."), ("user", "Compute 1 + 1.")) is None
    assert promise(("user", "Compute 1 + 1."), ("assistant", "It is")) is None
    assert promise(("user", "Calcula 1 + 1.")) is None


def test_keys_that_are_none_are_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("OPTSCALE_API_KEYS", " , ")
    with pytest.raises(ConfigError, match="holds no key"):
        read_keys()
    monkeypatch.setenv("OPTSCALE_API_KEYS_FILE", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="nowhere"):
        read_keys()


def test_no_key_and_no_question_is_in_the_log(make_client, caplog):
    with caplog.at_level("INFO", logger="optscale"):
        client = make_client(keys=[])
        client.post("/v1/chat/completions", json=BODY, headers={"authorization": "Bearer s3cret"})
    assert "s3cret" not in caplog.text
    assert "Compute 1 + 1." not in caplog.text


def test_a_body_that_is_too_long_is_refused(make_client):
    client = make_client(body_bytes=1000)
    long = {**BODY, "user": "x" * 2000}
    assert client.post("/v1/chat/completions", json=long).status_code == 413
    streamed = client.post("/v1/chat/completions", content=(b"x" * 100 for _ in range(20)))
    assert streamed.status_code == 413
    assert client.post("/v1/chat/completions", json=BODY).status_code == 200


def test_no_origin_is_let_in(make_client):
    answer = make_client().post("/v1/chat/completions", json=BODY, headers={"origin": "http://elsewhere"})
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_overload_is_refused_with_retry_after(make_client):
    client = make_client(requests=2, way="slow")
    found = []
    slow = {**BODY, "optscale": {"target": 0.995}}
    asking = [
        threading.Thread(target=lambda: found.append(client.post("/v1/chat/completions", json=slow)))
        for _ in range(6)
    ]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    refused = [answer for answer in found if answer.status_code == 429]
    assert len(refused) == 4
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert client.post("/v1/chat/completions", json=BODY).status_code == 200


def test_without_the_reward_model_it_can_refuse(make_client):
    answer = make_client(reward_way="error", without_reward="refuse").post("/v1/chat/completions", json=BODY)
    assert answer.status_code == 503
    assert "reward model" in answer.json()["error"]["message"]


def test_the_promise_is_given_where_it_was_certified(make_client):
    client = make_client()

    def promise(**fields):
        answer = client.post("/v1/chat/completions", json=BODY | fields)
        assert answer.status_code == 200, answer.text
        return answer.json()["optscale"]["promise"]

    assert promise() == CERTIFICATE.statement
    assert promise(seed=3, optscale={"ahead": 4}) == CERTIFICATE.statement
    for fields in ({"n": 3}, {"temperature": 0.2}, {"optscale": {"target": 0.5}}, {"optscale": {"cap": 2}}):
        assert promise(**fields) is None
    # It ends the drawing of none of these, but may have cut a round.
    assert promise(optscale={"token_budget": 32 * POLICY.cap}) is None
    explanation = make_client(reward_way="error").post("/v1/chat/completions", json=BODY).json()["optscale"]
    assert explanation["degraded"]
    assert explanation["promise"] is None


def test_an_answer_says_how_it_was_selected_and_with_how_many_votes(make_client):
    policy = FixedN(target=0.9, cap=12, selection=Selection(kind="weighted_vote"))
    client = make_client(way="answers", policy=policy)
    found = client.post("/v1/chat/completions", json=BODY | {"seed": 5}).json()
    explanation, text = found["optscale"], found["choices"][0]["message"]["content"]
    given = [answer_key(extract_answer(answer_of("Compute 1 + 1.", 5 + k)) or "") for k in range(12)]
    assert (explanation["selection"], explanation["drawn"]) == ("weighted_vote", 12)
    assert explanation["votes"] == given.count(answer_key(extract_answer(text))) > 1
    assert explanation["score"] < max(explanation["scores"])
    # It is that of a best-scored answer.
    assert explanation["chance_correct"] is None
    assert explanation["promise"] == CERTIFICATE.statement
    away = make_client(way="answers", reward_way="error", policy=policy)
    explanation = away.post("/v1/chat/completions", json=BODY).json()["optscale"]
    assert (explanation["selection"], explanation["promise"]) == ("majority", None)


def test_without_a_reward_model_it_answers_by_majority(make_app, tmp_path):
    policy = Agreement(cap=12, confidence=0.8)
    log = LogSettings(folder=str(tmp_path / "log"), explore=0.999999)
    with TestClient(make_app(way="answers", policy=policy, reward=None, log=log)) as client:
        assert client.get("/health").json()["away"] == []
        found = client.post("/v1/chat/completions", json=BODY).json()["optscale"]
        refused = client.post("/v1/chat/completions", json=BODY | {"optscale": {"target": 0.5}})
        capped = client.post("/v1/chat/completions", json=BODY | {"optscale": {"cap": 2}}).json()
        assert capped["optscale"]["drawn"] <= 2
    assert (found["selection"], found["score"], found["prior"], found["hit"]) == (
        "majority",
        None,
        None,
        False,
    )
    assert (found["decision"]["best"], found["tokens"]["reward"], found["degraded"]) == (None, 0, [])
    assert found["contract"] == CONTRACT.unscored().fingerprint != CONTRACT.fingerprint
    assert found["promise"] == CERTIFICATE.statement
    assert refused.status_code == 400
    assert "no target" in refused.json()["error"]["message"]
    # What was drawn to the cap is a pool of answers.
    questions = [Question.ask(BODY["messages"][0]["content"])]
    added = import_log(tmp_path / "log", str(tmp_path / "pool"), questions)
    assert (added["questions"], added["candidates"]) == (1, policy.cap)
    table = load_scores(Pool.open(str(tmp_path / "pool")), FoldSettings())
    assert table.scale == "none"
    assert len(set(table.answers[0].tolist())) > 2


def test_the_reference_is_drawn_where_nothing_is_certified(make_client):
    policy = FixedN(target=0.9, cap=6, selection=Selection(kind="majority"))
    client = make_client(way="answers", policy=policy, certificate=None)
    told = client.post("/describe").json()
    assert (told["promise"], told["policy"]["selection"]["kind"]) == (None, "majority")
    assert told["says"] == "nothing is certified: the reference, all 6 candidates by majority, is drawn"
    found = client.post("/v1/chat/completions", json=BODY).json()["optscale"]
    assert (found["drawn"], found["selection"], found["promise"]) == (6, "majority", None)
    decided = client.post("/decide", json={"request": {"question": "Compute 1 + 1."}}).json()
    assert (decided["more"], decided["promise"]) == (6, None)
    assert make_client().post("/describe").json()["says"] == CERTIFICATE.statement


def test_without_a_reward_model_a_policy_by_scores_does_not_start(make_client):
    with pytest.raises(ConfigError, match="reads scores"):
        make_client(reward=None)
    other = gateway_settings("http://127.0.0.1:9/v1", "http://127.0.0.1:9/v1", "t").generator
    generator = other.model_copy(update={"sampling": Sampling(temperature=0.1)})
    with pytest.raises(ContractError, match="gateway settings"):
        make_client(reward=None, policy=Agreement(cap=4), generator=generator)


def test_only_plain_requests_are_explored_and_counted_if_whole(make_client, tmp_path):
    log = LogSettings(folder=str(tmp_path), explore=0.999999)
    client = make_client(log=log)

    def explored(client, **fields):
        before = metrics.EXPLORED._value.get()
        explanation = client.post("/v1/chat/completions", json=BODY | fields).json()["optscale"]
        return explanation["explored"], metrics.EXPLORED._value.get() - before

    assert explored(client) == (True, 1)
    for fields in ({"seed": 1}, {"optscale": {"deadline": 5}}, {"n": 3}):
        assert explored(client, **fields) == (False, 0)
    # What the deadline cut says nothing of what the policy loses.
    lost = metrics.LOST_HITS._value.get()
    assert explored(make_client(log=log, way="slow", reward_way="slow", per_request=1)) == (True, 1)
    generator = app.state.backend.gateway.settings.generator.model_copy(update={"in_flight": 1})
    assert explored(make_client(log=log, way="slow", generator=generator, deadline=2)) == (True, 0)
    assert metrics.LOST_HITS._value.get() == lost


@pytest.mark.parametrize(
    ("rule", "whole"), [({}, True), ({"stop_on_hit": True}, False), ({"give_up": 0.1}, False)]
)
def test_what_draws_its_cap_whatever_it_sees_is_explored(make_app, tmp_path, rule, whole):
    """On the first day, and with the full cap switched on, what is drawn is a pool."""
    log = LogSettings(folder=str(tmp_path), explore=0.0)
    with TestClient(make_app(log=log, policy=FixedN(cap=4, **rule))) as client:
        shown = client.post("/v1/chat/completions", json=BODY).json()["optscale"]
    (row,) = read_log(tmp_path)
    assert shown["explored"] is row["explored"] is whole
    assert row["inclusion_probability"] == 1.0


def test_feedback_is_kept_beside_the_log(make_client, tmp_path):
    client = make_client(log=LogSettings(folder=str(tmp_path)), keys=[make_key("one")])
    key = {"authorization": "Bearer one"}

    def send(**said):
        return client.post("/v1/feedback", json=said, headers=key)

    assert send(request_id="r1", verdict="wrong", answer="2").json() == {"request_id": "r1", "kept": True}
    assert send(request_id="r2", score=0.5).status_code == 200
    told = read_feedback(tmp_path)
    assert (told["r1"].verdict, told["r1"].answer, told["r2"].score) == ("wrong", "2", 0.5)
    for said in ({"request_id": "r"}, {"verdict": "right"}, {"request_id": "r", "verdict": "good"}):
        assert send(**said).status_code == 400
    assert client.post("/v1/feedback", json={}).status_code == 401


def test_predict_and_decide_need_the_predictor(make_client):
    class Away(Population):
        async def priors(self, questions):
            if len(questions) == 1:
                raise ConnectionError("refused")
            await asyncio.sleep(60)

    client = make_client(predictor=Away(), predictor_timeout=0.2)
    for route, body in (
        ("/decide", {"request": {"question": "Compute 1 + 1.", "scores": []}}),
        ("/predict", {"questions": [{"question": "Compute 1 + 1."}] * 2}),
    ):
        answer = client.post(route, json=body)
        assert (answer.status_code, answer.json()["error"]["type"]) == (503, "upstream_error")
    assert client.post("/decide", json={"request": {"scores": [0.5]}}).status_code == 200


def test_settings_of_another_contract_do_not_start(make_client):
    from tests.serving.conftest import gateway_settings as settings_of

    generator = settings_of("http://127.0.0.1:9/v1", "http://127.0.0.1:9/v1", "t").generator
    other = generator.model_copy(update={"sampling": Sampling(temperature=0.1)})
    with pytest.raises(ContractError, match="gateway settings"):
        make_client(generator=other)


def test_readiness_asks_the_models_behind(make_client):
    client = make_client(way="other")  # serves another model
    found = client.get("/health").json()
    assert found["predictor"]
    assert any("generator" in why and "serves other" in why for why in found["away"])
    assert not client.portal.call(app.state.backend.ready)


def test_a_bundle_without_a_generator_says_so(bundle):
    app.state.stage = None  # of a service that another module started
    app.state.backend = Backend(Bundle(path=bundle, card=make_card()), None, Population())
    with TestClient(with_middlewares(app)) as client:
        answer = client.post("/v1/chat/completions", json=BODY)
        assert (answer.status_code, answer.json()["error"]["type"]) == (503, "not_configured")
        assert client.post("/describe").json()["fingerprint"] == CONTRACT.fingerprint
        told = client.post("/v1/feedback", json={"request_id": "r", "verdict": "right"})
        assert (told.status_code, told.json()["error"]["type"]) == (503, "not_configured")


def test_raw_scores_are_mapped_as_the_certificate_says(bundle):
    """It decides on them as on what they are mapped to, and tells scores in [0, 1]."""
    raw = ScoreContract(**CONTRACT.model_dump() | {"scale": "raw"})
    found = ScoreMap(values=(-2.0, 0.0, 4.0), ranks=(0.1, 0.5, 0.95))
    certificate = CERTIFICATE.model_copy(update={"contract": raw.fingerprint, "score_map": found})
    with pytest.raises(ValueError, match="no certificate says how to map them"):
        make_card(contract=raw)
    cards = (make_card(contract=raw, certificate=certificate), make_card(certificate=CERTIFICATE))
    answers = []
    for card, scores in zip(cards, ([-2.0, 0.0, 4.0], [0.1, 0.5, 0.95]), strict=True):
        app.state.stage = None  # of a service that another module started
        app.state.backend = Backend(Bundle(path=bundle, card=card), None, Population())
        with TestClient(with_middlewares(app)) as client:
            asked = {"question": "Compute 1 + 1.", "scores": scores}
            answers.append(client.post("/decide", json={"request": asked}).json())
            wild = client.post("/decide", json={"request": asked | {"scores": [5.0]}})
            assert wild.status_code == (200 if card is cards[0] else 400), wild.text
    assert "every score must lie in [0, 1]" in wild.json()["error"]["message"]
    assert [a.pop("contract") for a in answers] == [raw.fingerprint, CONTRACT.fingerprint]
    assert answers[0] == answers[1]
    assert answers[0]["best"] == 0.95


def test_settings_are_overridden_where_the_bundle_runs(upstream, tokenizer, monkeypatch, tmp_path):
    settings = gateway_settings(upstream.url("plain"), upstream.url("plain"), tokenizer)
    monkeypatch.setenv("OPTSCALE_GATEWAY_FILE", str(tmp_path / "g.yaml"))
    (tmp_path / "g.yaml").write_text("generator: {base_url: 'http://other/v1'}\ndeadline: 7\n")
    found = override(settings)
    assert isinstance(found, GatewaySettings)
    assert override(settings, 1) == settings
    monkeypatch.delenv("OPTSCALE_GATEWAY_FILE")
    monkeypatch.setenv("OPTSCALE_GATEWAY", str(tmp_path / "g.yaml"))  # its name before
    assert override(settings) == found
    assert (found.generator.base_url, found.deadline) == ("http://other/v1", 7)
    assert found.reward == settings.reward
    (tmp_path / "g.yaml").write_text("reward: null\n")
    unscored = override(settings)
    assert unscored.reward is None
    (tmp_path / "g.yaml").write_text("reward: {base_url: 'http://other/v1', model: m, tokenizer: t}\n")
    assert override(unscored).reward.model == "m"
    (tmp_path / "g.yaml").write_text("dedline: 7\n")
    with pytest.raises(ConfigError, match="dedline"):
        override(settings)


@pytest.mark.suite
def test_the_description_is_kept(make_app):
    """A few cases of each operation; `make load` makes thousands."""
    server = uvicorn.Server(uvicorn.Config(make_app(deadline=5), port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        seen = fuzz(url, 12)
        assert seen["POST /v1/chat/completions 200"] > 0
        assert seen["POST /decide 200"] > 0
        assert httpx.get(f"{url}/health").json()["requests"] == 0
    finally:
        server.should_exit = True
        thread.join()
