"""What servers answer in their own ways, by the table of serving/gateway.md: a test a row, over real HTTP."""

import json
import threading

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from data.contract import Sampling
from data.errors import ModelError
from data.question import Question
from models.faults import REASON, reason_in
from models.http_client import call
from models.load import load_reward_model
from models.settings import HttpGeneratorSettings, HttpRewardSettings

pytestmark = pytest.mark.slow
ASKED = Question.ask("Compute 3 + 4.")
LIMIT = Sampling(max_tokens=20)


class Scripted:
    """Answers every POST with the next of the scripted (status, body); a str is HTML."""

    def __init__(self):
        self.script, self.sent = [], []
        app = Starlette(routes=[Route("/{path:path}", self.answer, methods=["GET", "POST"])])
        self.server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            pass
        self.url = f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"

    async def answer(self, request):
        if request.method == "GET":
            return Response(status_code=404)
        self.sent.append((request.url.path, await request.json()))
        status, body = self.script.pop(0)
        kind = "text/html" if isinstance(body, str) else "application/json"
        return Response(body if isinstance(body, str) else json.dumps(body), status, media_type=kind)


@pytest.fixture(scope="module")
def server():
    serving = Scripted()
    yield serving
    serving.server.should_exit = serving.server.force_exit = True
    serving.thread.join()


@pytest.fixture
def sample(server):
    """The candidate that an answer is read as."""
    from models.generator.http import AsyncHttpGenerator

    def sample(status, body, path="/v1", **changes):
        server.script = [(status, body)]
        settings = {"base_url": server.url + path, "model": "m", "retries": 0} | changes
        asked = AsyncHttpGenerator(HttpGeneratorSettings(**settings))
        (found,) = call(asked.sample, ASKED, 1, 0, LIMIT)
        return found

    return sample


def chat(message, finish="stop", tokens=5, **more):
    choice = {"index": 0, "message": {"role": "assistant"} | message} | more
    if finish != "absent":
        choice["finish_reason"] = finish
    return {
        "object": "chat.completion",
        "choices": [choice],
        "usage": {"prompt_tokens": 4, "completion_tokens": tokens, "total_tokens": 4 + tokens},
    }


def test_vllm(sample):
    found = sample(200, chat({"content": "7", "reasoning": "hm"}))
    assert (found.status, found.text) == ("complete", "<think>\nhm\n</think>\n\n7")
    error = {"message": "The model `m` does not exist.", "type": "NotFoundError", "param": "model"}
    with pytest.raises(
        ModelError, match=r"404 The model `m` does not exist\. \(http.*the model is set to 'm'"
    ):
        sample(404, {"error": {**error, "code": 404}})
    # A chain of thought that took all tokens, and the engine's own ends.
    assert sample(200, chat({"content": None, "reasoning": "hm"}, "length")).status == "cut"
    assert (
        sample(200, chat({"content": None, "reasoning": "hm"})).cause
        == "an empty answer (finish_reason stop)"
    )
    assert sample(200, chat({"content": "7"}, "repetition")).cause == "finish_reason repetition"


def test_sglang(sample):
    error = {"object": "error", "message": "too long", "type": "BadRequestError", "param": None, "code": 400}
    assert sample(400, error).cause.startswith("400 too long (http")
    assert sample(200, chat({"content": "7", "reasoning_content": None})).text == "7"
    assert sample(200, chat({"content": "7"}, "abort")).cause == "finish_reason abort"


def test_tgi(sample):
    assert sample(200, chat({"content": "7"}, "eos_token")).status == "complete"
    assert sample(200, chat({"content": "7"}, "stop_sequence")).status == "complete"
    said = "Input validation error: `top_p` must be > 0.0 and < 1.0"
    assert said in sample(422, {"error": said, "error_type": "validation"}).cause


def test_llama_cpp(sample):
    assert sample(200, chat({"content": "7", "reasoning_content": "hm"})).text.startswith("<think>\nhm")
    loading = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
    assert sample(503, loading).cause.startswith("503 Loading model")
    only = {
        "error": {"code": 500, "message": "Only one completion choice is allowed", "type": "server_error"}
    }
    assert "Only one completion choice" in sample(500, only).cause


