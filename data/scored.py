"""Candidates as people have them on disk: a record a question, a record a candidate, released files."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError

from data.errors import ConfigError, PoolError, ScoreError
from data.question import Question, normalise
from data.questions import TEXT_KEYS, as_text, take_question
from data.read_file import JsonObject, read_records, source_of
from data.record import Record
from data.validation import explain

KEYS = {
    "score": ("scores", "score"),
    "step_scores": ("step_scores",),
    "completion": ("completions", "completion", "response"),
    "answer_key": ("answers", "extracted_answer", "prediction"),
    "correct": ("correct",),
    "status": ("status",),
    "completion_tokens": ("completion_tokens", "tokens"),
    "reward_tokens": ("reward_tokens",),
    "prompt_tokens": ("prompt_tokens",),
}
"""Fields of `Candidate`, and the keys by which records have them; the first that is not null is taken."""
GENERATORS, REWARD_MODELS = ("model", "model_name", "generator"), ("reward_model",)
"""Keys by which a file of several models tells them apart."""


def _whole(value: Any) -> Any:
    """A data frame with gaps makes floats of its integers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _verdict(value: Any) -> Any:
    return bool(value) if isinstance(value, int | float) and value in (0, 1) else value


def _answer(value: Any) -> Any:
    text = as_text(value)
    return normalise(text) if isinstance(text, str) else "" if text is None else text


Tokens = Annotated[int, Field(ge=0, lt=2**31), BeforeValidator(_whole)]


class Candidate(Record):
    """What a file says of one candidate; a field that it does not have is not in ``model_fields_set``."""

    model_config = ConfigDict(strict=True)

    score: float | None = None
    """In [0, 1] or raw."""
    step_scores: Annotated[list[float] | None, BeforeValidator(lambda steps: steps or None)] = None
    completion: str | None = None
    answer_key: Annotated[str | None, BeforeValidator(_answer)] = None
    """What was extracted, empty where that was nothing; None where it is not said."""
    correct: Annotated[bool | None, BeforeValidator(_verdict)] = None
    status: Literal["complete", "cut", "over-length", "failed", "cancelled"] | None = None
    completion_tokens: Tokens | None = None
    reward_tokens: Tokens | None = None
    prompt_tokens: Tokens | None = None


class Entry(NamedTuple):
    """What one record holds."""

    question: Question
    candidates: list[Candidate]
    where: str

    @property
    def is_scored(self) -> bool:
        """Whether the record has a place for scores, be they null."""
        return bool(self.candidates[0].model_fields_set & {"score", "step_scores"})


