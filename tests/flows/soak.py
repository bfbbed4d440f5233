"""``make soak``: SIGKILLs at random moments of collect, train and ship; what must hold after each one.

The pool holds whole questions, each once, and loses none; the champion's alias names no bundle that is
not there; no process is left behind; after the last kill every command ends well and the champion's
bundle starts and answers. ``python -m tests.flows.soak 13 ship`` kills one command only.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import psutil

from data.pool import Pool
from data.question import Question
from data.questions import write_questions
from flows.config import Config, enter_home
from serving.schemas import EXAMPLE
from tests.helpers import make_pool

CANDIDATES = 3
SHARES = {"collect": 2, "train": 1, "ship": 1}


def command(name: str, config: Path, pool: Path) -> list[str]:
    return [sys.executable, "-m", "flows.cli", name, "-c", str(config), "--pool", str(pool)]


def run(line: list[str]) -> None:
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)


def kill_at_random(line: list[str], seconds: float, rng: random.Random) -> bool:
    """Start, kill after up to ``seconds``; False where the command had already ended, and well."""
    process = subprocess.Popen(
        line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        assert process.wait(rng.uniform(0.3, 1) * seconds) == 0, line
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True


def nothing_is_left_behind(home: Path, seconds: float = 60) -> None:
    """Wait for servers to end that a killed command had started; they inherit its state folder."""

    def left() -> list[list[str]]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.pid != os.getpid() and process.environ().get("OPTSCALE_HOME") == str(home):
                    found.append(process.cmdline())
        return found

    deadline = time.monotonic() + seconds
    while (running := left()) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not running, running


def soak(line: Callable[[int], list[str]], kills: int, rng: random.Random, holds: Callable[[], None]) -> None:
    """Time one whole run, then kill later ones at random moments of it; the last one may end."""
    started, done = time.monotonic(), 0
    run(line(0))
    whole = time.monotonic() - started
    number = 0
    while done < kills:
        done += kill_at_random(line(1 + number // 3), whole, rng)
        number += 1
        holds()
        print(f"{done} of {kills} runs killed", end="\r", flush=True)
    run(line(1 + number // 3))
    holds()
    name = line(0)[3]
    print(f"{name}: {done} runs killed, {number - done} ended before; {whole:.0f} s a run", flush=True)


def link_backbones(home: Path) -> None:
    """Converted models are kept between runs, and made where there are none."""
    kept = Path(".optscale/backbones").resolve()
    kept.mkdir(parents=True, exist_ok=True)
    (home / "backbones").symlink_to(kept)


def main(kills: dict[str, int], home: Path) -> None:
    from bentoml import list as list_bentos

    rng = random.Random(0)
    asked = [Question.ask(f"Compute {n} + {n % 7 + 1}.", answer=str(n + n % 7 + 1)) for n in range(3, 803)]
    write_questions(asked, home / "q.jsonl")
    lora = {"rank": 2, "alpha": 4, "batch_size": 8, "max_steps": 8, "evaluate_every": 2, "patience": 9}
    config = Config.model_validate(
        {
            "home": home,
            "collect": {
                "candidates": CANDIDATES,
                "part_questions": 2,
                "questions": (str(home / "q.jsonl"),),
                "limit": 12,
            },
            "predictor": {"kind": "lora", "compare": ["lora"], "lora": lora},
            "policy": {"kind": "value", "cap": 6, "target": 0.9},
            "goal": {"lose": 0.3},
            "certify": {"orders": 2},
            "gate": {"mean_skill": -9, "std_skill": -9, "evidence_gain": -9, "refutation_level": 1e-9},
        }
    )
    enter_home(config)
    file = home / "config.json"
    file.write_text(config.model_dump_json())
    collected, made = home / "collected", home / "pool"
    make_pool(made, questions=80)
    seen: set[str] = set()

    def pool_is_whole() -> None:
        nonlocal seen
        nothing_is_left_behind(home)
        rows = [(r["question_id"], r["candidate"]) for r in Pool.open(str(collected)).rows()]
        ids = {question for question, _ in rows}
        assert len(rows) == len(set(rows)) == CANDIDATES * len(ids)
        assert seen <= ids != set()
        seen = ids

    def champion_is_there() -> None:
        from flows.tracking import CHAMPION, Tracking

        nothing_is_left_behind(home)
        tracking = Tracking(config)
        version = tracking.find(CHAMPION)
        if version is not None:
            named.append(tracking.tags(version)["bundle"])
            assert named[-1] in {str(b.tag) for b in list_bentos()}

    named: list[str] = []

    def train(number: int) -> list[str]:
        # Three runs share a seed, so that they go on from each other's checkpoints.
        return [*command("train", file, made), "-s", f"predictor.lora.seed={number}"]

    if kills.get("collect"):
        soak(lambda _: command("collect", file, collected), kills["collect"], rng, pool_is_whole)
    if kills.get("train"):
        soak(train, kills["train"], rng, champion_is_there)
    if kills.get("ship"):
        run(train(0))
        run(command("validate", file, made))
        soak(lambda _: command("ship", file, made), kills["ship"], rng, champion_is_there)
        from serving.bento import serve_bento

        with serve_bento(named[-1]) as url:
            asked = {"request": {"question": EXAMPLE, "scores": [0.5]}}
            answer = httpx.post(f"{url}/decide", json=asked, timeout=60).raise_for_status().json()
            print(f"champion {named[-1]} of {len(set(named))} answers: {answer['action']}", flush=True)


if __name__ == "__main__":
    total = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    names = sys.argv[2:] or list(SHARES)
    parts = sum(SHARES[name] for name in names)
    shared_out = {name: -(-total * SHARES[name] // parts) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        link_backbones(Path(folder))
        main(shared_out, Path(folder).resolve())
