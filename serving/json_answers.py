"""Answers that are to be JSON: equal values are equal answers, and what does not fit the schema is none."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from jsonschema_rs import FancyRegexOptions, validator_for

from models.reward.base import END_OF_REASONING
from serving.errors import RequestError

BACKTRACKING = 10_000  # steps that a client's regular expression may take

Reader = Callable[[str], str | None]
"""From a completion to the key of its answer; None where it has none that is valid."""


def json_reader(conditions: Mapping[str, Any]) -> Reader | None:
    """How answers are read where a request asks for JSON; None where it does not.

    Raises
    ------
    RequestError
        If its schema is none.
    """
    path, schema = _schema(conditions)
    if schema is None:
        return None
    try:
        schema = json.loads(schema) if isinstance(schema, str) else schema
        patterns = FancyRegexOptions(backtrack_limit=BACKTRACKING)
        validator = validator_for(schema, offline=True, pattern_options=patterns)
    except (ValueError, TypeError) as error:
        why = str(error).partition("\n")[0][:300]
        raise RequestError(400, f"{path} is no JSON schema: {why}", param=path) from error

    def read(text: str) -> str | None:
        try:
            answer = text.rpartition(END_OF_REASONING)[2]
            value = json.loads(answer, parse_float=_number, parse_constant=_refuse)
            return json.dumps(value, sort_keys=True) if validator.is_valid(value) else None
        except (ValueError, RecursionError):
            return None

    return read


def _schema(conditions: Mapping[str, Any]) -> tuple[str, Any]:
    """Where a schema stands in a request, and the schema: a value, or its text; None where there is none."""
    form, guided = conditions.get("response_format"), conditions.get("structured_outputs")
    if isinstance(form, dict) and form.get("type") == "json_object":
        return "response_format", {"type": "object"}
    if isinstance(form, dict) and form.get("type") == "json_schema":
        named = form.get("json_schema")
        schema = named.get("schema", True) if isinstance(named, dict) else None
        if schema is None:
            raise RequestError(400, "response_format.json_schema is missing", param="response_format")
        return "response_format.json_schema.schema", schema
    if isinstance(guided, dict) and guided.get("json") is not None:
        return "structured_outputs.json", guided["json"]
    return "guided_json", conditions.get("guided_json")


def _number(text: str) -> float | int:
    """1.0 is 1."""
    value = float(text)
    return int(value) if value.is_integer() else value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
