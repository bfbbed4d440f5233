"""What becomes of a chat request's fields that the gateway does not read itself: four kinds, told by name.

The table in gateway.md has a line for each; a test holds both against the client library's own request type.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from serving.errors import RequestError

NOTHING: tuple[Any, ...] = (None, [], {})
"""Values that are none, whatever the field; clients send them by default."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


IGNORED = _names(
    """metadata parallel_tool_calls prediction prompt_cache_key prompt_cache_options
    prompt_cache_retention request_id safety_identifier service_tier store stream_interval"""
)
"""They change nothing of an answer. Names that nobody knows are ignored too."""

HANDED_ON = _names("cache_salt priority session_id user")
"""They go to the generator, and change nothing of what it samples."""

CONDITIONS = _names(
    """add_generation_prompt add_special_tokens chat_template chat_template_kwargs continue_final_message
    documents guided_choice guided_grammar guided_json guided_regex
    include_reasoning reasoning_effort response_format skip_special_tokens
    spaces_between_special_tokens structured_outputs thinking_token_budget truncate_prompt_tokens
    truncation_side verbosity vllm_xargs"""
)
"""They go to the generator and change what is asked of it: candidates are of a contract of their own."""

ALONE: dict[str, tuple[str, tuple[Any, ...]]] = {
    **dict.fromkeys(("tools", "functions"), ("tools", ())),
    **dict.fromkeys(("tool_choice", "function_call"), ("tools", ("none", "auto"))),
    **dict.fromkeys(("logprobs", "top_logprobs"), ("logprobs", (False, 0))),
    **dict.fromkeys(("prompt_logprobs", "logprob_token_ids"), ("logprobs", ())),
    **dict.fromkeys(
        (
            *("echo", "return_prompt_text", "return_token_ids", "return_token_offsets"),
            "return_tokens_as_token_ids",
        ),
        ("details of tokens", (False,)),
    ),
    **dict.fromkeys(("media_io_kwargs", "mm_processor_kwargs"), ("images", ())),
    **dict.fromkeys(
        (
            *("allowed_token_ids", "bad_words", "frequency_penalty", "ignore_eos", "logit_bias", "min_p"),
            *("include_stop_str_in_output", "min_tokens", "presence_penalty", "repetition_detection"),
            *("stop_token_ids", "use_beam_search", "watermarking"),
        ),
        ("sampling", (0, False)),
    ),
    **dict.fromkeys(("best_of", "length_penalty", "repetition_penalty", "typical_p"), ("sampling", (1,))),
    "top_k": ("sampling", (0, -1)),
}
"""Best-of-N does not fit them: why the generator answers alone, and the values that change nothing."""

REFUSED: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("audio", "moderation", "web_search_options"), ()),
    **dict.fromkeys(("ec_transfer_params", "kv_transfer_params", "mm_payload"), ()),
    "modalities": (["text"],),
    "return_mm_kwargs": (False,),
    "routed_experts_prompt_start": (0,),
}
"""Nothing here can honour them; with the values that change nothing."""


class Sorted(NamedTuple):
    """A request's fields beyond those that are read."""

    handed_on: dict[str, Any]
    conditions: dict[str, Any]
    alone: dict[str, str]
    """Why the generator answers alone, by the fields that say so."""


def sort_fields(given: Mapping[str, Any], configured: Mapping[str, Any]) -> Sorted:
    """The kinds of the fields that say something; one that the generator is ``configured`` with says none.

    Raises
    ------
    RequestError
        If one cannot be honoured.
    """
    said = {k: v for k, v in given.items() if v not in NOTHING and configured.get(k) != v}
    for name in said.keys() & REFUSED.keys():
        if said[name] not in REFUSED[name]:
            raise RequestError(400, f"{name}: not supported by this server; leave it out", param=name)
    if said.get("response_format") == {"type": "text"}:
        del said["response_format"]
    return Sorted(
        {k: v for k, v in said.items() if k in HANDED_ON},
        {k: v for k, v in said.items() if k in CONDITIONS},
        {k: ALONE[k][0] for k, v in said.items() if k in ALONE and v not in ALONE[k][1]},
    )


def forwarded(given: Mapping[str, Any]) -> dict[str, Any]:
    """What goes to a generator that answers alone: all that it may understand."""
    known = HANDED_ON | CONDITIONS | ALONE.keys()
    known |= {"parallel_tool_calls"} if given.get("tools") else set()
    return {k: v for k, v in given.items() if k in known}