class ScoredFile:
    """What a file of candidates holds; it is read whole.

    Parameters
    ----------
    file : JSON lines, a JSON list or Parquet, as `data.read_file` reads them.
    key : key of the scores.
    where : ``field=value``, what records must have, as text; the others are left out.
    format_ : ``scores``, or ``optscale`` for items as the paper's authors release them. None: as the first
        record looks.
    prompts : questions of an ``optscale`` file, in its order.

    Raises
    ------
    ConfigError, PoolError, QuestionError, ScoreError
        If a file cannot be read, a record is bad, two contradict each other, or prompts and items do not
        match; names file and place.
    """

    def __init__(
        self,
        file: Path,
        key: str = "scores",
        where: Sequence[str] = (),
        format_: str | None = None,
        prompts: Path | None = None,
    ) -> None:
        self.file = file
        self.entries: dict[str, list[Entry]] = {}
        """Records of each question, by its id."""
        self.count = Counter[str](dict.fromkeys(("records", "left_out", "repeated", "in_place_of_text"), 0))
        """Records that were taken, left out by ``where``, there once more, or had an id for a text."""
        self.not_read = Counter[str]()
        """Keys that nothing was taken from, and of how many questions or candidates."""
        self.models: dict[str, str] = {}
        """Names of ``generator`` and ``reward_model``, where records say them."""
        records = list(self._chosen([asked.partition("=") for asked in where]))
        if format_ is None:
            is_item = bool(records) and isinstance(records[0][1].get("score"), dict)
            format_ = "optscale" if is_item else "scores"
        if prompts and format_ == "scores":
            raise ConfigError("--prompts goes with --format optscale; lines of scores hold their questions")
        asked = self._asked(records) if format_ == "scores" else self._released(records, key, prompts)
        for place, question, record in asked:
            self._add(Entry(question, _take_candidates(record, key, place), place))
            self.not_read.update(name for name, value in record.items() if value is not None)

    def _chosen(self, wanted: Sequence[tuple[str, str, str]]) -> Iterator[tuple[str, JsonObject]]:
        """Records that are asked for; all are of one model."""
        for field, equals, _ in wanted:
            if not equals:
                raise ConfigError(f"--where {field}: give a field and its value, e.g. model=NAME")
        first_of: dict[str, tuple[Any, str]] = {}
        others: dict[str, None] = {}
        for where, record in read_records(self.file):
            # A gap in a data frame is null or NaN, and that is not itself.
            kept = {name: value if value == value else None for name, value in record.items()}
            has = [(field, "=", str(as_text(kept.get(field)))) for field, *_ in wanted]
            if has != wanted:
                self.count["left_out"] += 1
                others.update(dict.fromkeys("".join(pair)[:80] for pair in has))
                continue
            self.count["records"] += 1
            for name in (*GENERATORS, *REWARD_MODELS):
                value = kept.get(name)
                model, first = first_of.setdefault(name, (value, where))
                if model != value:
                    raise PoolError(
                        f"{where}: {name} is {value!r:.60}, but {model!r:.60} in {first}: a pool is of one "
                        f"model; choose one with --where {name}=NAME, or give a file for each"
                    )
                party = "generator" if name in GENERATORS else "reward_model"
                if isinstance(value, str) and self.models.setdefault(party, value) == value:
                    del kept[name]
            yield where, kept
        if others and not first_of:
            there = ", ".join(others)[:400]
            raise PoolError(f"{self.file} has no record that --where asks for; it has {there}")

    def _asked(self, records: list[tuple[str, JsonObject]]) -> Iterator[tuple[str, Question, JsonObject]]:
        for where, record in records:
            has_text = any(isinstance(record.get(key), str | list) for key in ("messages", *TEXT_KEYS))
            self.count["in_place_of_text"] += not has_text
            yield where, take_question(record, where, source_of(self.file), or_id=True), record

    def _released(
        self, records: list[tuple[str, JsonObject]], key: str, prompts: Path | None
    ) -> Iterator[tuple[str, Question, JsonObject]]:
        """Each question of the items, with what is said of its candidates."""
        items = [found for where, item in records for found in _split_item(item, key, where)]
        asked = list(read_records(prompts)) if prompts else []
        if prompts and len(asked) != len(items):
            raise PoolError(
                f"{self.file} has {len(items)} questions, {prompts} {len(asked)}; give its own prompts"
            )
        for place, (where, item) in enumerate(items):
            text = item.pop("problem", None)
            if not prompts:
                if text is None:
                    raise PoolError(f"{where} has no problem text; give the questions with --prompts")
                yield where, take_question({"problem": text}, where, source_of(self.file)), item
                continue
            prompt_where, prompt = asked[place]
            question = take_question(prompt, prompt_where, source_of(prompts))
            if text is not None and normalise(str(text)) != normalise(question.text):
                raise PoolError(
                    f"{where} asks {str(text)[:60]!r}, but position {place + 1} of {prompts} asks "
                    f"{question.text[:60]!r}; give prompts in the order of the items"
                )
            yield where, question, item | {f"prompts.{name}": value for name, value in prompt.items()}

    def _add(self, entry: Entry) -> None:
        """Keep an entry beside those of its question, unless it is the same list of candidates once more."""
        known = self.entries.setdefault(entry.question.id, [])
        for name in ("answer", "group", "source") if known else ():
            one, other = getattr(known[0].question, name), getattr(entry.question, name)
            if one != other:
                raise PoolError(
                    f"{entry.where}: {name} is {other!r:.60}, but {one!r:.60} in {known[0].where}, which "
                    "asks the same question; let them agree"
                )
        # Single candidates that are equal are candidates all the same.
        if len(entry.candidates) > 1 and any(entry.candidates == other.candidates for other in known):
            self.count["repeated"] += 1
        else:
            known.append(entry)


