"""``make soak``: SIGKILLs at random moments of collect, train and ship; what must hold after each one.

The pool holds whole questions, each once, and loses none; the champion's alias names no bundle that is
not there; after the last kill every command ends well and the champion's bundle starts and answers.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from data.pool import Pool
from data.questions import write_questions
from flows.config import Config, enter_home
from predictor.question import Question
from tests.helpers import make_pool

CANDIDATES = 3


def command(name: str, config: Path, pool: Path) -> list[str]:
    return [f"{Path(sys.executable).parent}/optscale", name, "-c", str(config), "--pool", str(pool)]


def kill_at_random(line: list[str], seconds: float, rng: random.Random) -> bool:
    """Start, kill after up to ``seconds``; False where the command had already ended."""
    process = subprocess.Popen(
        line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        process.wait(rng.uniform(0.3, 1) * seconds)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True


def soak(line: Callable[[int], list[str]], kills: int, rng: random.Random, holds: Callable[[], None]) -> None:
    """Time one whole run, then kill later ones at random moments of it; the last one may end."""
    started, done = time.monotonic(), 0
    subprocess.run(line(0), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    whole = time.monotonic() - started
    for number in range(kills):
        done += kill_at_random(line(1 + number // 3), whole, rng)
        holds()
    subprocess.run(line(1 + kills // 3), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    holds()
    print(f"{line(0)[1]}: {done} of {kills} killed before their end, {whole:.0f} s a run", flush=True)


def main(kills: int, home: Path) -> None:
    from bentoml import list as list_bentos

    rng = random.Random(0)
    asked = [Question.ask(f"Compute {n} + {n % 7 + 1}.", answer=str(n + n % 7 + 1)) for n in range(3, 403)]
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
            "predictor": {"lora": lora},
            "gate": {"mean_skill": -9, "std_skill": -9, "evidence_gain": -9, "refuted": 1e-9},
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
        rows = [(r["question_id"], r["candidate"]) for r in Pool.open(str(collected)).rows()]
        ids = {question for question, _ in rows}
        assert len(rows) == len(set(rows)) == CANDIDATES * len(ids)
        assert seen <= ids
        seen = ids

    def champion_is_there() -> None:
        from flows.tracking import CHAMPION, Tracking

        tracking = Tracking(config)
        version = tracking.find(CHAMPION)
        if version is not None:
            assert tracking.tags(version)["bundle"] in {str(b.tag) for b in list_bentos()}

    def train(number: int) -> list[str]:
        # Three kills share a seed, so that they go on from each other's checkpoints.
        return [*command("train", file, made), "-s", f"predictor.lora.seed={number}"]

    soak(lambda _: command("collect", file, collected), kills // 2, rng, pool_is_whole)
    soak(train, kills // 4, rng, champion_is_there)
    subprocess.run(command("validate", file, made), check=True, stdout=subprocess.DEVNULL)
    soak(lambda _: command("ship", file, made), kills - kills // 2 - kills // 4, rng, champion_is_there)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "backbones").symlink_to(Path(".optscale/backbones").resolve())
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 50, Path(folder))
