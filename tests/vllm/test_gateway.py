"""``make test-vllm``: the gateway between OpenAI's client and two real vLLM servers on the CPU."""

import asyncio
import json
import subprocess

import jsonschema_rs
import openai
import pytest

from data.answers import is_correct
from data.contract import Sampling, ScoreContract
from models.settings import HttpGeneratorSettings, HttpRewardSettings
from predictor.policies import Schedule
from serving.bundle import write_card
from serving.chat import ChatRequest
from serving.settings import GatewaySettings, LogSettings
from tests.serving.conftest import make_bundle, make_card, serve
from tests.serving.test_drop_in import VLLM as KNOWN
from tests.vllm.test_vllm import EASY, VLLM, export, serve_qwen
from tests.vllm.test_vllm import serve as serve_vllm

TWO = {"optscale": {"cap": 2}}
POLICY = Schedule(target=0.9, cap=8, start=2)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gateway")
    for part in ("bundle", "checkpoints", "served", "prm"):
        (folder / part).mkdir()
    make_bundle(folder / "bundle", folder / "checkpoints")
    export(folder / "solver")
    options = ("--dtype", "bfloat16", "--max-model-len", "512")
    options += ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")  # else no tool can be named
    with (
        serve_vllm(folder / "solver", "solver", folder / "solver.log", *options) as (solver, _),
        serve_qwen(folder / "prm") as (prm, _),
    ):
        sampling = Sampling(temperature=0.8, top_p=1.0, max_tokens=96)
        settings = GatewaySettings(
            generator=HttpGeneratorSettings(
                base_url=solver,
                model="solver",
                seeds=False,  # vLLM 0.32 on a CPU dies of a seed when it prefills in chunks
                extra_body={"return_token_ids": True},
                sampling=sampling,
            ),
            reward=HttpRewardSettings(base_url=prm, model="prm", tokenizer=str(folder / "prm")),
            log=LogSettings(explore=0),
        )
        contract = ScoreContract(
            generator="solver",
            generator_revision="unspecified",
            prompt_template="the server's",
            sampling=sampling,
            reward_model="prm",
            reward_revision="unspecified",
            markup="qwen",
            aggregation="mean",
        )
        card = make_card(policy=POLICY).model_copy(update={"contract": contract})
        write_card(folder / "bundle", card)
        with (
            serve(folder / "bundle", settings, folder / "served") as (url, _),
            openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
        ):
            yield client


def ask(client, question, **more):
    return client.chat.completions.create(model="solver", messages=question.as_chat(), **more)


def test_answers_are_the_best_of_what_the_solver_gave(client):
    for question in EASY[:6]:
        found = ask(client, question)
        told = found.optscale
        assert told["ended"] == "decided"
        assert told["degraded"] == []
        assert 2 <= told["drawn"] <= POLICY.cap
        assert told["score"] == max(told["scores"])
        assert found.usage.completion_tokens == told["tokens"]["generated"] > 0
        assert told["tokens"]["reward"] > 0


def test_the_asynchronous_client_gets_right_answers(client):
    async def main():
        async with openai.AsyncOpenAI(base_url=client.base_url, api_key="none", max_retries=0) as many:
            return await asyncio.gather(*(ask(many, question, extra_body=TWO) for question in EASY))

    found = asyncio.run(main())
    right = [is_correct(f.choices[0].message.content, q.answer) for f, q in zip(found, EASY, strict=True)]
    assert sum(right) > 0.7 * len(EASY)


def test_a_stream_and_candidates_in_flight_ahead(client):
    chunks = list(
        ask(
            client,
            EASY[0],
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"optscale": {"ahead": 4, "target": 0.99}},
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices).strip()
    assert chunks[-2].optscale["ended"] == "decided"
    assert chunks[-1].usage.completion_tokens > 0


SUM = {
    "type": "object",
    "properties": {"sum": {"enum": ["three", "four"]}, "sure": {"type": "boolean"}},
    "required": ["sum", "sure"],
    "additionalProperties": False,
}


def test_a_named_tool_is_called_by_guided_decoding(client):
    tool = {"type": "function", "function": {"name": "tell", "strict": True, "parameters": SUM}}
    named = {"type": "function", "function": {"name": "tell"}}
    found = ask(client, EASY[0], tools=[tool], tool_choice=named)
    (call,) = found.choices[0].message.tool_calls
    assert call.function.name == "tell"
    assert jsonschema_rs.is_valid(SUM, json.loads(call.function.arguments))
    assert found.optscale["passthrough"].startswith("tools (")


def test_json_by_guided_decoding_goes_through_best_of_n(client):
    form = {"type": "json_schema", "json_schema": {"name": "sum", "schema": SUM}}
    found = ask(client, EASY[0], response_format=form, extra_body={"optscale": {"return_candidates": True}})
    assert jsonschema_rs.is_valid(SUM, json.loads(found.choices[0].message.content))
    told = found.optscale
    assert (told["degraded"], told["promise"]) == ([], None)
    keys = [candidate["answer"] for candidate in told["candidates"]]
    assert told["votes"] == keys.count(keys[0]) if len(set(keys)) == 1 else 1 <= told["votes"] < len(keys)


def test_every_field_of_vllms_own_request_type_is_known():
    module = "vllm.entrypoints.openai.chat_completion.protocol"
    command = f"from {module} import ChatCompletionRequest as r; print(*r.model_fields)"
    printed = subprocess.run(
        [VLLM.parent / "python", "-c", command], capture_output=True, text=True, check=True
    )
    fields = printed.stdout.splitlines()[-1].split()
    assert set(fields) - ChatRequest.model_fields.keys() == set(KNOWN.split())


def test_what_the_generator_takes_no_seed_for_is_refused(client):
    with pytest.raises(openai.BadRequestError, match="seed"):
        ask(client, EASY[0], seed=1)


def test_a_deadline_that_nothing_can_meet_is_told(client):
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client, EASY[0], extra_body={"optscale": {"deadline": 0.005}})
    assert caught.value.status_code == 504
    assert ask(client, EASY[1]).choices[0].message.content