def _split_item(item: JsonObject, key: str, where: str) -> Iterator[tuple[str, JsonObject]]:
    """One record a question: each list of an item has an entry for each of its questions, mostly one."""
    score = item.pop("score", None)
    if not isinstance(score, dict):
        raise PoolError(f"{where} has no object 'score'; is it of --format scores?")
    if not isinstance(score.get(key), list):
        raise ScoreError(f"{where}: no list {key!r} among {', '.join(score)}; --scores-key names the scores")
    width = len(score[key])
    names = [n for n in ("problem", key, "completions", "completion_tokens") if score.get(n) is not None]
    for name in names:
        if not isinstance(score[name], list) or len(score[name]) != width:
            raise PoolError(f"{where}: {key} is for {width} questions; {name} must be a list of as many")
    unread = item | {f"score.{name}": value for name, value in score.items() if name not in names}
    for place in range(width):
        found = {name: score[name][place] for name in names}
        yield where if width == 1 else f"{where}, question {place + 1}", {**unread, **found}


def _take_candidates(record: JsonObject, key: str, where: str) -> list[Candidate]:
    """The candidates of a record, which are taken out of it."""
    if key != "scores" and key not in record:
        raise ScoreError(f"{where}: no {key!r} among {', '.join(record)}; --scores-key names the scores")
    names, found = dict[str, str](), JsonObject()
    for field, known in {**KEYS, "score": KEYS["score"] if key == "scores" else (key,)}.items():
        if here := [name for name in known if name in record]:
            names[field] = next((name for name in here if record[name] is not None), here[0])
            found[field] = record.pop(names[field])
    if key == "correct":
        found["correct"] = found["score"]
    steps, *shown = (found.get(n) for n in ("step_scores", "score", "completion", "answer_key", "correct"))
    if all(value is None for value in (steps, *shown)) and names.get("score", "scores") == "scores":
        raise ScoreError(
            f"{where} has no candidates: none of scores, step_scores, completions, answers, correct among "
            f"{', '.join(record)}; --scores-key names the scores where they are under another key"
        )
    of_steps = isinstance(steps, list) and not any(isinstance(step, int | float) for step in steps)
    many = of_steps or any(isinstance(value, list) for value in shown)
    if isinstance(found.get("completion"), str) or not many:
        return [_candidate(found, names, "", where)]
    found = {field: value for field, value in found.items() if value is not None}
    prompt = {"prompt_tokens": found.pop("prompt_tokens")} if "prompt_tokens" in found else {}
    first, *_ = found
    for field, values in found.items():
        if not isinstance(values, list):
            raise PoolError(
                f"{where}: {names[field]} is {values!r:.40}; give a list with one entry a candidate"
            )
        if len(values) != len(found[first]) or not values:
            raise PoolError(
                f"{where}: {names[field]} has {len(values)} entries, {names[first]} {len(found[first])}; "
                "give each list one entry a candidate"
            )
    rows = (dict(zip(found, values, strict=True)) | prompt for values in zip(*found.values(), strict=True))
    return [_candidate(row, names, f".{number}", where) for number, row in enumerate(rows)]


def _candidate(values: JsonObject, names: dict[str, str], number: str, where: str) -> Candidate:
    """One candidate of its values; ``names`` are the keys of the record that they are from."""
    score = values.get("score")
    if isinstance(score, list):
        if values.get("step_scores") is not None:
            raise ScoreError(f"{where}: {names['score']} and step_scores both have steps; give one of them")
        values = {name: value for name, value in values.items() if name != "score"} | {"step_scores": score}
        names = names | {"step_scores": names["score"]}
    elif isinstance(score, bool) and names["score"] == "correct":
        values = values | {"score": float(score)}
    try:
        return Candidate.model_validate(values)
    except ValidationError as error:
        first = error.errors()[:1]
        field = str(first[0]["loc"][0])
        first[0]["loc"] = (names[field] + number, *first[0]["loc"][1:])
        fault = ScoreError if field in ("score", "step_scores") else PoolError
        raise fault(f"{where}: {explain(first, Candidate)}; null stands for what is not known") from error