def test_ollama(sample):
    assert sample(200, chat({"content": "7"}, None)).status == "complete"
    assert sample(200, chat({"content": "7"}, "absent")).status == "complete"
    assert sample(200, chat({"content": "7"}, None, tokens=20)).status == "cut"
    assert sample(200, chat({"content": "", "reasoning": "hm"}, "stop")).status == "failed"
    gone = {"message": 'model "m" not found', "type": "not_found_error", "param": None, "code": None}
    with pytest.raises(ModelError, match='model "m" not found'):
        sample(404, {"error": gone})


def test_lm_studio(sample):
    found = sample(200, {"error": "Unexpected endpoint or method. (POST /chat/completions)"}, path="")
    assert found.status == "failed"
    assert "Unexpected endpoint or method" in found.cause
    assert "a base_url mostly ends in /v1" in found.cause


def test_nim(sample):
    gone = {"status": 404, "title": "Not Found", "detail": "Function 'f': Not found for account 'a'"}
    with pytest.raises(ModelError, match=r"404 Function 'f': Not found for account 'a' \(http"):
        sample(404, gone)


def test_mistral(sample):
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": "It is "},
        {"type": "text", "text": "7."},
    ]
    assert sample(200, chat({"content": parts})).text == "<think>\nhm\n</think>\n\nIt is 7."
    assert sample(200, chat({"content": "7"}, "model_length")).status == "cut"
    wrong = {"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}
    refused = {"object": "error", "message": {"detail": [wrong]}, "type": "invalid_request_error"}
    assert "422 body.seed: Extra inputs are not permitted" in sample(422, refused).cause


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (chat({"content": "", "refusal": "I cannot."}), "the model refused: I cannot."),
        (chat({"content": None}), "an empty answer (finish_reason stop)"),
        (chat({"content": "<think>hm</think> \n"}), "an empty answer (finish_reason stop)"),
        (chat({"content": "7"}, "content_filter"), "finish_reason content_filter"),
        (chat({"content": None, "tool_calls": []}, "tool_calls"), "finish_reason tool_calls"),
        (chat({"content": "7"}, "error", error={"message": "overloaded", "code": 502}), "overloaded"),
    ],
)
def test_what_is_no_answer_is_failed_and_told(sample, body, cause):
    found = sample(200, body)
    assert (found.status, found.cause, found.text, found.tokens) == ("failed", cause, "", 5)


def test_an_answer_of_no_choices_is_failed_with_what_it_says(sample):
    assert (
        "200 without choices: upstream is away"
        in sample(200, {"error": {"message": "upstream is away"}}).cause
    )
    assert (
        "200 without choices: Sign in" in sample(200, "<html><script>x()</script><b>Sign in</b></html>").cause
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": "text"}, "text"),
        ({"error": {"message": "m", "code": 1}}, "m"),
        ({"detail": "d"}, "d"),
        (
            {"detail": [{"loc": ["body", "n"], "msg": "bad"}, {"loc": [], "msg": "worse"}]},
            "body.n: bad; worse",
        ),
        ({"message": '{"detail":[{"loc":["body","n"],"msg":"bad"}]}'}, "body.n: bad"),
        ({"error": True, "message": "m"}, "m"),
        ({"odd": 1}, '{"odd": 1}'),
        ("plain\n text", "plain text"),
        ("<title>502</title><style>a{}</style><h1>Bad &amp; gone</h1>", "502 Bad & gone"),
        ("", ""),
        ("x" * 1000, "x" * REASON),
    ],
)
def test_a_reason_is_found_whatever_its_form(body, said):
    assert reason_in(body) == reason_in(body if isinstance(body, str) else json.dumps(body)) == said


def test_hints_name_key_and_proxy(sample, monkeypatch):
    with pytest.raises(ModelError, match=r"401 no such key .*\$MY_KEY is not set"):
        sample(401, {"error": "no such key"}, api_key_variable="MY_KEY")
    monkeypatch.setenv("MY_KEY", "k")
    with pytest.raises(ModelError, match=r"\$MY_KEY holds another key"):
        sample(401, {"error": "no such key"}, api_key_variable="MY_KEY")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert "NO_PROXY=127.0.0.1" in sample(503, "<h1>no route</h1>").cause


