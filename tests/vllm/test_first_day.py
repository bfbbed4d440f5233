"""``make test-vllm``: a newcomer's first day, `init`, `pilot` and a gateway, with two real vLLM servers."""

import json
import os
import subprocess
import sys

import pytest
from openai import OpenAI

from data.questions import write_questions
from tests.conftest import ROOT
from tests.servers import free_port, running
from tests.vllm.test_vllm import EASY, export, serve, serve_qwen

BUDGET = 60_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("first-day")


@pytest.fixture(scope="module")
def optscale(folder):
    """Runs a command as a user does, from a folder of its own; gives its environment and what it prints."""
    environment = {**os.environ, "OPTSCALE_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}

    def run(*words):
        command = [sys.executable, "-m", "flows.cli", *words]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run.environment = environment
    return run


@pytest.fixture(scope="module")
def config(folder, optscale):
    (folder / "prm").mkdir()
    export(folder / "solver")
    options = ("--dtype", "bfloat16", "--max-model-len", "512")
    with (
        serve(folder / "solver", "solver", folder / "solver.log", *options) as (solver, _),
        serve_qwen(folder / "prm") as (prm, _),
    ):
        urls = ("--generator", solver, "--reward", prm, "--tokenizer", str(folder / "prm"))
        told = json.loads(optscale("init", *urls, "--output", "config.yaml", "--json"))
        assert told["generator"]["model"] == "solver"
        assert all(0 <= score <= 1 for score in told["reward"]["step_scores"])
        yield folder / "config.yaml"


SHORT = ("generator.sampling.max_tokens=96", "generator.seeds=false")
"""The server has 512 positions, and takes no seeds (see test_gateway.py)."""


def test_a_pilot_keeps_to_its_budget_and_tells_what_was_seen(config, optscale, folder):
    write_questions(EASY, folder / "q.jsonl")
    asked = ("--questions", "q.jsonl", "--budget", str(BUDGET), "-s", "policy.cap=8")
    asked += tuple(word for setting in SHORT for word in ("-s", setting))
    found = json.loads(optscale("pilot", "-c", str(config), *asked, "--json"))
    assert found["questions"] == len(EASY)
    assert found["tokens"] * found["questions"] * found["candidates"] <= BUDGET
    assert found["accuracy"]["single"]["mean"] > 0.5
    assert found["keep_verifier"] is not None


def test_the_gateway_starts_with_what_init_wrote(config, optscale, folder):
    port = free_port()
    settings = [f"serve.port={port}", "policy.cap=4", *(f"gateway.{setting}" for setting in SHORT)]
    command = [sys.executable, "-m", "flows.cli", "serve", "-c", str(config)]
    command += [word for setting in settings for word in ("-s", setting)]
    health = f"http://127.0.0.1:{port}/readyz"
    with running(command, health, folder / "gateway.log", optscale.environment):
        client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
        answer = client.chat.completions.create(model="solver", messages=EASY[0].as_chat())
    assert answer.choices[0].message.content.strip()
    assert (answer.optscale["drawn"], answer.optscale["promise"]) == (4, None)
