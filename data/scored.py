"""Scored candidates as people have them on disk: a line a question, a line a candidate, released files."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from data.errors import PoolError, ScoreError
from data.question import Question, normalise
from data.questions import keys_read, parse_question
from data.record import Record
from data.records import JsonObject, read_records, source_of
from data.validation import explain

TEXTS = ("completion", "response")
"""Keys of the text of a line that is one candidate."""
MODELS = ("model", "model_name", "generator", "reward_model")
"""Keys by which a file of several models tells them apart."""
Status = Literal["complete", "cut", "over-length", "failed", "cancelled"]
Score = Annotated[float, Field(ge=0, le=1)]


def _whole(value: Any) -> Any:
    """A data frame with gaps makes floats of its integers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _verdict(value: Any) -> Any:
    return bool(value) if isinstance(value, int | float) and value in (0, 1) else value


Tokens = Annotated[int, Field(ge=0, lt=2**31), BeforeValidator(_whole)]
Verdict = Annotated[bool, BeforeValidator(_verdict)]


class Scored(Record):
    """Candidates of one question; a list that is not known is None."""

    model_config = ConfigDict(strict=True)

    scores: list[Score | None] | None = Field(None, min_length=1)
    """None where the step scores are what is known."""
    step_scores: list[list[Score] | None] | None = Field(None, min_length=1)
    completions: list[str | None] | None = None
    completion_tokens: list[Tokens] | None = None
    reward_tokens: list[Tokens] | None = None
    correct: list[Verdict | None] | None = None
    status: list[Status | None] | None = None
    prompt_tokens: Tokens = 0

    def __len__(self) -> int:
        return len(self.scores if self.scores is not None else self.step_scores or ())

    @model_validator(mode="after")
    def _equally_long(self) -> Self:
        for name in PER_CANDIDATE:
            values = getattr(self, name)
            if values is not None and len(values) != len(self):
                raise ValueError(f"{len(self)} scores, but {name} has {len(values)} entries")
        return self


PER_CANDIDATE = tuple(name for name in Scored.model_fields if name != "prompt_tokens")


class Entry(NamedTuple):
    """What one record, or several of one question, hold."""

    question: Question
    found: Scored
    where: str
    unread: Counter[str]
    """Keys that nothing was taken from, and of how many records."""
    records: int = 1
    single: bool = False
    """Whether a record is one candidate."""


def read_scores(file: Path, key: str = "scores") -> Iterator[Entry]:
    """Records that are a question and the scores of its candidates under ``key``, or of one of them.

    A record that is one candidate waits for the others of its question until the file ends.

    Raises
    ------
    PoolError, QuestionError, ScoreError
        If the file cannot be read, a record is bad, or two contradict each other; names file and place.
    """
    waiting: dict[str, list[Entry]] = {}
    models: dict[str, tuple[Any, str]] = {}
    for where, record in read_records(file):
        for name in MODELS:
            model, first = models.setdefault(name, (record.get(name), where))
            if model != record.get(name):
                raise PoolError(
                    f"{where}: {name} is {record.get(name)!r:.60}, but {model!r:.60} in {first}: a pool is "
                    "of one model; give a file for each"
                )
        entry = _entry(record, key, where, source_of(file))
        if entry.single:
            waiting.setdefault(entry.question.id, []).append(entry)
        else:
            yield entry
    for entries in waiting.values():
        yield _joined(entries)


def read_optscale(file: Path, prompts: Path | None = None, key: str = "scores") -> Iterator[Entry]:
    """Items as the paper's authors release them; their prompts are another file in the same order.

    Their files are one list, which is read as a whole.

    Raises
    ------
    PoolError, QuestionError, ScoreError
        If a file cannot be read, an item is bad, or prompts and items do not match; says where.
    """
    items = [found for where, item in read_records(file) for found in _split_item(item, key, where)]
    asked = None
    if prompts is not None:
        source = source_of(prompts)
        records = list(read_records(prompts))
        asked = [parse_question(record, where, source) for where, record in records]
        if len(asked) != len(items):
            raise PoolError(
                f"{file} has {len(items)} questions, {prompts} {len(asked)}; give its own prompts"
            )
        for (_, record), (_, _, unread) in zip(records, items, strict=True):
            unread.update(f"prompts.{name}" for name in record if name not in keys_read(record))
    for place, (where, found, unread) in enumerate(items):
        text = found.pop("problem", None)
        if asked is None and text is None:
            raise PoolError(f"{where} has no problem text; give the questions with --prompts")
        question = asked[place] if asked else parse_question({"problem": text}, where, source_of(file))
        if text is not None and normalise(str(text)) != normalise(question.text):
            raise PoolError(
                f"{where} asks {str(text)[:60]!r}, but position {place + 1} of {prompts} asks "
                f"{question.text[:60]!r}; give prompts in the order of the items"
            )
        yield Entry(question, _scored(found, key, where, found), where, unread)


