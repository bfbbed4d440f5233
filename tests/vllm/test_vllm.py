"""``make test-vllm``: real vLLM on the CPU, servers of the solver and of two PRMs and the engine alone."""

import gc
import json
import os
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from data.answers import is_correct
from data.errors import CollectError, ModelError
from data.pool import Pool
from data.question import Question
from data.questions import write_questions
from flows.adapters import export
from flows.config import load_config
from models.load import load_reward_model
from models.reward.steps import find_convention
from models.settings import HttpRewardSettings, LocalRewardSettings, VllmGeneratorSettings
from tests.models.by_hand import qwen_by_hand, shepherd_by_hand
from tests.models.tiny import save_classifier, save_qwen_prm, save_shepherd
from tests.servers import free_port, running

VLLM = Path(__file__).parents[2] / ".venv-vllm" / "bin" / "vllm"
EASY = [Question.ask(f"Compute {a} + {b}.", answer=str(a + b)) for a in range(2, 9) for b in (1, 2, 3)]


@contextmanager
def serve(model, name, log, *options):
    """A vLLM server until the block ends; gives its base URL and process."""
    port = free_port()
    command = [str(VLLM), "serve", str(model), "--served-model-name", name, "--host", "127.0.0.1"]
    command += ["--port", str(port), "--enforce-eager", "--max-num-seqs", "128", *options]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_NO_USAGE_STATS": "1"}
    environment.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{(os.cpu_count() or 1) - 1}")
    with running(command, f"http://127.0.0.1:{port}/health", log, environment) as process:
        yield f"http://127.0.0.1:{port}/v1", process


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("vllm")


@pytest.fixture(scope="module")
def solver(folder):
    export(folder / "solver")
    options = ("--dtype", "bfloat16", "--max-model-len", "512")
    with serve(folder / "solver", "solver", folder / "solver.log", *options) as running:
        yield running


def serve_qwen(folder):
    model = save_qwen_prm(folder)
    # The real model's mark is vLLM's default; the tiny one's tokenizer numbers it otherwise.
    mark = AutoTokenizer.from_pretrained(model).convert_tokens_to_ids("<extra_0>")
    steps = json.dumps({"tok_pooling_type": "STEP", "step_tag_id": mark})
    return serve(model, "prm", folder / "log", *POOLING, "--pooler-config", steps)


def serve_shepherd(folder):
    """As models/README.md says, with the tiny tokenizer's mark."""
    model = save_shepherd(folder)
    mark = AutoTokenizer.from_pretrained(model).convert_tokens_to_ids("▁ки")
    steps = json.dumps({"task": "token_classify", "tok_pooling_type": "STEP", "step_tag_id": mark})
    head = json.dumps({"classifier_from_token": ["▁+", "▁-"], "method": "no_post_processing"})
    options = ("--convert", "classify", "--hf-overrides", head, "--pooler-config", steps)
    return serve(model, "prm", folder / "log", *POOLING, *options)


POOLING = ("--runner", "pooling", "--dtype", "float32")
PRMS = {"qwen": (serve_qwen, qwen_by_hand, "\n\n"), "math-shepherd": (serve_shepherd, shepherd_by_hand, "\n")}


@pytest.fixture(scope="module", params=PRMS)
def prm(request, folder):
    """A PRM on /pooling, as reward settings; its scores by hand; what parts its steps."""
    start, by_hand, blank = PRMS[request.param]
    model = folder / request.param
    model.mkdir()
    with start(model) as (url, _):
        settings = {"base_url": url, "model": "prm", "tokenizer": str(model), "convention": request.param}
        yield HttpRewardSettings(**settings), by_hand, blank


