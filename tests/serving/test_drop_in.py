"""What unmodified clients and front ends send: fields, turns, tools, JSON, choices, streams."""

import json
import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from openai.types.chat import ChatCompletionContentPartParam, ChatCompletionMessageParam
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from predictor.policies import FixedN
from predictor.selection import Selection
from serving import fields, messages, metrics
from serving.chat import ChatRequest
from tests.serving import test_routes
from tests.serving.conftest import with_middlewares
from tests.serving.test_routes import BODY, CERTIFICATE
from tests.serving.upstream import score_of

pytestmark = pytest.mark.slow
make_app, make_client = test_routes.make_app, test_routes.make_client
ROUTE = "/v1/chat/completions"
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "size": {"type": "integer"}}}
SCHEMA |= {"required": ["city", "size"], "additionalProperties": False}
FORM = {"type": "json_schema", "json_schema": {"name": "c", "strict": True, "schema": SCHEMA}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
VLLM = """
    frequency_penalty logit_bias logprobs top_logprobs presence_penalty response_format tools
    tool_choice reasoning_effort thinking_token_budget include_reasoning parallel_tool_calls user
    use_beam_search top_k min_p repetition_penalty watermarking length_penalty stop_token_ids
    include_stop_str_in_output ignore_eos min_tokens skip_special_tokens spaces_between_special_tokens
    truncate_prompt_tokens truncation_side prompt_logprobs logprob_token_ids allowed_token_ids bad_words
    echo add_generation_prompt continue_final_message add_special_tokens documents chat_template
    chat_template_kwargs media_io_kwargs mm_processor_kwargs structured_outputs priority request_id
    session_id return_tokens_as_token_ids return_token_ids routed_experts_prompt_start
    return_token_offsets return_prompt_text mm_payload return_mm_kwargs cache_salt kv_transfer_params
    ec_transfer_params vllm_xargs repetition_detection stream_interval
"""
"""Of vLLM's request type, those that the client library has not; tests/vllm holds it against the type."""
KINDS = {
    "ignored": fields.IGNORED,
    "handed on": fields.HANDED_ON,
    "changes what is asked": fields.CONDITIONS,
    "generator alone": fields.ALONE.keys(),
    "refused": fields.REFUSED.keys(),
}


def post(client, route=ROUTE, **changes):
    return client.post(route, json=BODY | changes)


def ask(client, **changes):
    answer = post(client, **changes)
    assert answer.status_code == 200, answer.text
    return answer.json()


def last(upstream, key="messages"):
    """The last request to the generator."""
    return next(body for body in reversed(upstream.bodies) if key in body)


def test_every_field_of_the_clients_own_request_type_is_of_one_kind_and_on_the_page():
    known = [*get_type_hints(CompletionCreateParamsStreaming), *VLLM.split()]
    kinds = {name: [k for k, names in KINDS.items() if name in names] for name in known}
    kinds |= {name: ["read"] for name in ChatRequest.model_fields if not kinds.get(name)}
    assert {name: found for name, found in kinds.items() if len(found) != 1} == {}
    page = (Path(__file__).parents[2] / "serving/gateway.md").read_text()
    rows = dict(
        re.findall(
            r"^\| (.+?) \| (ignored|handed on|changes what is asked|generator alone|refused) ", page, re.M
        )
    )
    told = {name: kind for names, kind in rows.items() for name in re.findall(r"`(\w+)`", names)}
    assert told == {name: kind for kind, names in KINDS.items() for name in names}
    assert all(f"`{name}`" in page for name, (kind,) in kinds.items() if kind == "read")


def test_every_key_of_the_clients_own_turns_is_read_kept_or_left_out():
    turns = {key for kind in get_args(ChatCompletionMessageParam) for key in get_type_hints(kind)}
    assert turns - {"role", "content", *messages.KEPT} == {
        "audio",
        "refusal",
    }  # of answers that are sent back
    parts = {key for kind in get_args(ChatCompletionContentPartParam) for key in get_type_hints(kind)}
    assert parts - {"type", "text", "refusal"} - messages.MARKS == {"image_url", "input_audio", "file"}


def test_what_changes_nothing_is_ignored_and_the_promise_stands(make_client, upstream):
    ignored = {"metadata": {"a": "b"}, "store": True, "service_tier": "flex", "prompt_cache_key": "k"}
    ignored |= {"safety_identifier": "s", "nobody_knows_this": [1], "parallel_tool_calls": True, "user": "u"}
    neutral = {
        "tools": [],
        "tool_choice": "auto",
        "logprobs": False,
        "presence_penalty": 0,
        "top_k": -1,
        "n": 1,
    }
    neutral |= {"response_format": {"type": "text"}, "logit_bias": {}, "stop": [], "repetition_penalty": 1.0}
    found = ask(make_client(), **ignored, **neutral)["optscale"]
    assert found["promise"] == CERTIFICATE.statement
    sent = last(upstream)
    assert sent["user"] == "u"
    assert not sent.keys() & (ignored.keys() | neutral.keys()) - {"user", "n"}


def test_what_the_generator_is_configured_with_changes_nothing(make_client):
    make_client()
    generator = test_routes.app.state.backend.gateway.settings.generator.model_copy(
        update={"extra_body": {"top_k": 20, "return_token_ids": True}}
    )
    client = make_client(generator=generator)
    assert ask(client, top_k=20)["optscale"]["promise"] == CERTIFICATE.statement
    assert ask(client, top_k=30)["optscale"]["passthrough"] == "sampling (top_k)"


def test_what_changes_the_question_is_passed_on_under_a_contract_of_its_own(make_client, upstream):
    asked = {
        "reasoning_effort": "low",
        "verbosity": "low",
        "chat_template_kwargs": {"enable_thinking": False},
    }
    found = ask(make_client(), **asked)["optscale"]
    assert asked.items() <= last(upstream).items()
    assert found["promise"] is None
    assert found["contract"] != CERTIFICATE.contract


@pytest.mark.parametrize("name", sorted(fields.REFUSED))
def test_what_nobody_can_honour_is_refused_by_its_path(make_client, name):
    answer = post(make_client(), **{name: {"voice": "x"}})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)