@pytest.fixture
def score(server, tokenizer):
    """The scores that an answer is read as."""

    def score(body, **changes):
        server.script, rows = [(200, body)], body["data"] if isinstance(body, dict) else body
        settings = {"base_url": server.url + "/v1", "model": "m", "tokenizer": tokenizer, "retries": 0}
        judged = load_reward_model(HttpRewardSettings(**(settings | changes)))
        return judged.score([(ASKED, "one\n\ntwo"), (ASKED, "three")][: len(rows)])

    return score


def classes(*rows):
    return {
        "data": [{"index": i, "label": None, "probs": r, "num_classes": len(r)} for i, r in enumerate(rows)]
    }


def test_classifiers_give_one_score_a_completion(server, score):
    found = score(classes([0.25, 0.75], [0.9, 0.1]), route="classify")
    assert [one.steps for one in found] == [[0.75], [0.1]]
    path, sent = server.sent[-1]
    assert (path, len(sent["input"])) == ("/classify", 2)
    assert sent["input"] == sent["input_ids"]
    assert [one.tokens for one in found] == [len(ids) for ids in sent["input"]]
    assert score(classes([0.25, 0.75]), route="classify", right_class=0)[0].steps == [0.25]
    assert score(classes([0.8]), route="classify")[0].steps == [0.8]


def test_a_scorer_of_pairs_gets_texts(server, score):
    found = score({"data": [{"index": 1, "score": 0.5}, {"index": 0, "score": 0.75}]}, route="score")
    assert [one.steps for one in found] == [[0.75], [0.5]]
    assert server.sent[-1][1]["text_1"] == ["Compute 3 + 4."] * 2
    assert server.sent[-1][1]["text_2"] == ["one\n\ntwo", "three"]


def test_logits_are_softmaxed_and_a_single_one_is_squashed(score):
    (two,) = score(classes([1.0, 3.0]), route="classify", values="logits")
    assert two.steps == [pytest.approx(0.8808, abs=1e-4)]
    sglang = [{"embedding": [0.0], "meta_info": {}}]
    (one,) = score(sglang, route="classify", values="logits")
    assert one.steps == [0.5]
    rows = {"data": [{"index": 0, "data": [[1.0, 3.0], [3.0, 1.0]]}]}
    (steps,) = score(rows, values="logits")
    assert steps.steps == pytest.approx([0.8808, 0.1192], abs=1e-4)


@pytest.mark.parametrize("row", [[-2.5, 3.1], [0.2, 0.3], [1.2, -0.2]])
def test_what_is_no_probability_is_loud(score, row):
    told = r"reward model at http.*/classify: row 0 is \[.*\], not probabilities that sum to one\. Set reward"
    with pytest.raises(ModelError, match=told):
        score(classes(row), route="classify")
    with pytest.raises(ModelError, match=r"/pooling: row 1 is .*Set reward\.values"):
        score({"data": [{"index": 0, "data": [[0.5, 0.5], row]}]})
    with pytest.raises(ModelError, match="not one raw value"):
        score(classes(row), route="classify", values="raw")


def test_raw_values_are_of_a_raw_contract(score, server, tokenizer):
    assert score(classes([9.5]), route="classify", values="raw")[0].steps == [9.5]
    base = {"base_url": server.url + "/v1", "model": "m", "tokenizer": tokenizer, "route": "classify"}
    kinds = ("probabilities", "logits", "raw")
    told = [load_reward_model(HttpRewardSettings(**base, values=kind)).identity for kind in kinds]
    assert [one["markup"] for one in told] == [
        "outcome, classify",
        *(f"outcome, classify, {k}" for k in kinds[1:]),
    ]
    assert [one.get("scale") for one in told] == [None, None, "raw"]


def test_settings_that_contradict_are_refused():
    base = {"base_url": "http://127.0.0.1:9/v1", "model": "m", "tokenizer": "t"}
    with pytest.raises(ValueError, match="scores no steps"):
        HttpRewardSettings(**base, route="score", convention="qwen")
