"""Pydantic AI: agents with tools, structured output by tools and by schema, streams."""

import asyncio

from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.cases import QUESTION, City, run


def agent(url, **options):
    model = OpenAIChatModel("m", provider=OpenAIProvider(base_url=url, api_key="none"))
    return Agent(model, instructions="Be brief.", **options)


def texts(url):
    assert agent(url).run_sync(QUESTION).output.startswith(QUESTION)


def streams(url):
    async def main():
        async with agent(url).run_stream(QUESTION) as found:
            return await found.get_output()

    assert asyncio.run(main()).startswith(QUESTION)


def tools(url):
    seen = []
    asked = agent(url)

    @asked.tool_plain
    def look(place: str) -> str:
        """See what is there."""
        seen.append(place)
        return "a cat"

    assert "a cat" in asked.run_sync("What is in Paris?").output
    assert seen == ["Paris"]


def structured_output(url):
    for output in (City, NativeOutput(City)):
        found = agent(url, output_type=output).run_sync(QUESTION).output
        assert found == City(name="Paris", size=found.size)


run(texts, streams, tools, structured_output)