def _split_item(item: JsonObject, key: str, where: str) -> Iterator[tuple[str, JsonObject, Counter[str]]]:
    """One record a question: each list of an item has an entry for each of its questions, mostly one."""
    score = item.get("score")
    if not isinstance(score, dict):
        raise PoolError(f"{where} has no object 'score'; is it of --format scores?")
    if not isinstance(score.get(key), list):
        raise ScoreError(f"{where}: no list {key!r} among {', '.join(score)}; --scores-key names the scores")
    width = len(score[key])
    names = [n for n in ("problem", key, "completions", "completion_tokens") if score.get(n) is not None]
    for name in names:
        if not isinstance(score[name], list) or len(score[name]) != width:
            raise PoolError(f"{where}: {key} is for {width} questions; {name} must be a list of as many")
    unread = Counter([*(n for n in item if n != "score"), *(f"score.{n}" for n in score if n not in names)])
    for place in range(width):
        yield (
            where if width == 1 else f"{where}, question {place + 1}",
            {name: score[name][place] for name in names},
            Counter[str]() if place else unread,
        )


def _entry(record: JsonObject, key: str, where: str, source: str) -> Entry:
    question = parse_question(record, where, source)
    # A gap in a data frame is null or NaN, and that is not itself.
    values = {name: value for name, value in record.items() if value is not None and value == value}
    if key == "scores" and key not in record and "score" in record:
        key = "score"
    tokens = "completion_tokens" if "completion_tokens" in values else "tokens"
    text = next((name for name in TEXTS if name in values), "completions")
    steps = values.get("step_scores")
    single = isinstance(values.get(text), str) or isinstance(values.get(key), int | float)
    single |= isinstance(steps, list) and any(isinstance(step, int | float) for step in steps)
    taken = {
        "completions": text,
        "completion_tokens": tokens,
        **{name: name for name in ("reward_tokens", "correct", "status", "prompt_tokens", "step_scores")},
        key: key,
    }
    found = {name: values[held] for name, held in taken.items() if held in values}
    if single:
        found = {n: v if n == "prompt_tokens" else [v] for n, v in found.items()}
        if missing := [name for name in (key, "step_scores") if name in record][:1]:
            found.setdefault(missing[0], [None])
    scored = _scored(found, key, where, record)
    read = {*keys_read(record), *taken.values()}
    unread = Counter(name for name in record if name not in read)
    # A list of one candidate is one all the same, where others have a line each too.
    return Entry(question, scored, where, unread, single=single or len(scored) == 1)


def _scored(values: JsonObject, key: str, where: str, known: Iterable[str]) -> Scored:
    """Candidates from lists of one entry each, the scores (or step scores) under ``key``.

    ``known`` are the keys of the record that the values are from.
    """
    if not isinstance(values.get(key), list) and (key in values or "step_scores" not in values):
        what = f"{key} is {values[key]!r:.40}" if key in values else f"no {key!r} among {', '.join(known)}"
        message = f"{where}: {what}; give a list with one score a candidate; --scores-key names another key"
        if "correct" in values:
            message += (
                ". A verdict alone is no score: where what judges candidates does so in service too, take it "
                "for one with --scores-key correct; else have them scored"
            )
        raise ScoreError(message)
    given = dict(values)
    scores = given.pop(key, None)
    if key == "correct":
        given["correct"] = scores
        scores = [float(score) if isinstance(score, bool) else score for score in scores]
    name = "step_scores" if any(isinstance(score, list) for score in scores or ()) else "scores"
    given[name] = scores
    if isinstance(given.get("step_scores"), list):
        given["step_scores"] = [None if steps == [] else steps for steps in given["step_scores"]]
    try:
        return Scored.model_validate(given)
    except ValidationError as error:
        first = error.errors()[:1]
        of_scores = first[0]["loc"][:1] == (name,)
        if of_scores:
            first[0]["loc"] = (key, *first[0]["loc"][1:])
        problem = explain(first, Scored)
        if of_scores or first[0]["loc"][:1] == ("step_scores",):
            message = f"{where}: {problem}; scores lie in [0, 1], and a candidate without one has null"
            if first[0]["type"] in {"greater_than_equal", "less_than_equal"}:
                message += (
                    ". Map raw rewards there first: logits by 1 / (1 + exp(-x)), log-likelihoods by exp(x)"
                )
            raise ScoreError(message) from error
        raise PoolError(f"{where}: {problem}; each list has one entry a candidate") from error


def _joined(entries: list[Entry]) -> Entry:
    """Records of one candidate each as one entry.

    Raises
    ------
    PoolError
        If they name different answers or groups, or some have no scores or tokens and others do.
    """
    first = entries[0]
    for entry in entries[1:]:
        for name in ("answer", "group", "source"):
            one, other = getattr(first.question, name), getattr(entry.question, name)
            if one != other:
                raise PoolError(
                    f"{entry.where}: {name} is {other!r:.60}, but {one!r:.60} in {first.where}, which asks "
                    "the same question; let them agree"
                )
        for name in ("scores", "completion_tokens", "reward_tokens"):
            if (getattr(first.found, name) is None) != (getattr(entry.found, name) is None):
                has, lacks = (entry, first) if getattr(first.found, name) is None else (first, entry)
                raise PoolError(
                    f"{lacks.where} has no {name}, but {has.where}, of the same question, has; give it for "
                    "all candidates or for none"
                )
    lists: dict[str, Any] = {
        name: [value for entry in entries for value in getattr(entry.found, name) or [None]]
        for name in PER_CANDIDATE
        if any(getattr(entry.found, name) is not None for entry in entries)
    }
    found = Scored(**lists, prompt_tokens=max(entry.found.prompt_tokens for entry in entries))
    unread = sum((entry.unread for entry in entries), Counter[str]())
    return first._replace(found=found, unread=unread, records=len(entries))