@pytest.mark.parametrize(("classes", "raw"), [(2, False), (2, True), (1, False)])
def test_a_classifier_gives_the_scores_of_its_own_softmax(folder, classes, raw):
    """``raw``: of a server that applies no activation, whose logits are refused as probabilities."""
    model = folder / f"classifier-{classes}-{raw}"
    model.mkdir()
    save_classifier(model, classes)
    options = ("--pooler-config", json.dumps({"use_activation": False})) if raw else ()
    texts = ["3 + 4 = 7\n\nAnswer: 7", "3 + 4 = 9", "Who knows?"]
    items = [(Question.ask("Compute 3 + 4."), text) for text in texts]
    network = AutoModelForSequenceClassification.from_pretrained(model).eval()
    with serve(model, "orm", model / "log", *POOLING, *options) as (url, _):
        settings = {"base_url": url, "model": "orm", "tokenizer": str(model), "route": "classify"}
        if raw:
            with pytest.raises(ModelError, match=r"not probabilities that sum to one\. Set reward\.values"):
                load_reward_model(HttpRewardSettings(**settings)).score(items)
            settings["values"] = "logits"
        judged = load_reward_model(HttpRewardSettings(**settings))
        for (question, text), found in zip(items, judged.score(items), strict=True):
            ids = judged._inner.convention.encode_completion(judged.tokenizer, question, text)["input_ids"]
            logits = network(torch.tensor([ids])).logits[0].detach()
            right = logits.softmax(0)[1] if classes == 2 else logits.sigmoid()[0]
            assert found.steps == pytest.approx([float(right)], abs=2e-3)
        if classes == 1:
            pairs = load_reward_model(HttpRewardSettings(**(settings | {"route": "score"}))).score(items)
            assert len({one.steps[0] for one in pairs}) == 3
            assert all(0 <= one.steps[0] <= 1 for one in pairs)


@pytest.fixture(scope="module", autouse=True)
def prefect_server():
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


def config(home, base_url, questions, *more):
    write_questions(questions, home / "q.jsonl")
    overrides = (
        f"home={home}",
        f"generator.base_url={base_url}",
        f"collect.questions=[{home / 'q.jsonl'}]",
        "collect.candidates=8",
        "collect.part_questions=4",
    )
    return load_config("flows/configs/local-vllm.yaml", (*overrides, *more))


def test_collect_drives_the_solver(solver, tmp_path):
    from flows.collect import collect, make_contract
    from models.load import load_generator

    found = collect(config(tmp_path, solver[0], EASY))
    assert (found.questions, found.candidates) == (len(EASY), 8 * len(EASY))
    pool = Pool.open(str(tmp_path / "pool"))
    rows = list(pool.rows())
    assert sum(is_correct(r["completion"], r["answer"]) for r in rows) > 0.8 * len(rows)
    tokenizer = load_reward_model(LocalRewardSettings()).tokenizer
    for row in rows[:20]:
        assert row["completion_tokens"] == len(tokenizer(row["completion"]).input_ids) + 1
    local = load_config()
    here = make_contract(load_generator(local.generator), load_reward_model(local.reward))
    assert pool.manifest.contract == here


@pytest.fixture
def engine(monkeypatch):
    """Settings of the engine in a process of its own."""
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "2")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", f"0-{(os.cpu_count() or 1) - 1}")
    options = {"max_model_len": 512, "enforce_eager": True, "max_num_seqs": 128}
    python = str(VLLM.with_name("python"))
    return {"kind": "vllm-offline", "python": python, "dtype": "bfloat16", "seeds": False, "options": options}


def test_collect_drives_the_engine_without_a_server(engine, tmp_path):
    from flows.collect import collect, make_contract
    from models.load import load_generator

    write_questions(EASY, tmp_path / "q.jsonl")
    draws = {"questions": [str(tmp_path / "q.jsonl")], "candidates": 8, "part_questions": 32}
    settings = (f"home={tmp_path}", f"generator={json.dumps(engine)}", f"collect={json.dumps(draws)}")
    found = collect(load_config(None, settings))
    assert (found.questions, found.candidates) == (len(EASY), 8 * len(EASY))
    pool = Pool.open(str(tmp_path / "pool"))
    rows = list(pool.rows())
    assert sum(is_correct(r["completion"], r["answer"]) for r in rows) > 0.8 * len(rows)
    local = load_config()
    tokenizer = load_reward_model(local.reward).tokenizer
    for row in rows[:20]:
        assert row["completion_tokens"] == len(tokenizer(row["completion"]).input_ids) + 1
    here = make_contract(load_generator(local.generator), load_reward_model(local.reward))
    assert pool.manifest.contract == here  # as in this process, so that one pool may have both


