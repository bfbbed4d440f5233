"""Faults that a long run meets, made to happen for real."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from data.errors import CollectError, PoolError, TrackingError
from data.pool import Pool
from data.question import Question
from data.questions import write_questions
from flows.config import Config
from tests.helpers import make_pool
from tests.models.faulty_server import FaultyServer
from tests.models.tiny import save_qwen_tokenizer
from tests.servers import free_port, running

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Settings of a generator that misbehaves in some way, and of a reward model in order."""
    server, tokenizer = FaultyServer(), save_qwen_tokenizer(tmp_path_factory.mktemp("tokenizer"))

    def settings(way):
        reward = {"kind": "vllm", "base_url": server.url("plain"), "model": "m", "tokenizer": tokenizer}
        generator = {"kind": "openai", "base_url": server.url(way), "model": "m"}
        return {"generator": generator | ({} if way == "plain" else {"retries": 0}), "reward": reward}

    yield settings
    server.close()


def mlflow_server(folder, port):
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/m.db", "--workers", "1"]
    command += ["--artifacts-destination", f"{folder}/artifacts"]
    # Its job runner would install packages and keep the machine busy.
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return running(command, f"http://127.0.0.1:{port}/health", folder / "mlflow.log", environment)


@pytest.mark.suite
def test_an_mlflow_server_that_goes_away_in_the_middle(trunk, tmp_path):
    from flows.train import train

    make_pool(tmp_path / "pool", questions=60)
    port = free_port()
    lora = {"rank": 2, "alpha": 4, "batch_size": 8, "max_steps": 6, "evaluate_every": 2, "patience": 9}
    tracking = {"uri": f"http://127.0.0.1:{port}", "timeout": 2}
    predictor = {"backbone": trunk, "compare": ["lora"], "family": "beta", "lora": lora}
    config = Config.model_validate({"home": tmp_path, "predictor": predictor, "tracking": tracking})
    with mlflow_server(tmp_path, port) as server:

        def kill_after_the_first_checkpoint():
            while not list(tmp_path.glob("checkpoints/*/checkpoint-2")):
                time.sleep(0.02)
            os.killpg(server.pid, signal.SIGKILL)

        threading.Thread(target=kill_after_the_first_checkpoint, daemon=True).start()
        with pytest.raises(TrackingError, match=str(port)):
            train(config)
    assert list(tmp_path.glob("checkpoints/*/checkpoint-2"))
    with mlflow_server(tmp_path, port):
        assert train(config).version == "1"
    assert not list(tmp_path.glob("checkpoints/*/*"))


@pytest.mark.suite
def test_an_mlflow_server_that_is_silent_is_not_waited_for(tmp_path):
    from flows.tracking import Tracking

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(TrackingError, match=uri):
            Tracking(Config.model_validate({"home": tmp_path, "tracking": {"uri": uri, "timeout": 1}}))


@pytest.mark.suite
def test_a_disk_that_fills_costs_only_the_part_under_way(models, tmp_path):
    """In a process whose files may not grow beyond 4 kB, less than a part."""
    from flows.collect import collect

    asked = [Question.ask(f"Compute {n} + 7 - {n}.", answer="7") for n in range(4)]
    write_questions(asked, tmp_path / "q.jsonl")
    settings = {"questions": (str(tmp_path / "q.jsonl"),), "candidates": 3}
    config = Config.model_validate({"home": tmp_path, "collect": settings, **models("plain")})
    file = tmp_path / "c.json"
    file.write_text(config.model_dump_json())
    bare = [sys.executable, "-m", "tests.flows.collect_bare", str(file)]
    full = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -f 8; exec "$@"', "sh", *bare],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},  # Python renames a cut one into place
    )
    assert "cannot be written, and nothing was added" in full.stderr
    assert not Pool.open(str(tmp_path / "pool")).question_ids
    assert collect(config).candidates == 12
    rows = [(r["question_id"], r["candidate"]) for r in Pool.open(str(tmp_path / "pool")).rows()]
    assert sorted(rows) == sorted((q.id, k) for q in asked for k in range(3))


def test_a_part_that_the_pool_refuses_is_not_sampled_again(models, tmp_path, monkeypatch):
    """Another collection was faster; what it added before a part began is left out of the part."""
    from flows import collect as module

    asked = [Question.ask(f"Compute {n} + 7 - {n}.", answer="7") for n in range(4)]
    write_questions(asked, tmp_path / "q.jsonl")
    settings = {"questions": (str(tmp_path / "q.jsonl"),), "candidates": 3, "part_questions": 2}
    config = Config.model_validate({"home": tmp_path, "collect": settings, **models("plain")})
    sample, other, sampled = module.sample_and_score, [], []

    def overtaken(questions, *rest):
        sampled.append(list(questions))
        rows = sample(questions, *rest)
        if other:
            Pool.open(config.pool_location).append(sample(other.pop(), *rest))
        return rows

    monkeypatch.setattr(module, "sample_and_score", overtaken)
    other.append([asked[2]])  # in the pool when the second part begins
    assert module.collect(config).questions == 3
    assert sampled == [asked[:2], asked[3:]]
    shutil.rmtree(config.pool_location)
    other.append([asked[1]])
    sampled.clear()
    with pytest.raises(PoolError, match="already holds"):
        module.collect(config)
    assert sampled == [asked[:2]]


def test_a_generator_that_fails_keeps_whole_parts_only(models, tmp_path):
    """The pool takes no part with many failed candidates, and goes on when the server is well again."""
    from flows.collect import collect

    asked = [Question.ask(f"Compute {n} + 7 - {n}.", answer="7") for n in range(6)]
    write_questions(asked, tmp_path / "q.jsonl")

    def config(way):
        settings = {
            "questions": (str(tmp_path / "q.jsonl"),),
            "candidates": 4,
            "part_questions": 3,
            "parts_in_flight": 2,
            "retries": 0,
        }
        return Config.model_validate({"home": tmp_path, "collect": settings, **models(way)})

    for way in ("error", "empty", "half"):
        with pytest.raises(CollectError, match=r"12 of 12 candidates failed"):
            collect(config(way))
        assert not Pool.open(str(tmp_path / "pool")).question_ids
    found = collect(config("plain"))
    assert (found.questions, found.candidates, found.failed) == (6, 24, 0)
    assert collect(config("plain"))[:2] == (0, 0)  # all are there
    assert all(row["correct"] for row in Pool.open(str(tmp_path / "pool")).rows())
