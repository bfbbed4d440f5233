"""``make load``: many requests against the served bundle, while its upstreams misbehave and die.

``python -m tests.serving.load faults 10000``, ``… clients 64 300`` (seconds) and ``… described 700``
(cases of each operation); all traffic stays on this machine.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil

from serving.settings import LogSettings
from tests.servers import free_port
from tests.serving.conftest import gateway_settings, make_bundle, serve, workers
from tests.serving.fuzz import fuzz
from tests.serving.upstream import SCORE

PLAIN = [f"Compute {n} + {n % 7}." for n in range(100)]
# Where the generator or the reward model misbehaves, and what is a right end of such a request.
GENERATOR = {
    "error": {502},
    "busy": {502},
    "page": {502},
    "broken": {502},
    "half": {502},
    "hang up": {502},
    "refusing": {400},
    "locked": {502},
    "silent": {504},
    "fewer": {200},
    "slow": {200},
    "empty": {502},
    "refused": {502},
    "cut": {200},
}
REWARD = ("error", "busy", "page", "broken", "half", "hang up", "silent", "nan", "fewer", "slow")
DEADLINE = 8.0
LATE = 6.0  # seconds that a loaded machine may add: a request also waits for the gateway's processor


def question(chance: random.Random, share: float) -> tuple[str, set[int]]:
    """A question, and the statuses that are right for it."""
    text = chance.choice(PLAIN)
    if chance.random() >= share:
        return text, {200}
    if chance.random() < 0.5:
        way = chance.choice(sorted(GENERATOR))
        return f"[{way}] {text}", GENERATOR[way] | {504}  # the deadline may come while it is tried again
    return f"[reward {chance.choice(REWARD)}] {text}", {200}


async def ask(client: httpx.AsyncClient, text: str, right: set[int], **options) -> tuple[int, str]:
    """One request; the status and what is wrong with its end, if anything."""
    started = time.monotonic()
    body = {"model": "m", "messages": [{"role": "user", "content": text}], "stream": len(text) % 4 == 0}
    answer = await client.post(
        "/v1/chat/completions", json={**body, "optscale": {"deadline": DEADLINE, **options}}
    )
    status, spent = answer.status_code, time.monotonic() - started
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data:")]
    error = answer.json()["error"] if status != 200 else None
    if lines and "error" in (first := json.loads(lines[0])):  # a stream has begun with 200 by then
        status, error = int(first["error"]["code"]), first["error"]
    if spent > DEADLINE + LATE:
        return status, f"{spent:.1f} s, later than its deadline"
    if status not in right:
        return status, f"ended with {status}, not {right}: {answer.text}"
    if error:
        return status, "" if error["message"] else f"an error without a message: {answer.text}"
    if not body["stream"]:
        found = answer.json()
        return status, _wrong(text, found["choices"][0]["message"]["content"], found["optscale"])
    if lines.pop() != "[DONE]":
        return status, f"half a stream: {answer.text}"
    chunks = [json.loads(line) for line in lines]
    content = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    return status, _wrong(text, content, chunks[-1]["optscale"])


def _wrong(text: str, content: str, explanation: dict) -> str:
    if content and not content.startswith(text):
        return f"got the answer {content!r}"
    if explanation["score"] is not None:
        if (
            explanation["explored"] is False
            and explanation["ended"] != "deadline"
            and explanation["score"] != max(s for s in explanation["scores"] if s is not None)
        ):
            return f"score {explanation['score']} is not the best of {explanation['scores']}"
        if abs(float(SCORE.findall(content)[-1]) - explanation["score"]) > 1e-3:
            return f"score {explanation['score']} is not that of {content!r}"
    elif not explanation["degraded"] and "[empty]" not in text and "[cut]" not in text:
        return "no score, and nothing said of it"
    return ""


async def many(url: str, count: int, clients: int, share: float, anything: bool = False) -> Counter:
    """``count`` requests from ``clients`` at once; raises AssertionError at the first wrong end.

    ``anything``: upstreams are killed, so that any request may meet one that is away.
    """
    chance, left, ends = random.Random(0), iter(range(count)), Counter()

    async def client_loop() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            for _ in left:
                text, right = question(chance, share)
                options = {"ahead": chance.choice([0, 0, 3])}
                if anything:
                    right = right | {200, 502, 503, 504}
                status, wrong = await ask(client, text, right, **options)
                assert not wrong, f"{text}: {wrong}"
                ends[status] += 1
                if ends.total() % 1000 == 0:
                    print(f"{ends.total()} of {count}: {dict(ends)}", flush=True)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client_loop())
    return ends


@contextlib.contextmanager
def upstream_process(tokenizer: str, port: int):
    """An upstream that can be killed and started again; gives both as one function."""
    command = [sys.executable, "-m", "tests.serving.upstream", tokenizer, str(port)]

    def start() -> subprocess.Popen:
        started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert started.stdout.readline().strip() == str(port)
        return started

    held = [start()]

    def kill_and_start(pause: float) -> None:
        held[0].send_signal(signal.SIGKILL)
        held[0].wait()
        time.sleep(pause)
        held[0] = start()

    try:
        yield kill_and_start
    finally:
        held[0].kill()
        held[0].wait()


async def kill_now_and_then(kills: list, until: asyncio.Task) -> int:
    """Kill one upstream after the other until the task ends."""
    chance, done = random.Random(1), 0
    while not until.done():
        await asyncio.sleep(chance.uniform(2, 5))
        await asyncio.to_thread(chance.choice(kills), chance.uniform(0, 1))
        done += 1
    return done


def settle(url: str, gateway: psutil.Process, files: int) -> None:
    """Nothing is under way any more, and connections that idle are closed."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        under_way = httpx.get(f"{url}/health", timeout=30).json()["requests"]
        if not under_way and gateway.num_fds() <= files + 8:
            return
        time.sleep(0.5)
    raise AssertionError(f"{under_way} requests under way, {gateway.num_fds()} open files, {files} at first")


