"""A tokenizer without torch, for those who encode texts that another process reads."""

from typing import Any

from transformers import PreTrainedTokenizerFast

from predictor.errors import ModelError


def open_tokenizer(reference: str) -> Any:
    """The tokenizer of a hub id or directory that has a ``tokenizer.json``.

    Raises
    ------
    ModelError
        If there is none.
    """
    try:
        return PreTrainedTokenizerFast.from_pretrained(reference)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"tokenizer {reference!r} could not be loaded: {reason}. Give a directory with a tokenizer.json, "
            f"or download it first: hf download {reference} --include 'tokenizer*'"
        ) from error
