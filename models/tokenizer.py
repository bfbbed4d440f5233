"""A tokenizer without torch, for those who encode texts that another process reads."""

from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from data.errors import ModelError


def open_tokenizer(reference: str) -> Any:
    """The tokenizer of a hub id or directory that has a ``tokenizer.json``.

    Raises
    ------
    ModelError
        If there is none that can be read.
    """
    try:
        return PreTrainedTokenizerFast.from_pretrained(reference)
    except Exception as error:  # the tokenizers library raises no other
        raise ModelError(
            f"tokenizer {reference!r} could not be loaded: {first_line(error)}. Give a directory with a "
            f"tokenizer.json, or download it first: hf download {reference} --include 'tokenizer*'"
        ) from error


def chat_prompt(tokenizer: Any, turns: list[dict[str, str]]) -> str:
    """The turns in the tokenizer's chat template, up to where the model answers.

    Raises
    ------
    ModelError
        If it has none, or one that refuses these turns.
    """
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    except (ValueError, TemplateError) as error:
        roles = ", ".join(turn["role"] for turn in turns)
        raise ModelError(
            f"tokenizer {tokenizer.name_or_path!r} has no chat template for turns of {roles}: "
            f"{first_line(error)}. Put one into its directory, as chat_template.jinja, or ask otherwise"
        ) from error


def first_line(error: BaseException) -> str:
    """What an error says first; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
