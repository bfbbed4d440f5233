"""The gateway as a client sees it: OpenAI's own client against the bundle served by BentoML."""

import asyncio
import json
import signal
import socket
import threading
import time

import httpx
import openai
import pyarrow.parquet as pq
import pytest

from predictor.prior import Prior
from tests.serving.conftest import CONTRACT, POLICY, workers
from tests.serving.upstream import score_of

pytestmark = pytest.mark.slow
ONE = {"optscale": {"cap": 1}}
ASKED = [f"Compute {n} + {n + 1}." for n in range(12)]


def turn(text):
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(base_url=f"{served[0]}/v1", api_key="any", max_retries=0) as client:
        yield client


def create(client, text=ASKED[0], **fields):
    return client.chat.completions.create(model="m", messages=turn(text), **fields)


def test_the_answer_is_the_best_of_what_was_drawn(client):
    for text in ASKED:
        answer = create(client, text, seed=7)
        explanation = answer.optscale
        expected = [score_of(text, 7 + k) for k in range(explanation["drawn"])]
        assert explanation["scores"] == pytest.approx(expected, abs=1e-4)
        assert explanation["score"] == max(explanation["scores"])
        assert answer.choices[0].message.content == f"{text}\n\nscore {max(expected):.3f}"
        assert (answer.choices[0].finish_reason, answer.model) == ("stop", "m")
        assert explanation["ended"] == "decided"
        assert explanation["degraded"] == []
        assert explanation["contract"] == CONTRACT.fingerprint
        assert explanation["decision"]["reason"]
        Prior.model_validate(explanation["prior"])


def test_an_answer_can_be_sent_back_as_a_turn(client):
    messages = turn(ASKED[0])
    for text in ASKED[1:50]:
        answer = client.chat.completions.create(model="m", messages=messages, extra_body=ONE)
        assert answer.optscale["degraded"] == []
        messages += [answer.choices[0].message, *turn(text)]


def test_usage_counts_what_was_thrown_away(client):
    answer = create(client, ASKED[1], extra_body={"optscale": {"cap": 4}})
    text = answer.choices[0].message.content
    tokens = answer.optscale["tokens"]
    assert answer.usage.completion_tokens == tokens["generated"] > tokens["thrown_away"]
    assert tokens["generated"] - tokens["thrown_away"] == 5 + len(text) % 7
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens == 9
    assert tokens["reward"] > 0


def test_the_asynchronous_client_gets_its_own_answers(served):
    async def main():
        async with openai.AsyncOpenAI(base_url=f"{served[0]}/v1", api_key="any", max_retries=0) as client:
            return await asyncio.gather(*(create(client, text) for text in ASKED * 3))

    for text, answer in zip(ASKED * 3, asyncio.run(main()), strict=True):
        assert answer.choices[0].message.content.startswith(text)


def test_a_stream_is_the_chosen_answer(client):
    whole = create(client, ASKED[2], seed=3)
    chunks = list(create(client, ASKED[2], seed=3, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert len(chunks) > 4
    assert all("usage" in chunk.model_fields_set for chunk in chunks)
    assert chunks[-1].usage.completion_tokens == chunks[-2].optscale["tokens"]["generated"]
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-2].optscale["scores"] == whole.optscale["scores"]
    assert create(client, ASKED[2], stream=True).response.headers["content-type"].startswith("text/event")


def test_what_a_request_says_goes_to_the_generator(client, upstream):
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Why "}, {"type": "text", "text": "not?"}]},
        {"role": "assistant", "content": "No."},
        {"role": "user", "content": "Compute 1 + 1."},
    ]
    asked = {"temperature": 0.3, "top_p": 0.9, "max_completion_tokens": 20, "stop": "END", "user": "u1"}
    answer = client.chat.completions.create(model="m", messages=messages, seed=11, **asked, extra_body=ONE)
    # Of the test before, candidates may still be under way.
    sent = next(b for b in reversed(upstream.bodies) if len(b.get("messages", ())) > 1)
    assert [m["role"] for m in sent["messages"]] == ["system", "user", "assistant", "user"]
    assert sent["messages"][1]["content"] == "Why not?"
    assert (sent["temperature"], sent["top_p"], sent["max_tokens"], sent["stop"]) == (0.3, 0.9, 20, ["END"])
    assert (sent["user"], sent["seed"], sent["n"]) == ("u1", 11, 1)
    assert answer.optscale["cap"] == answer.optscale["drawn"] == 1
    # Scores of other sampling are of another contract, and nothing is promised of them.
    assert answer.optscale["contract"] != CONTRACT.fingerprint
    assert answer.optscale["promise"] is None