def test_turns_come_as_clients_write_them(make_client, upstream):
    cached = {"type": "text", "text": "Be brief. ", "cache_control": {"type": "ephemeral"}}
    turns = [
        {"role": "developer", "content": [cached, {"type": "text", "text": "Be kind."}]},
        {"role": "user", "name": "Ann", "content": "Compute 1 + 1."},
        {
            "role": "assistant",
            "content": "2",
            "reasoning_content": "one and one",
            "refusal": None,
            "audio": None,
        },
        {"role": "assistant", "content": None, "annotations": [{"x": 1}]},
        {"role": "user", "content": "Compute 2 + 2."},
    ]
    found = ask(make_client(), messages=turns)
    assert found["choices"][0]["message"]["content"].startswith("Compute 2 + 2.")
    assert last(upstream)["messages"] == [
        {"role": "system", "content": "Be brief. Be kind."},
        {"role": "user", "content": "Compute 1 + 1.", "name": "Ann"},
        {"role": "assistant", "content": "2", "reasoning_content": "one and one"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "Compute 2 + 2."},
    ]
    assert found["optscale"]["promise"] is None  # nothing of it was certified


def test_what_is_wrong_in_a_turn_is_told_by_its_path(make_client):
    for turn, path in (
        ({"role": "user", "content": [{"type": "text"}]}, "messages.0.content.0"),
        ({"role": "robot", "content": "x"}, "messages.0.role"),
        ({"role": "user", "content": 5}, "messages.0.content"),
    ):
        answer = post(make_client(), messages=[turn])
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, path)


def test_reasoning_stays_apart_where_the_generator_keeps_it_so(make_client):
    message = ask(make_client(way="reasoning"), seed=3)["choices"][0]["message"]
    assert message["reasoning_content"] == "hm, hm"
    assert message["content"].startswith(BODY["messages"][0]["content"])
    chunks = events(make_client(way="reasoning"), seed=3)
    for name in ("reasoning_content", "content"):
        assert "".join(c["choices"][0]["delta"].get(name) or "" for c in chunks) == message[name]


