"""Instructor: every mode in which it asks for structured output."""

import asyncio

import instructor
import openai

from tests.clients.cases import TURNS, City, run

MODES = (instructor.Mode.TOOLS, instructor.Mode.JSON, instructor.Mode.JSON_SCHEMA)


def sync(url):
    for mode in MODES:
        client = instructor.from_openai(openai.OpenAI(base_url=url, api_key="none"), mode=mode)
        found = client.chat.completions.create(model="m", messages=TURNS, response_model=City)
        assert (type(found).model_fields.keys(), found.name) == (City.model_fields.keys(), "Paris"), mode


def asynchronous(url):
    client = instructor.from_openai(openai.AsyncOpenAI(base_url=url, api_key="none"))
    found = asyncio.run(client.chat.completions.create(model="m", messages=TURNS, response_model=City))
    assert found.name == "Paris"


def streams(url):
    client = instructor.from_openai(openai.OpenAI(base_url=url, api_key="none"))
    *_, last = client.chat.completions.create_partial(model="m", messages=TURNS, response_model=City)
    assert last.name == "Paris"


run(sync, asynchronous, streams)
