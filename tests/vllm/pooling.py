"""The embedded PRM behind a ``/pooling`` route: vLLM's own gives it no token likelihoods to read.

``python -m tests.vllm.pooling PORT`` serves it in a process of its own.
"""

import asyncio
import sys
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from data.arithmetic import STEP_SEPARATOR
from models.local_reward import LocalRewardModel, step_probabilities
from models.settings import LocalRewardSettings
from predictor.question import Question


class Pooling:
    """Requests that wait while a batch is scored make up the next one."""

    def __init__(self) -> None:
        self.reward = LocalRewardModel(LocalRewardSettings())
        coder = self.reward.tokenizer
        (self.mark,) = coder(STEP_SEPARATOR, add_special_tokens=False).input_ids
        asked = coder.apply_chat_template(Question.ask("?").as_chat(), tokenize=False)
        whole = coder.apply_chat_template(
            Question.ask("?").as_chat(), tokenize=False, add_generation_prompt=True
        )
        self.answer = coder(whole.removeprefix(asked), add_special_tokens=False).input_ids
        self.waiting: asyncio.Queue = asyncio.Queue()

    def example(self, ids: list[int]) -> dict:
        """Its steps numbered, as the client's convention ends them."""
        size = len(self.answer)
        start = max(at for at in range(size, len(ids)) if ids[at - size : at] == self.answer)
        step = [0] * start + [1] * (len(ids) - start)
        for at in range(start + 1, len(ids)):
            step[at] = step[at - 1] + (ids[at - 1] == self.mark)
        return {"input_ids": ids, "step": step}

    async def pooling(self, request) -> Response:
        examples = [self.example(ids) for ids in (await request.json())["input"]]
        found = asyncio.get_running_loop().create_future()
        await self.waiting.put((examples, found))
        data = [
            {"index": index, "data": [[1 - right, right] for right in steps]}
            for index, steps in enumerate(await found)
        ]
        return JSONResponse({"data": data})

    async def score(self) -> None:
        pad, size = self.reward.tokenizer.pad_token_id, self.reward.settings.batch_size
        while True:
            batch = [await self.waiting.get()]
            while not self.waiting.empty():
                batch.append(self.waiting.get_nowait())
            examples = [example for examples, _ in batch for example in examples]
            steps = iter(await asyncio.to_thread(step_probabilities, self.reward.model, pad, examples, size))
            for own, found in batch:
                found.set_result([next(steps) for _ in own])

    @asynccontextmanager
    async def running(self, app):
        task = asyncio.create_task(self.score())
        yield
        task.cancel()

    async def models(self, request) -> Response:
        return JSONResponse({"data": [{"id": self.reward.identity["reward_model"]}]})


if __name__ == "__main__":
    pooling = Pooling()
    routes = [
        Route("/pooling", pooling.pooling, methods=["POST"]),
        Route("/v1/models", pooling.models),
    ]
    app = Starlette(routes=routes, lifespan=pooling.running)
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
