"""What the service takes and gives, with limits and examples."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data.errors import QuestionError
from data.feedback import Verdict
from data.question import Message, Question
from data.record import Record
from predictor.decision import Decision
from predictor.prior import Prior

MAX_QUESTION = 20_000
MAX_QUESTIONS = 64
MAX_TURNS = 256
MAX_SCORES = 4096
MAX_ANSWER = 10_000
Answer = Annotated[str, Field(max_length=MAX_ANSWER)]
EXAMPLE = "Compute 61 - 33 + 28."


class Asked(Record):
    """A question: its text, or its messages."""

    question: str | None = Field(None, min_length=1, max_length=MAX_QUESTION, examples=[EXAMPLE])
    messages: list[Message] | None = Field(None, min_length=1, max_length=MAX_TURNS)

    def read(self) -> Question | None:
        """The question, or None where neither form is given.

        Raises
        ------
        QuestionError
            If both forms are given, or the question is empty or too long.
        """
        if self.question is not None and self.messages is not None:
            raise QuestionError("give either question or messages, not both")
        if self.messages is None and self.question is None:
            return None
        turns = self.messages or [Message(role="user", content=self.question or "")]
        if sum(len(turn.content) for turn in turns) > MAX_QUESTION:
            raise QuestionError(f"the messages have more than {MAX_QUESTION} characters")
        if not turns[-1].content.strip():
            raise QuestionError("the question is empty")
        return Question(messages=tuple(turns))

    def require(self) -> Question:
        """The question.

        Raises
        ------
        QuestionError
            If none is given, both forms are, or it is empty or too long.
        """
        question = self.read()
        if question is None:
            raise QuestionError("every item needs a question or messages")
        return question


class Placed(Asked):
    """A question, and the folder of the bundle whose predictor is asked: between the two services."""

    bundle: str


class PredictRequest(BaseModel):
    """Questions that nothing was drawn of yet."""

    questions: list[Asked] = Field(max_length=MAX_QUESTIONS, examples=[[{"question": EXAMPLE}]])


class Prediction(Record):
    """What the predictor says of a question before its first candidate."""

    prior: Prior
    mean: float = Field(examples=[0.81])
    """Mean score the prior implies, in [0, 1]."""
    std: float = Field(examples=[0.22])
    """Standard deviation of its scores."""
    chance: float
    """Chance that the cap's candidates reach the target."""
    required_samples: int
    """Fewest with a 90 % chance to; the cap if none has it."""
    feasible: bool
    """Whether some number within the cap has that chance."""
    expected_tokens: float
    """Tokens that this many candidates take."""
    contract: str
    """Score contract of the scores that the prior is of."""


class DecideRequest(Asked):
    """Scores so far of one question, and the question or its prior."""

    model_config = ConfigDict(json_schema_extra={"example": {"question": EXAMPLE, "scores": [0.31, 0.42]}})

    prior: Prior | None = None
    scores: list[float] = Field(default_factory=list, max_length=MAX_SCORES, examples=[[0.31, 0.42]])
    """In [0, 1]; any numbers where the contract's scores are raw."""
    tokens: list[Annotated[int, Field(ge=0, le=2**31)]] | None = Field(None, max_length=MAX_SCORES)
    """Completion tokens of each scored candidate."""
    answers: list[Answer | None] | None = Field(None, max_length=MAX_SCORES)
    """Answer of each scored candidate, null for none; without scores, of each candidate drawn. Equal
    answers may be spelled differently."""
    failed: int = Field(0, ge=0, le=MAX_SCORES)
    """Candidates drawn without a score."""
    contract: str | None = None
    """Fingerprint the scores were made under; checked where it is given. Without it nothing is promised."""


class DecideResponse(Decision):
    """The decision, and what it rests on."""

    prior: Prior | None
    contract: str
    chance_correct: float | None = None
    """Chance that the best answer so far is right; null where it is not known."""
    promise: str | None = None
    """What the certificate says of the policy; null where this request is not what was certified: a prior
    of the client's own, no question, no contract, `failed` above 0, no answers or scores or tokens for a
    policy that reads them, answers for one that does not, or candidates that it had not asked for."""


class FeedbackRequest(Record):
    """What a person says of an answer: any of verdict, right answer, score."""

    request_id: str = Field(min_length=1, max_length=200)
    """As the answer's `optscale` has it."""
    verdict: Verdict = "unsure"
    """Whether the delivered answer is right."""
    answer: str | None = Field(None, min_length=1, max_length=MAX_ANSWER)
    """The right answer."""
    score: float | None = None
    """How good it was, on a scale of the client's."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.verdict == "unsure" and self.answer is None and self.score is None:
            raise ValueError("give a verdict (right or wrong), the right answer, or a score")
        return self


class FeedbackResponse(Record):
    """It is in the file."""

    request_id: str
    kept: bool


class Description(Record):
    """What the bundle is; the card as it is on disk."""

    model_config = ConfigDict(extra="allow")

    fingerprint: str
    """Of the score contract."""
    promise: str | None
    """What is certified of the policy; null where nothing is."""
    says: str
    """The promise; where there is none, that, and what is drawn all the same."""
    models: dict[str, str]
    """The same of each model that is served."""


class Health(Record):
    """What is there, and what is away."""

    predictor: bool
    away: list[str]
    """Of generator and reward model, those that do not answer, and why."""
    requests: int
    """Chat requests under way."""
