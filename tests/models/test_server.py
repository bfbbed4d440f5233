"""Batches of the model server: who leaves takes no other's answer along."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from models.server import Batches

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("leaves", [1, 2])
def test_who_leaves_leaves_the_others_their_answers(leaves):
    computed = []

    def compute(key, asked):
        computed.append(asked)
        time.sleep(0.2)
        return [2 * one for one in asked]

    async def ask():
        batches = Batches(compute, ThreadPoolExecutor(1))
        tasks = [asyncio.create_task(batches.ask(0, 0))]
        await asyncio.sleep(0.05)
        tasks += [asyncio.create_task(batches.ask(0, number)) for number in (1, 2, 3)]
        await tasks[0]
        await asyncio.sleep(0.05)  # the first of the others has them all computed now
        tasks[leaves].cancel()
        async with asyncio.timeout(5):
            return await asyncio.gather(*tasks, return_exceptions=True)

    found = asyncio.run(ask())
    assert isinstance(found.pop(leaves), asyncio.CancelledError)
    assert found == [2 * number for number in range(4) if number != leaves]
    assert all(leaves not in asked for asked in computed[2:])