@pytest.mark.parametrize(
    "policy", [FixedN(target=0.9, cap=3, selection=Selection(kind="majority"), stop_on_hit=False), None]
)
def test_a_question_too_long_for_predictor_or_reward_model_is_answered_without_them(make_client, policy):
    client = make_client(body_bytes=400_000, way="votes", **({"policy": policy} if policy else {}))
    test_routes.app.state.backend.gateway.best_of_n.prior_source = Long()
    found = ask(client, messages=[{"role": "user", "content": "1 + 1 = 2. " * 20_000}])["optscale"]
    assert found["selection"] == "majority"
    assert found["degraded"][:2] == [
        "the question is too long for the predictor: the population's prior was used",
        "the question is too long for the reward model",
    ]
    assert (found["promise"], found["score"]) == (None, None)
    assert found["drawn"] == (3 if policy else 5)


class Long:
    """A predictor behind `RemotePredictor` that is never reached."""

    async def priors(self, questions):
        from serving.priors import RemotePredictor

        return await RemotePredictor(None, "").priors(questions)


def test_a_long_answer_can_be_sent_back(make_client):
    turns = [*BODY["messages"], {"role": "assistant", "content": "word " * 30_000}, *BODY["messages"]]
    assert ask(make_client(body_bytes=400_000), messages=turns)["choices"][0]["message"]["content"]


def test_equal_json_values_vote_and_what_does_not_fit_the_schema_is_a_miss(make_client):
    policy = FixedN(target=0.9, cap=7, stop_on_hit=False, selection=Selection(kind="majority"))
    client = make_client(policy=policy)
    found = ask(client, response_format=FORM, seed=0, optscale={"return_candidates": True})
    assert json.loads(found["choices"][0]["message"]["content"]) == {"city": "Paris", "size": 7}
    told = found["optscale"]
    assert (told["votes"], told["promise"]) == (4, None)  # seeds 1, 2, 4, 5, written in two ways
    *_, wrong = told["candidates"]
    assert (wrong["status"], wrong["score"], wrong["answer"]) == ("failed", None, None)
    assert len({c["text"] for c in told["candidates"] if c["answer"] == '{"city": "Paris", "size": 7}'}) == 2
    none = post(client, response_format=FORM, seed=6, optscale={"cap": 1})
    assert none.status_code == 502
    assert "an answer that is not of the form asked for" in none.json()["error"]["message"]
    bad = {"type": "json_schema", "json_schema": {"schema": {"type": "objekt"}}}
    answer = post(client, response_format=bad)
    assert (answer.status_code, answer.json()["error"]["param"]) == (
        400,
        "response_format.json_schema.schema",
    )


def test_n_choices_the_best_first_come_from_one_run(make_client):
    client, question = make_client(), BODY["messages"][0]["content"]
    found = ask(client, n=4, seed=7, optscale={"return_candidates": True})
    told = found["optscale"]
    texts = [choice["message"]["content"] for choice in found["choices"]]
    assert len(texts) == 4 <= told["drawn"]
    best = sorted((score_of(question, 7 + k) for k in range(told["drawn"])), reverse=True)
    assert texts == [f"{question}\n\nscore {score:.3f}" for score in best[:4]]
    assert [c["text"] for c in told["candidates"]][: told["drawn"]] == [
        f"{question}\n\nscore {score_of(question, 7 + k):.3f}" for k in range(told["drawn"])
    ]
    assert [c["score"] for c in told["candidates"]] == told["scores"]
    assert found["usage"]["completion_tokens"] == told["tokens"]["generated"]
    streamed = {0: "", 1: ""}
    for chunk in events(client, n=2, seed=7):
        choice = chunk["choices"][0]
        streamed[choice["index"]] += choice["delta"].get("content") or ""
    assert len(set(streamed.values())) == 2
    assert all(text.startswith(question) for text in streamed.values())


