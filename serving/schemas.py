"""What the service takes and gives, with limits and examples."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from predictor.decision import Decision
from predictor.prior import Prior
from predictor.question import Message, Question

MAX_QUESTION = 20_000
MAX_QUESTIONS = 64
MAX_SCORES = 4096
EXAMPLE = "Compute 61 - 33 + 28."


class Request(BaseModel):
    """Base of requests: unknown keys are an error."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Asked(Request):
    """A question: its text, or its messages."""

    question: str | None = Field(None, min_length=1, max_length=MAX_QUESTION, examples=[EXAMPLE])
    messages: list[Message] | None = Field(None, min_length=1, max_length=64)

    def read(self) -> Question | None:
        """The question, or None where neither form is given.

        Raises
        ------
        ValueError
            If both forms are given, or the messages are too long.
        """
        if self.question is not None and self.messages is not None:
            raise ValueError("give either question or messages, not both")
        if self.messages is not None:
            if sum(len(m.content) for m in self.messages) > MAX_QUESTION:
                raise ValueError(f"the messages have more than {MAX_QUESTION} characters")
            return Question(messages=tuple(self.messages))
        return None if self.question is None else Question.ask(self.question)


class Prediction(BaseModel):
    """What the predictor says of a question before its first candidate."""

    prior: Prior
    mean: float = Field(description="Mean score the prior implies, in [0, 1].", examples=[0.81])
    std: float = Field(description="Standard deviation of its scores.", examples=[0.22])
    chance: float = Field(description="Chance that the cap's candidates reach the target.")
    required_samples: int = Field(description="Fewest with a 90 % chance to; the cap if none has it.")
    feasible: bool = Field(description="Whether some number within the cap has that chance.")
    expected_tokens: float = Field(description="Tokens that this many candidates take.")
    contract: str = Field(description="Score contract that the prior speaks of.")


class DecideRequest(Asked):
    """Scores so far of one question, and the question or its prior."""

    model_config = ConfigDict(
        extra="forbid",
        allow_inf_nan=False,
        json_schema_extra={"example": {"question": EXAMPLE, "scores": [0.31, 0.42]}},
    )

    prior: Prior | None = None
    scores: list[Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=list, max_length=MAX_SCORES, examples=[[0.31, 0.42]]
    )
    tokens: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, max_length=MAX_SCORES, description="Completion tokens of each scored candidate."
    )
    failed: int = Field(0, ge=0, le=MAX_SCORES, description="Candidates drawn without a score.")
    contract: str | None = Field(
        None, description="Fingerprint the scores were made under; checked where it is given."
    )


class DecideResponse(Decision):
    """The decision, and what it rests on."""

    prior: Prior | None
    contract: str
    chance_correct: float | None = Field(
        None, description="Chance that the best answer so far is right; null where it is not known."
    )
    promise: str | None = Field(None, description="The certificate's statement on the policy.")
