"""LangChain: invoke, stream, batch, bind_tools, with_structured_output."""

import asyncio

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from tests.clients.cases import QUESTION, City, run


@tool
def look(place: str) -> str:
    """See what is there."""
    return f"a cat in {place}"


def model(url, **fields):
    return ChatOpenAI(model="m", base_url=url, api_key="none", **fields)


def sync_and_async(url):
    turns = [
        SystemMessage("Be brief."),
        HumanMessage("hello", name="Ann"),
        AIMessage("hm"),
        HumanMessage(QUESTION),
    ]
    found = model(url).invoke(turns)
    assert found.content.startswith(QUESTION)
    assert found.usage_metadata["output_tokens"] > 0
    assert asyncio.run(model(url).ainvoke(QUESTION)).content.startswith(QUESTION)
    assert len(model(url).batch([QUESTION] * 3)) == 3


def streams(url):
    assert "".join(chunk.content for chunk in model(url).stream(QUESTION)).startswith(QUESTION)


def tools(url):
    bound = model(url).bind_tools([look])
    asked = [HumanMessage("What is in Paris?")]
    called = bound.invoke(asked)
    (call,) = called.tool_calls
    assert call["name"] == "look"
    seen = ToolMessage(look.invoke(call["args"]), tool_call_id=call["id"])
    assert "a cat" in bound.invoke([*asked, called, seen]).content
    assert any(chunk.tool_call_chunks for chunk in bound.stream(asked))


def structured_output(url):
    for method in ("json_schema", "function_calling"):
        found = model(url).with_structured_output(City, method=method).invoke(QUESTION)
        assert found == City(name="Paris", size=found.size), method


run(sync_and_async, streams, tools, structured_output)
