"""LiteLLM: completion, async, stream, tools, structured output."""

import asyncio

import litellm

from tests.clients.cases import QUESTION, TOOL, TURNS, City, run

litellm.telemetry = False


def ask(url, **fields):
    return litellm.completion(model="openai/m", api_base=url, api_key="none", messages=TURNS, **fields)


def sync_and_async(url):
    answer = ask(url, n=2, user="u", metadata={"a": "b"})
    assert [c.message.content.startswith(QUESTION) for c in answer.choices] == [True, True]

    async def main():
        asked = {"model": "openai/m", "api_base": url, "api_key": "none", "messages": TURNS}
        return await litellm.acompletion(**asked)

    assert asyncio.run(main()).choices[0].message.content.startswith(QUESTION)


def streams(url):
    text = "".join(c.choices[0].delta.content or "" for c in ask(url, stream=True))
    assert text.startswith(QUESTION)


def tools(url):
    call = ask(url, tools=[TOOL], tool_choice="required").choices[0].message.tool_calls[0]
    assert call.function.name == "look"


def structured_output(url):
    text = ask(url, response_format=City).choices[0].message.content
    assert City.model_validate_json(text).name == "Paris"


run(sync_and_async, streams, tools, structured_output)
