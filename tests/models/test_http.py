"""Generators and reward models over HTTP, against a real server that misbehaves on purpose."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from data.contract import Sampling
from data.errors import ModelError
from data.question import Message, Question
from models.http_client import call, make_client
from models.load import load_generator, load_reward_model
from models.reward.base import scored_part
from models.settings import HttpGeneratorSettings, HttpRewardSettings
from tests.models.faulty_server import FaultyServer

pytestmark = pytest.mark.slow

ASKED = [Question.ask(t, answer="7") for t in ("Compute 3 + 4.", "Compute 9 - 2.", "Compute 1 + 6.")]


@pytest.fixture(scope="module")
def server():
    running = FaultyServer()
    yield running
    running.close()


def generator(server, way, **changes):
    values = {"base_url": server.url(way), "model": "m", "retries": 2, "timeout": 5} | changes
    return load_generator(HttpGeneratorSettings(**values))


def test_candidates_come_in_order_with_seeds_and_usage(server):
    found = generator(server, "plain").sample(ASKED, n=4, seed=100)
    assert [len(candidates) for candidates in found] == [4, 4, 4]
    texts = [c.text.splitlines()[0] for candidates in found for c in candidates]
    assert texts == [f"{100 + 4 * q}.{k}" for q in range(3) for k in range(4)]
    assert sum(c.tokens for c in found[0]) == 40
    assert {(c.status, c.prompt_tokens) for c in found[0]} == {("complete", 5)}


def test_single_requests_stay_within_the_limit_whichever_thread_asks(server):
    server.most_in_flight = 0
    asked = generator(server, "single", candidates_per_request=1, in_flight=3)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda seed: asked.sample(ASKED, n=8, seed=seed), (0, 1000))
    assert server.requests["single"] == 48
    assert 1 < server.most_in_flight <= 3
    assert [c.tokens for c in first[0]] == [10] * 8
    assert len({c.seed for candidates in first + second for c in candidates}) == 48


def test_a_server_that_ignores_n_is_asked_until_it_is_enough(server):
    (found,) = generator(server, "fewer").sample(ASKED[:1], n=3, seed=0)
    assert [c.text.splitlines()[0] for c in found] == ["0.0", "1.0", "2.0"]
    assert server.requests["fewer"] == 3


def test_candidates_that_never_come_are_marked(server):
    (found,) = generator(server, "dwindling").sample(ASKED[:1], n=3, seed=0)
    assert [c.status for c in found] == ["complete", "failed", "failed"]
    assert [c.tokens for c in found] == [10, 0, 0]


def test_listed_tokens_are_counted(server):
    (found,) = generator(server, "counting").sample(ASKED[:1], n=3, seed=0)
    assert [c.tokens for c in found] == [3, 4, 5]


def test_the_request_carries_what_was_set(server):
    turns = (Message(role="system", content="Be brief."), Message(role="user", content="Why?"))
    sampling = Sampling(temperature=0.5, top_p=0.9, max_tokens=7, stop=("END",))
    settings = {"sampling": sampling, "instruction": "\nBox it.", "extra_body": {"top_k": 3}}
    generator(server, "plain", **settings).sample([Question(messages=turns)], n=2, seed=4)
    sent = server.bodies[-1]
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    assert sent["messages"][1]["content"] == "Why?\nBox it."
    assert (sent["temperature"], sent["top_p"], sent["max_tokens"], sent["stop"]) == (0.5, 0.9, 7, ["END"])
    assert (sent["n"], sent["seed"], sent["top_k"]) == (2, 4, 3)
    completions = {"route": "completions", "template": "Q: {question}\nA:"}
    (found,) = generator(server, "plain", **completions).sample(ASKED[:1], n=2, seed=4)
    assert server.bodies[-1]["prompt"] == "Q: Compute 3 + 4.\nA:"
    assert "stop" not in server.bodies[-1]
    assert found[0].text.endswith("Answer: 7")


def test_the_completions_route_refuses_what_it_has_no_place_for(server, caplog):
    turns = (Message(role="system", content="Be brief."), Message(role="user", content="Why?"))
    asked, errors = generator(server, "one turn", route="completions"), []
    request = (Question(messages=turns), 2, 0, asked.sampling)
    found = call(partial(asked._inner.sample, observe=lambda _, error: errors.append(error)), *request)
    assert [c.status for c in found] == ["failed"] * 2
    assert server.requests["one turn"] == 0
    assert "set route: chat" in caplog.text
    assert [error.status_code for error in errors] == [400]  # by which a gateway knows whose fault it is
    with pytest.raises(ValueError, match="template"):
        generator(server, "plain", route="completions", template="Q: {problem}")


def test_reasoning_taken_out_by_the_server_is_put_back(server):
    (found,) = generator(server, "reasoning").sample(ASKED[:1], n=1, seed=0)
    assert found[0].text.startswith("<think>\nhm\n</think>\n\n0.0")
    (cut,) = generator(server, "cut").sample(ASKED[:1], n=1, seed=0)
    assert cut[0].status == "cut"


def test_overload_and_errors_are_tried_again(server):
    (found,) = generator(server, "flaky").sample(ASKED[:1], n=2, seed=0)
    assert [c.status for c in found] == ["complete"] * 2
    assert server.requests["flaky"] == 3


def test_requests_turned_away_together_do_not_come_back_together(server, monkeypatch):
    pauses = []

    async def pause(seconds):
        pauses.append(seconds)

    monkeypatch.setattr("openai._base_client.anyio.sleep", pause)
    asked = generator(server, "busy", candidates_per_request=1, in_flight=8)
    (found,) = asked.sample(ASKED[:1], n=8, seed=0)
    assert [c.status for c in found] == ["complete"] * 8
    assert len(set(pauses)) == len(pauses) == 8


@pytest.mark.parametrize("way", ["error", "half", "page", "broken", "refusing", "uncounted"])
def test_what_still_fails_is_marked_and_told(server, way, caplog):
    (found,) = generator(server, way, retries=1).sample(ASKED[:1], n=3, seed=0)
    assert [(c.status, c.text) for c in found] == [("failed", None)] * 3
    assert ASKED[0].id in caplog.text


def test_silence_ends_at_the_deadline(server):
    started = time.monotonic()
    (found,) = generator(server, "silent", retries=1, timeout=0.2).sample(ASKED[:1], n=1, seed=0)
    assert found[0].status == "failed"
    assert server.requests["silent"] == 2
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(("timeout", "connect"), [(600, 5), (2, 2)])
def test_a_machine_that_is_gone_is_noticed_before_the_timeout(timeout, connect):
    settings = HttpGeneratorSettings(base_url="http://127.0.0.1:9/v1", model="m", timeout=timeout)
    limits = make_client(settings).timeout
    assert (limits.read, limits.connect) == (timeout, connect)


def test_an_answer_that_drips_ends_at_the_deadline(server, tokenizer):
    (found,) = generator(server, "dripping", retries=0, timeout=0.3).sample(ASKED[:1], n=1, seed=0)
    assert found[0].status == "failed"
    (scored,) = reward(server, "dripping", tokenizer, timeout=0.3).score([(ASKED[0], "one")])
    assert scored.steps is None
    with pytest.raises(ModelError, match="does not answer"):
        generator(server, "dripping from the start", retries=0, timeout=0.3)


def test_seeds_are_sent_only_where_they_are_wanted(server):
    generator(server, "plain", seeds=False).sample(ASKED[:1], n=1, seed=4)
    assert "seed" not in server.bodies[-1]


def test_a_server_that_cannot_serve_is_an_error_at_once(server):
    with pytest.raises(ModelError, match="does not answer"):
        load_generator(HttpGeneratorSettings(base_url="http://127.0.0.1:9/v1", model="m", retries=0))
    with pytest.raises(ModelError, match="serves other, not 'm'"):
        generator(server, "other")
    with pytest.raises(ModelError, match=r"refuses the key in \$MY_KEY"):
        generator(server, "locked", api_key_variable="MY_KEY")


def test_the_key_is_in_no_record(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", "s3cret")
    asked = generator(server, "plain", api_key_variable="MY_KEY")
    assert "s3cret" not in json.dumps(asked.identity) + asked.settings.model_dump_json()


def reward(server, way, tokenizer, **changes):
    values = {"base_url": server.url(way), "model": "m", "retries": 0, "tokenizer": tokenizer} | changes
    return load_reward_model(HttpRewardSettings(**values))


def test_scores_are_read_at_the_marks(server, tokenizer):
    judged = reward(server, "plain", tokenizer, batch_size=2)
    items = [(q, "one\n\ntwo, longer" + "\n\nthree" * k) for k, q in enumerate(ASKED)]
    found = judged.score(items)
    assert [len(f.steps) for f in found] == [2, 3, 4]
    sent = [ids for body in server.bodies[-2:] for ids in body["input"]]
    mark = judged.tokenizer.convert_tokens_to_ids("<extra_0>")
    for one in found:
        assert one.tokens in {len(ids) for ids in sent}
    ids = next(i for i in sent if len(i) == found[0].tokens)
    assert found[0].steps == [k / 1000 for k, token in enumerate(ids) if token == mark]


def test_what_a_reward_model_cannot_score_is_marked(server, tokenizer):
    judged = reward(server, "plain", tokenizer, positions=60)
    long, empty = judged.score([(ASKED[0], "word " * 100), (ASKED[0], " \n\n ")])
    assert (long.steps, long.over_length) == (None, True)
    assert (empty.steps, empty.over_length) == (None, False)


@pytest.mark.parametrize(
    ("answering", "scoring", "positions", "status"),
    [
        ("plain", "nan", 4096, "failed"),
        ("plain", "error", 4096, "failed"),
        ("plain", "half", 4096, "failed"),
        ("empty", "plain", 4096, "failed"),
        ("cut", "plain", 4096, "cut"),
        ("plain", "plain", 10, "over-length"),
    ],
)
def test_a_candidate_without_a_score_is_a_miss_that_cost_its_tokens(
    server, tokenizer, answering, scoring, positions, status
):
    from flows.collect import make_contract, sample_and_score

    answers = generator(server, answering)
    judged = reward(server, scoring, tokenizer, batch_size=1, positions=positions)
    rows = sample_and_score(ASKED[:1], 3, 0, answers, judged, make_contract(answers, judged))
    assert [(r["status"], r["score"], r["step_scores"]) for r in rows] == [(status, None, None)] * 3
    assert [r["completion_tokens"] for r in rows] == [10] * 3
    whole = "" if answering == "empty" else "Answer: 7"
    assert all(r["completion"].endswith(whole) for r in rows)


@pytest.mark.parametrize(("span", "steps"), [("all", 2), ("answer", 1), ("reasoning", 1)])
def test_the_span_says_what_of_a_reasoning_answer_is_sent(server, tokenizer, span, steps):
    from flows.collect import make_contract, sample_and_score

    answers, judged = generator(server, "reasoning"), reward(server, "plain", tokenizer, span=span)
    (row,) = sample_and_score(ASKED[:1], 1, 0, answers, judged, make_contract(answers, judged))
    assert len(row["step_scores"]) == steps
    sent = judged.tokenizer.decode(server.bodies[-1]["input"][0])
    assert ("hm" in sent, "Answer: 7" in sent) == (span != "answer", span != "reasoning")


@pytest.mark.parametrize("way", ["error", "half", "page", "fewer", "silent", "refusing"])
def test_a_reward_model_that_fails_gives_no_score(server, tokenizer, way, caplog):
    (found,) = reward(server, way, tokenizer, timeout=1).score([(ASKED[0], "one\n\ntwo")])
    assert (found.steps, found.over_length) == (None, False)
    assert "got no score" in caplog.text


def test_a_completion_that_is_refused_is_refused_alone(server, tokenizer, caplog):
    texts = ["one\n\ntwo", "word " * 100, "one\n\ntwo\n\nthree"]
    found = reward(server, "strict", tokenizer).score([(ASKED[0], text) for text in texts])
    assert [f.steps and len(f.steps) for f in found] == [2, None, 3]
    assert server.requests["strict"] == 4
    assert "1 completions got no score" in caplog.text


def test_an_answer_of_another_shape_costs_its_own_completion_alone(server, tokenizer, caplog):
    found = reward(server, "odd", tokenizer).score([(q, "one\n\ntwo") for q in ASKED])
    assert [f.steps and len(f.steps) for f in found] == [None, 2, 2]
    assert server.requests["odd"] == 1
    assert "1 completions got no score" in caplog.text


@pytest.mark.parametrize(
    ("completion", "reasoning", "answer"),
    [
        ("<think>\nhm\n</think>\n\n7", "\nhm\n", "\n\n7"),
        ("hm</think>7", "hm", "7"),  # the prompt had opened it
        ("<think>hm", "hm", ""),
        ("7", "", "7"),
    ],
)
def test_spans_of_a_reasoning_model(completion, reasoning, answer):
    assert scored_part(completion, "all") == completion
    assert scored_part(completion, "reasoning") == reasoning
    assert scored_part(completion, "answer") == answer
