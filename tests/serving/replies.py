"""What a generator's server says asked for more than a text: tools, JSON, streams, other routes."""

import json
import random

from starlette.responses import JSONResponse, Response, StreamingResponse

CITY = {"properties": {"name": {"type": "string"}, "size": {"type": "integer"}}}  # where no schema is given
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}


def fits(body) -> bool:
    """Whether `reply` is what answers such a request."""
    if "messages" not in body or body.get("tools") or body.get("stream") or body.get("logprobs"):
        return True
    return not isinstance(body["messages"][-1]["content"], str)


def reply(body) -> Response:
    """The answer to it."""
    if "messages" in body:
        return _chat(body)
    if "prompt" in body:
        choice = {
            "index": 0,
            "text": f"{body['prompt']} and so on",
            "finish_reason": "stop",
            "logprobs": None,
        }
        whole = {"id": "c", "object": "text_completion", "created": 0, "model": "m", "choices": [choice]}
        return JSONResponse(whole | {"usage": USAGE})
    if "encoding_format" not in body:
        return _response(body)
    texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
    data = [{"object": "embedding", "index": i, "embedding": [0.5, 1.0]} for i in range(len(texts))]
    return JSONResponse({"object": "list", "model": body["model"], "data": data, "usage": USAGE})


def _chat(body) -> Response:
    last = body["messages"][-1]
    if last["role"] != "tool" and body.get("tools"):
        chosen = body.get("tool_choice")
        named = chosen["function"]["name"] if isinstance(chosen, dict) else None
        (tool, *_) = [t["function"] for t in body["tools"] if named in (None, t["function"]["name"])]
        called = {"name": tool["name"], "arguments": json.dumps(sample(tool.get("parameters") or {}))}
        calls = [{"id": "call_1", "type": "function", "function": called}]
        message, finish = {"role": "assistant", "content": None, "tool_calls": calls}, "tool_calls"
    else:
        text = json_text(body) or f"The last turn said: {last['content']}"
        message, finish = {"role": "assistant", "content": text}, "stop"
    head = {"id": "t", "created": 0, "model": "m"}
    if not body.get("stream"):
        logprobs = {"content": [], "refusal": None} if body.get("logprobs") else None
        choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": logprobs}
        return JSONResponse(head | {"object": "chat.completion", "choices": [choice], "usage": USAGE})

    async def events():
        calls = [{"index": 0, **c} for c in message.get("tool_calls", ())]
        words = [{"content": f"{word} "} for word in (message["content"] or "").split()]
        deltas = [{"role": "assistant"}, *([{"tool_calls": calls}] if calls else []), *words]
        for place in range(len(deltas) + 1):
            delta, end = (deltas[place], None) if place < len(deltas) else ({}, finish)
            choice = {"index": 0, "delta": delta, "finish_reason": end}
            chunk = head | {"object": "chat.completion.chunk", "choices": [choice]}
            yield f"data: {json.dumps(chunk)}\n\n"
        if (body.get("stream_options") or {}).get("include_usage"):
            yield f"data: {json.dumps(chunk | {'choices': [], 'usage': USAGE})}\n\n"
        yield "data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


def _response(body) -> Response:
    part = {"type": "output_text", "text": f"Asked for: {body['input']}", "annotations": []}
    item = {"type": "message", "id": "m1", "role": "assistant", "status": "completed", "content": [part]}
    whole = {
        **{"id": "r1", "object": "response", "created_at": 0, "model": "m", "status": "completed"},
        **{"output": [item], "parallel_tool_calls": True, "tool_choice": "auto", "tools": []},
        "usage": {
            **{"input_tokens": 9, "output_tokens": 4, "total_tokens": 13},
            **{
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens_details": {"reasoning_tokens": 0},
            },
        },
    }
    if not body.get("stream"):
        return JSONResponse(whole)
    place = {"item_id": "m1", "output_index": 0, "content_index": 0}
    events = [
        {"type": "response.output_text.delta", "delta": part["text"], "logprobs": [], **place},
        {"type": "response.completed", "response": whole},
    ]

    async def lines():
        for number, event in enumerate(events):
            yield f"event: {event['type']}\ndata: {json.dumps({**event, 'sequence_number': number})}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")


def json_text(body, seed: int = 0) -> str | None:
    """A text of the JSON asked for; equal for two of three seeds, of another form for one of seven."""
    form = body.get("response_format") or {}
    if form.get("type") not in ("json_object", "json_schema"):
        return None
    if seed % 7 == 6:
        return "no JSON at all"
    schema = (form.get("json_schema") or {}).get("schema") or CITY
    value = sample(schema, number=7 if seed % 3 else seed)
    return json.dumps(value, indent=random.Random(seed).choice([None, 1]))


def sample(schema, number: int = 7, root=None):
    """A value that a JSON schema allows, of the kinds that clients make of their types."""
    root = root or schema
    if "$ref" in schema:
        return sample(root["$defs"][schema["$ref"].rpartition("/")[2]], number, root)
    if "enum" in schema or "const" in schema:
        return schema["const"] if "const" in schema else schema["enum"][0]
    for name in ("anyOf", "oneOf", "allOf"):
        if name in schema:
            return sample(schema[name][0], number, root)
    match schema.get("type", "object"):
        case "object":
            return {k: sample(v, number, root) for k, v in schema.get("properties", {}).items()}
        case "array":
            return [sample(schema.get("items", {"type": "string"}), number, root)]
        case kind:
            return {"integer": number, "number": number + 0.5, "boolean": True, "null": None}.get(
                kind, "Paris"
            )