def test_the_engine_stops_where_it_is_told_and_leaves_out_what_is_too_long(engine):
    from models.generator.vllm_offline import VllmGenerator

    sampling = {"temperature": 0, "max_tokens": 40, "stop": ["\n"]}
    made = VllmGenerator(VllmGeneratorSettings.model_validate(engine | {"sampling": sampling}))
    process = made._process
    long = Question.ask("Compute " + " + ".join(["17"] * 400) + ".")
    one, none, cut = made.sample([EASY[0], long, Question.ask("Tell a story.")], n=2, seed=0)
    assert {(c.status, "\n" in c.text) for c in one} == {("complete", False)}
    assert {(c.status, c.text, c.tokens) for c in none} == {("failed", None, 0)}
    assert len(cut) == 2
    made.sampling = made.sampling.model_copy(update={"max_tokens": 2})
    assert {(c.status, c.tokens) for c in made.sample(EASY[:1], n=2, seed=0)[0]} == {("cut", 2)}
    made.sampling = made.sampling.model_copy(update={"max_tokens": 12, "temperature": 1.0, "stop": ()})
    (drawn,) = made.sample([Question.ask("Compute 913 - 488 + 377 - 129 + 75.")], n=8, seed=0)
    assert len({c.text for c in drawn}) > 1
    del made
    gc.collect()
    assert process.wait(60) is not None


def test_pooling_gives_the_scores_of_the_model_card(prm):
    settings, by_hand, blank = prm
    steps = [f"{a} + {b} = {a + b}" for a in (3, 4) for b in (1, 2)]
    cases = [(q, steps[: 1 + n % 4]) for n, q in enumerate(EASY[:8])]
    found = load_reward_model(settings).score([(q, blank.join(parts)) for q, parts in cases])
    for scored, (question, parts) in zip(found, cases, strict=True):
        assert scored.steps == pytest.approx(by_hand(settings.tokenizer, question.text, parts), abs=2e-3)


def test_collect_with_both_models_behind_servers(solver, prm, tmp_path):
    from flows.collect import collect

    settings, by_hand, _ = prm
    reward = f"reward={settings.model_dump_json()}"
    found = collect(config(tmp_path, solver[0], EASY, reward))
    assert (found.questions, found.failed) == (len(EASY), 0)
    rows = list(Pool.open(str(tmp_path / "pool")).rows())
    for row in rows[::40]:
        steps = find_convention(settings.convention).split(row["completion"])
        expected = by_hand(settings.tokenizer, row["messages"][0]["content"], steps)
        assert row["step_scores"] == pytest.approx(expected, abs=2e-3)
        assert row["score"] == pytest.approx(sum(expected) / len(expected), abs=2e-3)


def test_a_server_that_is_killed_costs_only_the_part_under_way(folder, tmp_path):
    from flows.collect import collect

    if not (folder / "solver").exists():
        export(folder / "solver")
    options = ("--dtype", "bfloat16", "--max-model-len", "512")
    quick = ("generator.retries=0", "collect.retries=0", "collect.part_questions=2")
    with serve(folder / "solver", "solver", folder / "killed.log", *options) as (url, process):
        settings = config(tmp_path, url, EASY, *quick)
        location = tmp_path / "pool" / "manifest.json"

        def kill_after_the_first_part():
            while not location.exists() or '"file"' not in location.read_text():
                time.sleep(0.02)
            os.killpg(process.pid, signal.SIGKILL)

        threading.Thread(target=kill_after_the_first_part, daemon=True).start()
        with pytest.raises(CollectError, match="failed_share"):
            collect(settings)
    kept = Pool.open(str(tmp_path / "pool")).question_ids
    assert 0 < len(kept) < len(EASY)
    with serve(folder / "solver", "solver", folder / "again.log", *options) as (url, _):
        assert collect(config(tmp_path, url, EASY, *quick)).questions == len(EASY) - len(kept)
    rows = list(Pool.open(str(tmp_path / "pool")).rows())
    assert len(rows) == len({(r["question_id"], r["candidate"]) for r in rows}) == 8 * len(EASY)
