"""LlamaIndex: chat, async, stream, tools, structured output."""

import asyncio

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

from tests.clients.cases import QUESTION, City, run

TURNS = [ChatMessage(role="user", content=QUESTION)]


def model(url):
    return OpenAILike(
        model="m", api_base=url, api_key="none", is_chat_model=True, is_function_calling_model=True
    )


def sync_and_async(url):
    assert model(url).chat(TURNS).message.content.startswith(QUESTION)
    assert asyncio.run(model(url).achat(TURNS)).message.content.startswith(QUESTION)
    assert model(url).complete(QUESTION).text.startswith(QUESTION)


def streams(url):
    *_, last = model(url).stream_chat(TURNS)
    assert last.message.content.startswith(QUESTION)


def tools(url):
    def look(place: str) -> str:
        """See what is there."""
        return f"a cat in {place}"

    seeing = FunctionTool.from_defaults(look)
    found = model(url).chat_with_tools([seeing], user_msg="What is in Paris?")
    (call,) = model(url).get_tool_calls_from_response(found)
    assert (call.tool_name, call.tool_kwargs) == ("look", {"place": "Paris"})
    assert model(url).predict_and_call([seeing], user_msg="What is in Paris?").response == "a cat in Paris"


def structured_output(url):
    found = model(url).as_structured_llm(City).chat(TURNS).raw
    assert found == City(name="Paris", size=found.size)


run(sync_and_async, streams, tools, structured_output)
