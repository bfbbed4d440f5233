"""Reward models: from a question and its completion to one score a step."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from data.contract import Aggregation, Span
from data.question import Question

END_OF_REASONING = "</think>"


class StepScores(NamedTuple):
    """What a reward model says of one completion."""

    steps: list[float] | None
    """P(step right) of each step; None where the completion could not be scored."""
    tokens: int
    """Tokens read by the reward model."""
    over_length: bool = False
    """The completion has more tokens than the model has positions."""
    cause: str | None = None
    """Why it could not be scored, where that was the server's fault."""


class RewardModel(Protocol):
    """Scores completions step by step; ``identity`` goes into the score contract."""

    identity: dict[str, str]
    aggregation: Aggregation

    def score(self, items: Sequence[tuple[Question, str]]) -> list[StepScores]:
        """Step scores of each (question, completion), in order."""


def scored_part(completion: str, span: Span) -> str:
    """The part of a reasoning model's completion that ``span`` names.

    Without an end of reasoning there is no answer after it; a text that has not even begun to reason
    is all answer.
    """
    if span == "all":
        return completion
    before, end, after = completion.partition(END_OF_REASONING)
    begun = before.lstrip().startswith("<think>")
    if span == "reasoning":
        return before.lstrip().removeprefix("<think>") if end or begun else ""
    return after if end else "" if begun else completion
