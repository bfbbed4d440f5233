"""Generators: from a question to sampled candidates."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from data.contract import Sampling
from data.question import Question

Status = Literal["complete", "cut", "over-length", "failed", "cancelled"]
STATUS: dict[str | None, Status] = {
    **dict.fromkeys(("stop", "eos", "eos_token", "stop_sequence", "end_turn"), "complete"),
    **dict.fromkeys(("length", "max_tokens", "model_length"), "cut"),
}
"""By what servers and engines call the end of a candidate; with any other end it failed."""


class Candidate(NamedTuple):
    """One sampled answer, before it is scored."""

    text: str | None
    tokens: int
    """Generated tokens, end token included."""
    prompt_tokens: int
    status: Status
    seed: int
    cause: str | None = None
    """Why it failed; None where it did not."""
    reasoning: str | None = None
    """What a server keeps apart from its answer; the text begins with it, in ``<think>``."""

    @property
    def answer(self) -> str:
        """The text without the reasoning that the server kept apart."""
        return (self.text or "").removeprefix(in_think(self.reasoning) if self.reasoning else "")


def in_think(reasoning: str) -> str:
    """Reasoning as it stands before an answer in a candidate's text."""
    return f"<think>\n{reasoning}\n</think>\n\n"


class Generator(Protocol):
    """Samples candidates; ``identity`` goes into the score contract."""

    identity: dict[str, str]
    sampling: Sampling

    def sample(self, questions: Sequence[Question], n: int, seed: int) -> list[list[Candidate]]:
        """``n`` candidates for each question, in the order of the questions.

        What a server could not give is a candidate marked ``failed``; an error is raised only where
        no request can succeed.
        """