def faults(count: int, folder: Path, tokenizer: str, bundle: Path) -> None:
    """``count`` requests while upstreams misbehave, half of them while they are killed as well."""
    ports = free_port(), free_port()
    log = LogSettings(folder=str(folder / "decisions"), explore=0.05)
    urls = [f"http://127.0.0.1:{port}/plain/v1" for port in ports]
    settings = gateway_settings(*urls, tokenizer, log=log)
    with (
        upstream_process(tokenizer, ports[0]) as kill_generator,
        upstream_process(tokenizer, ports[1]) as kill_reward,
        serve(bundle, settings, folder) as (url, process),
    ):
        gateway = workers(process)["optscale"]
        asyncio.run(many(url, 64, 16, 0))
        files = gateway.num_fds()

        async def main() -> None:
            started = time.monotonic()
            ends = await many(url, count // 2, 24, 0.5)
            print(
                f"{count // 2} requests, half with a fault: {dict(ends)}, {time.monotonic() - started:.0f} s"
            )
            killed = asyncio.create_task(many(url, count - count // 2, 24, 0.3, anything=True))
            kills = await kill_now_and_then([kill_generator, kill_reward], killed)
            print(f"{count - count // 2} requests, {kills} kills: {dict(await killed)}", flush=True)

        asyncio.run(main())
        settle(url, gateway, files)
        print(f"nothing under way, {gateway.num_fds()} open files ({files} at first)")


def clients(number: int, seconds: float, folder: Path, tokenizer: str, bundle: Path) -> None:
    """So many clients for so long: nothing is lost or mixed up, and memory stays flat."""
    ports = free_port(), free_port()
    settings = gateway_settings(
        *(f"http://127.0.0.1:{port}/plain/v1" for port in ports),
        tokenizer,
        log=LogSettings(folder=str(folder / "decisions"), explore=0.02, files=5),
    )
    with (
        upstream_process(tokenizer, ports[0]),
        upstream_process(tokenizer, ports[1]),
        serve(bundle, settings, folder) as (url, process),
    ):
        gateway = workers(process)["optscale"]
        sizes, ends, started = [], Counter(), time.monotonic()
        while time.monotonic() - started < seconds:
            ends += asyncio.run(many(url, 10 * number, number, 0))
            sizes.append(gateway.memory_info().rss / 2**20)
        spent = time.monotonic() - started
        print(f"{number} clients, {spent:.0f} s: {dict(ends)}, {ends.total() / spent:.1f} requests/s")
        print(f"gateway, MiB: {', '.join(f'{size:.0f}' for size in sizes)}")
        assert set(ends) == {200}
        assert sizes[-1] < sizes[len(sizes) // 2] * 1.03, "memory grows"


def described(cases: int, folder: Path, tokenizer: str, bundle: Path) -> None:
    """So many good and as many bad requests of each operation, made from the OpenAPI description."""
    port = free_port()
    at = f"http://127.0.0.1:{port}/plain/v1"
    settings = gateway_settings(at, at, tokenizer)
    with upstream_process(tokenizer, port), serve(bundle, settings, folder) as (url, _):
        found = fuzz(url, cases)
    print(f"{found.total()} cases: {dict(found)}")


if __name__ == "__main__":
    from flows.config import Config, enter_home
    from tests.models.tiny import save_qwen_tokenizer

    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # and end what was started
    os.environ.setdefault("OPTSCALE_HOME", str(Path(".optscale").resolve()))
    enter_home(Config())
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        for part in ("tokenizer", "bundle", "checkpoints", "served"):
            (home / part).mkdir()
        save_qwen_tokenizer(home / "tokenizer")
        make_bundle(home / "bundle", home / "checkpoints")
        what, *numbers = sys.argv[1:]
        run = {"faults": faults, "clients": clients, "described": described}[what]
        run(*map(int, numbers), home / "served", str(home / "tokenizer"), home / "bundle")
