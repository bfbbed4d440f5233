"""OpenAI's own client: sync, async, streams, tools, structured output, responses."""

import asyncio

import openai
from pydantic import BaseModel

from tests.clients.cases import QUESTION, TOOL, TURNS, City, run


def sync(url):
    with openai.OpenAI(base_url=url, api_key="none") as client:
        answer = client.chat.completions.create(model="m", messages=TURNS, n=2, metadata={"a": "b"}, user="u")
        assert [c.message.content.startswith(QUESTION) for c in answer.choices] == [True, True]
        assert answer.optscale["drawn"] >= 2
        again = [*TURNS, answer.choices[0].message, *TURNS]
        assert client.chat.completions.create(model="m", messages=again).choices[0].message.content
        assert client.models.retrieve("m").id == client.models.list().data[0].id
        assert client.embeddings.create(model="m", input="x").data[0].embedding == [0.5, 1.0]
        assert client.completions.create(model="m", prompt="Once").choices[0].text == "Once and so on"
        told = client.chat.completions.with_raw_response.create(model="m", messages=TURNS)
        assert int(told.headers["x-optscale-drawn"]) == told.parse().optscale["drawn"]


def asynchronous(url):
    async def main():
        async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:
            asked = [client.chat.completions.create(model="m", messages=TURNS) for _ in range(8)]
            return await asyncio.gather(*asked)

    assert all(a.choices[0].message.content.startswith(QUESTION) for a in asyncio.run(main()))


def streams(url):
    with openai.OpenAI(base_url=url, api_key="none") as client:
        chunks = list(client.chat.completions.create(model="m", messages=TURNS, stream=True))
        assert "".join(c.choices[0].delta.content or "" for c in chunks).startswith(QUESTION)
        with client.chat.completions.stream(model="m", messages=TURNS) as stream:
            kinds = {event.type for event in stream}
            assert stream.get_final_completion().choices[0].message.content.startswith(QUESTION)
        assert {"content.delta", "content.done"} <= kinds
        wrong = [{"role": "user", "content": "[error] this is answered with a fault"}]
        found = []
        try:
            list(client.chat.completions.create(model="m", messages=wrong, stream=True))
        except openai.APIError as error:
            found.append(error.code)
        assert found == ["502"]


def tools(url):
    with openai.OpenAI(base_url=url, api_key="none") as client:
        answer = client.chat.completions.create(model="m", messages=TURNS, tools=[TOOL], tool_choice="auto")
        message = answer.choices[0].message
        assert (answer.choices[0].finish_reason, message.tool_calls[0].function.name) == (
            "tool_calls",
            "look",
        )
        result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "a cat"}
        turns = [*TURNS, message, result]
        answer = client.chat.completions.create(model="m", messages=turns, tools=[TOOL])
        assert "a cat" in answer.choices[0].message.content
        assert answer.optscale["passthrough"].startswith("tools")
        with client.chat.completions.stream(model="m", messages=TURNS, tools=[TOOL]) as stream:
            final = stream.get_final_completion()
        assert final.choices[0].message.tool_calls[0].function.name == "look"
        parsed = client.chat.completions.parse(
            model="m", messages=TURNS, tools=[openai.pydantic_function_tool(City)]
        )
        assert parsed.choices[0].message.tool_calls[0].function.parsed_arguments == City(name="Paris", size=7)


def structured_output(url):
    class Trip(BaseModel):
        cities: list[City]
        days: int

    with openai.OpenAI(base_url=url, api_key="none") as client:
        answer = client.chat.completions.parse(model="m", messages=TURNS, response_format=Trip)
        assert answer.choices[0].message.parsed.cities[0].name == "Paris"
        assert answer.optscale["drawn"] > 1
        with client.chat.completions.stream(model="m", messages=TURNS, response_format=City) as stream:
            assert stream.get_final_completion().choices[0].message.parsed.name == "Paris"


def responses(url):
    with openai.OpenAI(base_url=url, api_key="none") as client:
        assert "hello" in client.responses.create(model="m", input="hello").output_text
        events = [e.type for e in client.responses.create(model="m", input="hello", stream=True)]
        assert events == ["response.output_text.delta", "response.completed"]


run(sync, asynchronous, streams, tools, structured_output, responses)
