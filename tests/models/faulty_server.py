"""A real HTTP server that misbehaves on purpose: the first part of a request's path says how."""

import asyncio
import threading
from collections import Counter

import uvicorn
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route


class FaultyServer:
    """Serves on a free port of this machine until closed; counts the requests of each way."""

    def __init__(self, port: int = 0) -> None:
        self.requests: Counter[str] = Counter()
        self.bodies: list[dict] = []
        self.seen: set[int] = set()
        self.most_in_flight = self.in_flight = 0
        routes = [
            Route("/{way}/v1/models", self.models),
            Route("/{way}/v1/chat/completions", self.complete, methods=["POST"]),
            Route("/{way}/v1/completions", self.complete, methods=["POST"]),
            Route("/{way}/v1/responses", self.complete, methods=["POST"]),
            Route("/{way}/v1/embeddings", self.complete, methods=["POST"]),
            Route("/{way}/pooling", self.pool, methods=["POST"]),
        ]
        config = uvicorn.Config(Starlette(routes=routes), port=port, log_level="critical")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            pass
        self.port = self.server.servers[0].sockets[0].getsockname()[1]

    def url(self, way: str) -> str:
        return f"http://127.0.0.1:{self.port}/{way}/v1"

    def close(self) -> None:
        self.server.should_exit = self.server.force_exit = True  # do not wait for answers under way
        self.thread.join()

    async def models(self, request):
        way = request.path_params["way"]
        if way == "locked":
            return JSONResponse({"error": {"message": "no such key"}}, 401)
        if way == "dripping from the start":
            return StreamingResponse(_drip())
        name = "other" if way == "other" else "m"
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model"}]})

    async def complete(self, request):
        return await self.misbehave(request, self.answer)

    async def pool(self, request):
        return await self.misbehave(request, self.rows)

    async def misbehave(self, request, answer) -> Response:
        way = request.path_params["way"]
        self.requests[way] += 1
        self.bodies.append(body := await request.json())
        match way:
            case "error":
                return JSONResponse({"error": {"message": "out of order"}}, 500)
            case "busy" if body["seed"] not in self.seen:
                self.seen.add(body["seed"])
                return JSONResponse({"error": {"message": "later"}}, 429)
            case "flaky" if self.requests[way] % 3:
                status = 429 if self.requests[way] % 3 == 1 else 503
                return JSONResponse({"error": {"message": "later"}}, status, {"retry-after": "0.01"})
            case "refusing":
                return JSONResponse({"error": {"message": "too long"}}, 400)
            case "strict" if any(len(ids) > 100 for ids in body["input"]):
                return JSONResponse({"error": {"message": "too long"}}, 400)
            case "silent":
                await asyncio.sleep(60)
            case "dripping":
                return StreamingResponse(_drip(), media_type="application/json")
            case "half":
                return StreamingResponse(_half(), headers={"content-length": "1000"})
            case "page":
                return HTMLResponse("<h1>hello</h1>")
            case "broken":
                return Response("{", media_type="application/json")
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0.01)
        self.in_flight -= 1
        return answer(way, body)

    def answer(self, way, body) -> Response:
        count = {"fewer": 1, "dwindling": int(self.requests[way] == 1)}.get(way, body["n"])
        texts = [f"{body.get('seed')}.{k}\nAnswer: 7" for k in range(count)]
        finish = "length" if way == "cut" else "stop"
        usage = {"prompt_tokens": 5, "completion_tokens": 10 * len(texts), "total_tokens": 0}
        choices = []
        for index, text in enumerate("" if way == "empty" else t for t in texts):
            choice = {"index": index, "finish_reason": finish}
            if "messages" in body:
                choice["message"] = {"role": "assistant", "content": text}
                if way == "reasoning":
                    choice["message"]["reasoning_content"] = "hm"
            else:
                choice["text"] = text
            if way == "counting":
                choice["token_ids"] = [1] * (3 + index)
            choices.append(choice)
        whole = {"id": "x", "object": "x", "created": 0, "model": "m", "choices": choices}
        return JSONResponse(whole if way == "uncounted" else {**whole, "usage": usage})

    def rows(self, way, body) -> Response:
        """A probability a token that names its place; fewer of them where asked."""
        count = 1 if way == "fewer" else 10**6
        data = [
            {"index": i, "data": [[1 - (p := k / 1000), p] for k in range(len(ids))][:count]}
            for i, ids in enumerate(body["input"])
        ]
        if way == "odd":
            data[0]["data"] = None
        if way == "nan":
            rows = ", ".join(["[NaN, NaN]"] * len(body["input"][0]))
            return Response(f'{{"data": [{{"index": 0, "data": [{rows}]}}]}}', media_type="application/json")
        return JSONResponse({"data": data[::-1]})


async def _half():
    yield b'{"choices": [{"ind'
    await asyncio.sleep(0.05)


async def _drip():
    while True:
        yield b" "
        await asyncio.sleep(0.05)