def test_the_cap_is_asked_for_by_name(make_client):
    client = make_client()
    assert ask(client, optscale={"cap": 1})["optscale"]["drawn"] == 1
    for changes in ({"n": 99}, {"n": 3, "optscale": {"cap": 2}}):
        answer = post(client, **changes).json()["error"]
        assert answer["param"] == "n"
        assert "optscale.cap" in answer["message"]
    assert post(client, optscale={"cap": 99}).json()["error"]["param"] == "optscale.cap"


def test_at_temperature_0_one_is_drawn_and_why_is_said(make_client):
    found = ask(make_client(), temperature=0, n=2)
    told = found["optscale"]
    assert (told["drawn"], told["cap"], told["promise"]) == (1, 1, None)
    assert "temperature 0" in told["notes"][0]
    assert len({choice["message"]["content"] for choice in found["choices"]}) == 1
    assert len(found["choices"]) == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tools": [TOOL]}, "tools (tools)"),
        (
            {"messages": [*BODY["messages"], {"role": "tool", "tool_call_id": "1", "content": "3"}]},
            "tools (messages.1)",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}, IMAGE]}]},
            "images (messages.0)",
        ),
        ({"logprobs": True, "top_logprobs": 2}, "logprobs (logprobs, top_logprobs)"),
        ({"top_k": 20, "frequency_penalty": 0.5}, "sampling (top_k, frequency_penalty)"),
    ],
)
def test_what_best_of_n_does_not_fit_the_generator_answers_alone(make_client, upstream, changes, reason):
    counted = metrics.PASSTHROUGH.labels(reason.partition(" (")[0], 200)
    before, requests = counted._value.get(), upstream.requests["plain"]
    client = make_client()
    answer = post(client, **changes, metadata={"a": "b"}, temperature=0.3)
    found = answer.json()
    assert answer.status_code == 200, answer.text
    assert found["optscale"]["passthrough"] == answer.headers["x-optscale-passthrough"] == reason
    assert (found["optscale"]["promise"], len(found["choices"])) == (None, 1)
    assert found["optscale"]["model_version"] == answer.headers["x-optscale-model-version"] == "1"
    assert (counted._value.get(), upstream.requests["plain"]) == (before + 1, requests + 1)
    sent = last(upstream)
    assert (BODY | changes | {"temperature": 0.3}).items() <= sent.items()
    assert "metadata" not in sent
    refused = post(make_client(passthrough=False), **changes)
    assert refused.status_code == 400
    assert reason in refused.json()["error"]["message"]
    assert refused.json()["error"]["param"] in reason


def test_a_tools_whole_conversation_passes(make_client, upstream):
    client = make_client()
    message = ask(client, tools=[TOOL], tool_choice="required")["choices"][0]["message"]
    assert message["tool_calls"][0]["function"]["name"] == "look"
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "a cat"}
    found = ask(client, tools=[TOOL], messages=[*BODY["messages"], message, result])
    assert "a cat" in found["choices"][0]["message"]["content"]
    sent = last(upstream)["messages"][1]
    assert (sent["content"], sent["tool_calls"]) == (None, message["tool_calls"])


