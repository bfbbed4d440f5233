"""What the gateway adds to a request: ``python -m tests.serving.overhead [SECONDS]``, some two minutes.

The same request goes straight to an upstream that takes 500 ms, and through the gateway to the same
upstream, by turns: their difference at each percentile is the overhead. Then upstream without delay:
requests a second through the gateway over those through a bare forwarding proxy on the same stack (uvicorn,
uvloop, one pooled httpx2 client).
"""

import asyncio
import itertools
import json
import sys
import tempfile
import time
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import httpx
import httpx2
import numpy as np
import uvicorn

from data.contract import UNSCORED, ScoreContract
from predictor.policies import FixedN
from predictor.selection import Selection
from serving.bundle import write_card
from serving.settings import LogSettings
from tests.servers import free_port, running
from tests.serving.conftest import CONTRACT, gateway_settings, make_card, serve

BODY = {"model": "m", "messages": [{"role": "user", "content": "Compute 61 - 33 + 28."}], "max_tokens": 32}
CHOICE = {"index": 0, "message": {"role": "assistant", "content": "61 - 33 = 28\n\nAnswer: 56"}}
USAGE = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}
ANSWER = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "usage": USAGE}
ANSWER |= {"choices": [CHOICE | {"finish_reason": "stop"}]}
HEADERS = [(b"content-type", b"application/json")]


def upstream(seconds: float):
    """Answers every POST after so many seconds."""

    async def answer(body: bytes) -> bytes:
        if body:
            await asyncio.sleep(seconds)
        return json.dumps(ANSWER if body else {"data": [{"id": "m", "object": "model"}]}).encode()

    return _app(answer)


def proxy(url: str):
    """Forwards every POST, and does nothing else."""
    client = httpx2.AsyncClient(limits=httpx2.Limits(max_connections=None))

    async def answer(body: bytes) -> bytes:
        if not body:
            return b"{}"
        reply = await client.post(
            f"{url}/chat/completions", content=body, headers={"content-type": "application/json"}
        )
        return reply.content

    return _app(answer)


def _app(answer):
    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        content = await answer(body)
        length = (b"content-length", str(len(content)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [*HEADERS, length]})
        await send({"type": "http.response.body", "body": content})

    return app


async def ask(client: httpx.AsyncClient, url: str, body: dict, in_flight: int, seconds: float) -> np.ndarray:
    """Seconds of each request, so many at once for so long."""
    until, spent = time.monotonic() + seconds, []

    async def one(number: int) -> None:
        await asyncio.sleep(0.5 * number / in_flight)  # they do not come in step
        while time.monotonic() < until:
            started = time.perf_counter()
            (await client.post(f"{url}/chat/completions", json=body)).raise_for_status()
            spent.append(time.perf_counter() - started)

    await asyncio.gather(*map(one, range(in_flight)))
    return np.array(spent)


async def measure(slow: str, fast: str, gateway: str, fast_gateway: str, bare: str, seconds: float) -> None:
    async with AsyncExitStack() as stack:
        # Servers close what is idle for five seconds, and another has its turn for longer.
        limits = httpx.Limits(max_connections=None, keepalive_expiry=2)
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=60, limits=limits))
        kinds = {"Best-of-N of one": BODY, "generator alone": BODY | {"top_k": 20}}
        for url in (slow, gateway, fast_gateway, bare):
            await ask(client, url, BODY, 8, 1)
        for (name, body), in_flight in itertools.product(kinds.items(), (1, 16, 64)):
            rounds = [
                [await ask(client, url, body, in_flight, seconds) for url in (slow, gateway)]
                for _ in range(3)
            ]
            through, straight = (np.concatenate([pair[k] for pair in rounds]) for k in (1, 0))
            added = np.percentile(through, (50, 95, 99)) - np.percentile(straight, (50, 95, 99))
            print(f"{name}, {in_flight:2d} in flight: " + _told(added) + f" of {len(through)}", flush=True)
        for name, body in kinds.items():
            pairs = [
                [len(await ask(client, url, body, 64, seconds)) for url in (fast_gateway, bare)]
                for _ in range(3)
            ]
            ratio = float(np.median([ours / theirs for ours, theirs in pairs]))
            rate = float(np.median([ours for ours, _ in pairs])) / seconds
            print(f"{name}, saturated: {rate:.0f} requests/s, {ratio:.2f} of a bare proxy's", flush=True)


def _told(added: np.ndarray) -> str:
    return ", ".join(f"p{p} {1000 * ms:.1f} ms" for p, ms in zip((50, 95, 99), added, strict=True))


def main(seconds: float) -> None:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        home, ports = Path(name), [free_port() for _ in range(3)]
        policy = FixedN(cap=1, stop_on_hit=False, selection=Selection(kind="majority"))
        contract = ScoreContract.model_validate(CONTRACT.model_dump() | UNSCORED)
        alone = {"contract": contract, "model_version": None, "correctness": None}
        write_card(home, make_card(policy=policy).model_copy(update=alone))
        slow, fast, bare = (f"http://127.0.0.1:{port}/v1" for port in ports)
        for args, url in ((("upstream", "0.5"), slow), (("upstream", "0"), fast), (("proxy", fast), bare)):
            command = [sys.executable, "-m", "tests.serving.overhead", *args, url.split(":")[2].split("/")[0]]
            stack.enter_context(
                running(command, f"{url}/models", home / f"{args[0]}{args[1][:3]}.log".replace("/", ""))
            )
        gateways = []
        for at in (slow, fast):
            settings = gateway_settings(at, at, "none", reward=None, log=LogSettings(explore=0))
            (folder := home / f"served{len(gateways)}").mkdir()
            gateways.append(stack.enter_context(serve(home, settings, folder))[0] + "/v1")
        asyncio.run(measure(slow, fast, *gateways, bare, seconds))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["upstream", seconds, port]:
            app = upstream(float(seconds))
        case ["proxy", url, port]:
            app = proxy(url)
        case given:
            main(float(given[0]) if given else 8)
            sys.exit()
    uvicorn.run(app, port=int(port), log_level="critical", lifespan="off")
