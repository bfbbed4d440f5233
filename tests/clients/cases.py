"""What the clients ask, and how a client's cases are run: ``python -m tests.clients.use_openai URL``."""

import sys

from pydantic import BaseModel

QUESTION = "Compute 61 - 33 + 28."
TURNS = [{"role": "user", "content": QUESTION}]
PARAMETERS = {
    "type": "object",
    "properties": {"place": {"type": "string"}},
    "required": ["place"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "See what is there.", "parameters": PARAMETERS},
}


class City(BaseModel):
    """A city."""

    name: str
    size: int


def run(*cases) -> None:
    """Run each case with the gateway's URL."""
    for case in cases:
        case(sys.argv[1])
        print(case.__name__, "passed", flush=True)