def test_a_stream_of_the_generator_alone_passes_as_it_comes(make_client, upstream):
    with make_client().stream("POST", ROUTE, json=BODY | {"tools": [TOOL], "stream": True}) as answer:
        assert answer.headers["x-optscale-passthrough"] == "tools (tools)"
        assert answer.headers["x-optscale-model-version"] == "1"
        lines = [line for line in answer.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert any("tool_calls" in line for line in lines)
    assert test_routes.app.state.backend.gateway.in_flight == 0


def test_a_generator_that_refuses_or_is_away_is_told_as_it_is(make_client):
    for way, status in (("refusing", 400), ("error", 502), ("busy", 429), ("page", 502), ("locked", 502)):
        answer = post(make_client(way=way), tools=[TOOL])
        assert (answer.status_code, bool(answer.json()["error"]["message"])) == (status, True), way
    assert test_routes.app.state.backend.gateway.in_flight == 0


def test_other_routes_are_the_generators_own(make_client):
    client = make_client()
    embedded = client.post(
        "/v1/embeddings", json={"model": "any", "input": ["a"], "encoding_format": "float"}
    )
    assert embedded.json()["data"][0]["embedding"] == [0.5, 1.0]
    assert embedded.json()["optscale"]["passthrough"] == "route (/v1/embeddings)"
    completed = client.post("/v1/completions", json={"model": "m", "prompt": "Once"}).json()
    assert completed["choices"][0]["text"] == "Once and so on"
    assert client.post("/v1/responses", json={"model": "m", "input": "hi"}).json()["output"]
    assert client.post("/v1/responses", json={"model": "x", "input": "hi"}).status_code == 404
    assert client.post("/v1/completions", json={"prompt": "Once"}).json()["error"]["param"] == "model"


def test_models_and_unknown_paths_answer_as_openais_servers_do(make_client):
    client = make_client()
    assert client.get("/v1/models/m").json() == client.get("/v1/models").json()["data"][0]
    missing = client.get("/v1/models/org/other")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
    nowhere = client.post("/v1/audio/speech", json={})
    assert (nowhere.status_code, nowhere.json()["error"]["code"]) == (404, "unknown_url")
    assert "/v1/audio/speech" in nowhere.json()["error"]["message"]


def test_a_path_with_a_line_break_is_unknown_as_any_other():
    """As BentoML has it the app is mounted, and a mount's own pattern ends at a line break."""
    client = TestClient(with_middlewares(Starlette(routes=[Mount("/", app=test_routes.app)])))
    nowhere = client.get("/v1/models/a%0Ab")
    assert (nowhere.status_code, nowhere.json()["error"]["code"]) == (404, "unknown_url")


def test_headers_repeat_the_decision(make_client):
    answer = post(make_client())
    told, headers = answer.json()["optscale"], answer.headers
    assert int(headers["x-optscale-drawn"]) == told["drawn"]
    assert float(headers["x-optscale-score"]) == told["score"]
    assert (headers["x-optscale-hit"], headers["x-optscale-ended"]) == (str(told["hit"]).lower(), "decided")
    assert (headers["x-optscale-promise"], headers["x-optscale-reason"]) == (
        told["promise"],
        told["decision"]["reason"],
    )
    assert "x-optscale-degraded" not in headers
    page = (Path(__file__).parents[2] / "serving/gateway.md").read_text()
    sent = {name for name in headers if name.startswith("x-optscale-")}
    assert [name for name in sent if f"`{name}`" not in page] == []


def events(client, **changes):
    """The chunks of a stream."""
    with client.stream("POST", ROUTE, json=BODY | {"stream": True} | changes) as answer:
        assert answer.status_code == 200
        lines = [line for line in answer.iter_lines() if line and not line.startswith(":")]
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_a_stream_begins_at_once_and_comments_until_the_answer_is_chosen(make_client):
    client = make_client(keep_alive=0.02)
    slow = BODY | {"stream": True, "optscale": {"target": 0.995}}
    slow["messages"] = [{"role": "user", "content": "[slow] Compute 1 + 1."}]
    with client.stream("POST", ROUTE, json=slow) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line]
    first = next(n for n, line in enumerate(lines) if line.startswith("data:"))
    assert first > 2
    assert all(line.startswith(":") for line in lines[:first])
    text = "".join(
        json.loads(line[6:])["choices"][0]["delta"].get("content") or "" for line in lines[first:-1]
    )
    assert re.fullmatch(r"\[slow\] Compute 1 \+ 1\.\n\nscore 0\.\d+", text)


def test_what_fails_after_a_stream_has_begun_is_an_event(make_client):
    with make_client(way="error").stream("POST", ROUTE, json=BODY | {"stream": True}) as answer:
        assert answer.status_code == 200
        *_, line = [line for line in answer.iter_lines() if line]
    error = json.loads(line.removeprefix("data: "))["error"]
    assert (error["type"], error["code"]) == ("upstream_error", "502")
    early = post(make_client(), stream=True, model="other")
    assert early.status_code == 404
