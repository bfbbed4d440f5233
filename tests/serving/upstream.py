"""A real upstream of the gateway: candidates that carry their score in their text, a PRM that reads it.

``python -m tests.serving.upstream TOKENIZER PORT`` serves it in a process of its own.
"""

import asyncio
import json
import random
import re
import signal
import sys
from hashlib import sha256

from starlette.responses import JSONResponse, Response, StreamingResponse
from tokenizers import Tokenizer

from tests.models.faulty_server import FaultyServer
from tests.serving import replies

FAULTS = (
    "error",
    "busy",
    "page",
    "broken",
    "half",
    "fewer",
    "slow",
    "silent",
    "nan",
    "empty",
    "cut",
    "refused",
    "hang up",
)
SCORE = re.compile(r"score (0\.\d+)")


def quality(question: str) -> random.Random:
    """A question's own law: its mean score and how fast it is answered."""
    return random.Random(sha256(question.encode()).digest())


def score_of(question: str, seed: int) -> float:
    """Score of the candidate that a seed gives."""
    mean = 0.35 + 0.6 * quality(question).random()
    draw = random.Random(f"{question} {seed}")
    return round(min(max(draw.gauss(mean, 0.12), 0.0), 0.999), 3)


def answer_of(question: str, seed: int) -> str:
    """Last line of the candidate that a seed gives: one of three answers in five spellings, or none."""
    lines = ["Answer: 1/2", "Answer: 0.5", "The answer is 7.", "**Answer:** 7.0", "#### 9", "Who knows?"]
    return random.Random(f"answer {question} {seed}").choice(lines)


class Upstream(FaultyServer):
    """Misbehaves as the path says: by a name of `FAULTS`, or at random where it is ``mixed-SHARE``.

    ``mixed-SHARE-WAY`` answers the others as WAY says.
    """

    def __init__(self, tokenizer: str, port: int = 0, seconds: float = 0.002) -> None:
        self.tokenizer = Tokenizer.from_file(f"{tokenizer}/tokenizer.json")
        self.seconds = seconds
        self.chance = random.Random(0)
        self.cancelled = 0
        self.traces: list[str] = []
        super().__init__(port)

    async def misbehave(self, request, answer) -> Response:
        way = request.path_params["way"]
        if way.startswith("mixed-"):
            share, _, good = way.removeprefix("mixed-").partition("-")
            way = self.chance.choice(FAULTS) if self.chance.random() < float(share) else good or "plain"
        body = await request.json()
        # A question can bring its own fault: "[slow] Compute 1 + 1."
        said = body["messages"][-1]["content"] if "messages" in body else ""
        if isinstance(said, str) and (named := re.match(r"\[([a-z ]+)\]", said)):
            way = named[1]
        if answer == self.rows and (named := re.search(r"\[reward ([a-z ]+)\]", self.read(body["input"][0]))):
            way = named[1]
        self.requests[way] += 1
        self.traces = [*self.traces[-99:], request.headers.get("traceparent", "")]
        self.bodies = [*self.bodies[-99:], body]
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            match way:
                case "error":
                    return JSONResponse({"error": {"message": "out of order"}}, 500)
                case "busy":
                    return JSONResponse({"error": {"message": "later"}}, 429, {"retry-after": "0.01"})
                case "refusing":
                    return JSONResponse({"error": {"message": "the prompt is too long"}}, 400)
                case "locked":
                    return JSONResponse({"error": {"message": "no such key"}}, 401)
                case "page":
                    return Response("<h1>hello</h1>", media_type="text/html")
                case "broken":
                    return Response("{", media_type="application/json")
                case "half":
                    return StreamingResponse(_half(), headers={"content-length": "1000"})
                case "hang up":
                    return StreamingResponse(_hang_up(), headers={"content-length": "1000"})
            seconds = {"slow": 0.3, "silent": 60}.get(way, self.seconds)
            if await _is_gone_within(request, seconds):
                self.cancelled += 1
                return Response(status_code=499)
            return answer(way, body)
        finally:
            self.in_flight -= 1

    def answer(self, way, body) -> Response:
        if replies.fits(body):
            try:
                return replies.reply(body)
            except (LookupError, TypeError, AttributeError, ValueError) as error:
                return JSONResponse({"error": {"message": f"not understood: {error!r}"}}, 400)
        question = body["messages"][-1]["content"] or ""
        count = 1 if way == "fewer" else body.get("n") or 1
        body.setdefault("seed", 0)
        texts = [f"{question}\n\nscore {score_of(question, body['seed'] + k):.3f}" for k in range(count)]
        if way in {"empty", "refused"}:
            texts = [""] * count
        if way == "every other":
            texts = ["" if (body["seed"] + k) % 2 == 0 else text for k, text in enumerate(texts)]
        if way == "same":
            texts = [f"{question}\n\nscore 0.500"] * count
        if way == "answers":
            texts = [f"{text}\n\n{answer_of(question, body['seed'] + k)}" for k, text in enumerate(texts)]
        if way == "votes":
            texts = [
                f"hm\n\nAnswer: {7 if (body['seed'] + k) % 5 < 3 else body['seed'] + k}" for k in range(count)
            ]
        texts = [replies.json_text(body, body["seed"] + k) or text for k, text in enumerate(texts)]
        tokens = [5 + len(text) % 7 for text in texts]
        choices = [
            {
                "index": k,
                "finish_reason": "length" if way == "cut" else "stop",
                "message": {"role": "assistant", "content": text}
                | ({"refusal": "I cannot."} if way == "refused" else {})
                | ({"reasoning_content": "hm, hm"} if way == "reasoning" else {}),
                "token_ids": [1] * tokens[k],
            }
            for k, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": 9, "completion_tokens": sum(tokens), "total_tokens": 9 + sum(tokens)}
        return JSONResponse(
            {"id": "x", "object": "x", "created": 0, "model": "m", "choices": choices, "usage": usage}
        )

    def read(self, ids) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    def rows(self, way, body) -> Response:
        """The score in the text, as P(right) at each of its tokens."""
        data = []
        for index, ids in enumerate(body["input"]):
            found = SCORE.findall(self.read(ids))
            right = float("nan") if way == "nan" else float(found[-1]) if found else 0.5
            rows = [[1 - right, right]] * (1 if way == "fewer" else len(ids))
            data.append({"index": index, "data": rows})
        return Response(json.dumps({"data": data}), media_type="application/json")


async def _is_gone_within(request, seconds: float) -> bool:
    """Wait, but no longer than somebody listens: as servers do, which stop generating then."""
    for _ in range(max(1, round(seconds / 0.05))):
        if await request.is_disconnected():
            return True
        await asyncio.sleep(min(seconds, 0.05))
    return False


async def _half():
    yield b'{"choices": [{"ind'


async def _hang_up():
    yield b'{"choices": ['
    raise ConnectionResetError("hung up")


if __name__ == "__main__":
    serving = Upstream(sys.argv[1], port=int(sys.argv[2]))
    print(serving.port, flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serving.close()
