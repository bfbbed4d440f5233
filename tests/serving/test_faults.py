"""A few hundred requests with faults; `make load` makes ten thousand of them."""

import asyncio

import httpx
import pytest

from tests.serving.load import GENERATOR, REWARD, ask
from tests.serving.test_best_of_n import ASKED

pytestmark = pytest.mark.slow


def test_each_fault_has_its_end(served):
    """All at once: each waits for retries or its deadline."""
    asked = [
        (f"[{way}] {ASKED[1].text}", right, ahead) for way, right in GENERATOR.items() for ahead in (0, 3)
    ]
    asked += [(f"[reward {way}] {ASKED[2].text}", {200}, 0) for way in REWARD]

    async def main():
        async with httpx.AsyncClient(base_url=served[0], timeout=60) as client:
            return await asyncio.gather(*(ask(client, text, right, ahead=n) for text, right, n in asked))

    ends = asyncio.run(main())
    assert [(text, wrong) for (text, _, _), (_, wrong) in zip(asked, ends, strict=True) if wrong] == []