def test_wishes_are_heard(client):
    wishes = {"target": 0.98, "confidence": 0.99, "cap": 6}
    explanation = create(client, extra_body={"optscale": wishes}).optscale
    assert (explanation["target"], explanation["cap"]) == (0.98, 6)
    budget = create(client, seed=7, extra_body={"optscale": {"token_budget": 70, "target": 0.995}})
    assert budget.usage.completion_tokens <= 70
    assert budget.optscale["ended"] == "token budget"
    ahead = create(client, ASKED[3], seed=5, extra_body={"optscale": {"ahead": 4}})
    plain = create(client, ASKED[3], seed=5)
    assert ahead.choices[0].message.content == plain.choices[0].message.content
    assert ahead.optscale["decision"] == plain.optscale["decision"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"n": 99}, "n"),
        ({"n": 0}, "n"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens"),
        ({"extra_body": {"optscale": {"target": 2}}}, "optscale.target"),
        ({"extra_body": {"optscale": {"target": 0.9873}}}, "0.005"),
        ({"extra_body": {"optscale": {"deadline": 3000}}}, "deadline"),
        ({"extra_body": {"optscale": {"token_budget": 5}}}, "token_budget"),
        ({"extra_body": {"optscale": {"speed": 5}}}, "optscale.speed"),
        ({"messages": [{"role": "user", "content": "  "}]}, "empty"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, '"param": "messages.0.content"'),
        (
            {"messages": [{"role": "user", "content": 5}]},
            "content is 5: Input should be a valid string or Inp",
        ),
        ({"stop": 5}, '"param": "stop"'),
        (
            {"extra_body": {"optscale": {"speed": 5}}},
            "speed is unknown; allowed: target, confidence, deadline",
        ),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(client, fields, named):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": "m", "messages": turn("Compute 1 + 1."), **fields})
    assert named in json.dumps(caught.value.body)


def test_models_lists_the_one_that_is_served(client):
    assert [model.id for model in client.models.list()] == ["m"]
    with pytest.raises(openai.NotFoundError, match="no model"):
        client.chat.completions.create(model="other", messages=turn("q"))


def test_predictions_and_decisions_are_there_too(served):
    url, _, _ = served
    (answer,) = httpx.post(f"{url}/predict", json={"questions": [{"question": ASKED[0]}]}).json()
    assert 1 <= answer["required_samples"] <= POLICY.cap
    asked = {"request": {"prior": answer["prior"], "scores": [0.5], "contract": answer["contract"]}}
    assert httpx.post(f"{url}/decide", json=asked).json()["action"] in {"sample", "accept", "give up"}
    assert httpx.get(f"{url}/health").json() == {"predictor": True, "away": [], "requests": 0}


def test_the_gateway_has_no_torch_and_the_predictor_has(served):
    loaded = {
        name: any("libtorch" in file.path for file in worker.memory_maps())
        for name, worker in workers(served[1]).items()
    }
    assert loaded == {"optscale": False, "optscale-predictor": True}


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_its_candidates(served, upstream, stream):
    url, _, _ = served
    before = upstream.in_flight
    body = json.dumps({"model": "m", "messages": turn("[silent] wait for it"), "stream": stream})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n"
    with socket.create_connection(("127.0.0.1", httpx.URL(url).port)) as client:
        client.sendall(f"{head}Content-Type: application/json\r\n\r\n{body}".encode())
        for _ in range(1000):
            if upstream.in_flight > before:
                break
            time.sleep(0.02)
    for _ in range(100):
        if upstream.in_flight == before and httpx.get(f"{url}/health").json()["requests"] == 0:
            break
        time.sleep(0.05)
    assert upstream.in_flight == before
    assert httpx.get(f"{url}/health").json()["requests"] == 0
    page = httpx.get(f"{url}/metrics").text
    assert 'optscale_requests_total{ended="disconnected",status="499"}' in page


def test_metrics_are_there_for_a_person_on_call(served, client):
    create(client)
    assert httpx.get(f"{served[0]}/a-path-of-nobody").status_code == 404
    page = httpx.get(f"{served[0]}/metrics").text
    for series in (
        'optscale_tokens_total{kind="saved"}',
        "optscale_rounds_bucket",
        "optscale_decisions_total{",
        "optscale_hits_total",
        "optscale_expected_hits_total",
        'optscale_upstream_seconds_count{upstream="generator"}',
        'optscale_upstream_seconds_count{upstream="reward model"}',
        "optscale_in_flight",
    ):
        assert series in page, series
    # A series for each path that anybody thinks of would fill the memory.
    assert 'endpoint="/v1/chat/completions"' in page
    assert "a-path-of-nobody" not in page


def test_one_log_line_a_request_with_its_id(served):
    url, _, folder = served
    answer = httpx.post(
        f"{url}/v1/chat/completions",
        json={"model": "m", "messages": turn(ASKED[4])},
        headers={"x-request-id": "my-id.7"},
    )
    assert answer.headers["x-request-id"] == answer.json()["optscale"]["request_id"] == "my-id.7"
    lines = []
    while not lines:
        lines = [line for line in (folder / "log").read_text().splitlines() if "my-id.7" in line]
    record = json.loads(lines[0])
    assert (record["status"], record["path"]) == (200, "/v1/chat/completions")
    assert record["drawn"] == answer.json()["optscale"]["drawn"]
    assert ASKED[4] not in lines[0]


def test_a_trace_goes_on_through_generator_and_reward_model(served, upstream):
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    httpx.post(
        f"{served[0]}/v1/chat/completions",
        json={"model": "m", "messages": turn(ASKED[5]), **ONE},
        headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"},
    ).raise_for_status()
    assert [one.split("-")[1] for one in upstream.traces[-2:]] == [trace] * 2


def test_decisions_are_logged_and_some_go_to_the_cap(served, client):
    _, _, folder = served
    explanations = [create(client, text).optscale for text in ASKED * 3]
    deadline = time.monotonic() + 20
    wanted = {one["request_id"] for one in explanations}
    rows = []
    while time.monotonic() < deadline and wanted - {row["request_id"] for row in rows}:
        files = (folder / "decisions").glob("*.parquet")
        rows = [row for file in files for row in pq.read_table(file).to_pylist()]
        time.sleep(0.2)
    rows = {row["request_id"]: row for row in rows}
    assert {one["explored"] for one in explanations} == {True, False}
    for one in explanations:
        row = rows[one["request_id"]]
        assert row["explored"] == one["explored"]
        assert row["inclusion_probability"] == pytest.approx(0.3 if one["explored"] else 0.7)
        assert len(row["candidates"]) == (POLICY.cap if one["explored"] else one["drawn"])
        assert [c["score"] for c in row["candidates"]][: one["drawn"]] == one["scores"]
        assert (row["selection"], row["votes"]) == (one["selection"], one["votes"]) == ("best_score", 0)
        assert (row["model_version"], row["promise"]) == ("1", None)
        assert row["messages"] is None
        assert {c["completion"] for c in row["candidates"]} == {None}
        assert json.loads(row["prior"]) == one["prior"]


def test_requests_in_flight_are_finished_on_sigterm(served):
    url, process, _ = served
    answers = []
    body = {"model": "m", "messages": turn("[slow] one more"), "optscale": {"target": 0.995}}

    def ask():
        answers.append(httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30))

    asking = [threading.Thread(target=ask) for _ in range(8)]
    for thread in asking:
        thread.start()
    while httpx.get(f"{url}/health").json()["requests"] < len(asking):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    for thread in asking:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 8
    process.wait(30)
