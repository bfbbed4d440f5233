"""Pools from candidates that are on disk already, whatever is known of them.

A file is checked whole before anything is written, and parts are written whole: an import that was killed
goes on where it was when it is run again.
"""

from collections import Counter
from typing import Any

import numpy as np

from data.answers import extract_answer, is_correct
from data.contract import Rule, Sampling, ScoreContract, aggregate
from data.errors import ConfigError, PoolError, ScoreError
from data.pool import Pool
from data.rows import Row, make_row
from data.scored import Candidate, Entry, ScoredFile

NEAR = 0.01
"""By how much a score may differ from what its step scores give: it may have been rounded."""


def imported_contract(
    generator: str, reward_model: str | None, aggregation: str, scale: str = "unit"
) -> ScoreContract:
    """The contract of scores of which no more than these names is known."""
    names = {"generator": generator, "reward_model": reward_model, "aggregation": aggregation, "scale": scale}
    unknown = ("generator_revision", "reward_revision", "prompt_template", "markup")
    fields = names | dict.fromkeys(unknown, "imported")
    return ScoreContract.model_validate({**fields, "sampling": Sampling()})


def import_pool(
    file: ScoredFile,
    location: str,
    generator: str | None = None,
    reward_model: str | None = None,
    aggregation: Rule = "mean",
) -> dict[str, Any]:
    """Add the questions that the pool does not hold yet, part by part; starts the pool if there is none.

    Parameters
    ----------
    file : what to import.
    location : the pool, a path or URI.
    generator, reward_model : who answered and who scored; None: as the file says, else ``unknown``.
    aggregation : how step scores become scores, ``given`` by another rule than a contract can name.

    Returns
    -------
    What was added: ``questions``, how many of them have a reference answer, their ``candidates`` and how many
    of these have a score, a verdict, an answer, tokens (the others count as 0); ``misses`` (not complete, or
    without a score where others have one); the ``scale`` of the scores (unit, raw, none) and which is the
    first outside [0, 1]. What was not: questions ``skipped`` (the pool held them); records ``repeated`` (the
    same once more) or ``left_out`` by what was asked for; and ``not_read``, the keys that nothing was taken
    from, with how often. Besides, how many ``records`` were taken and how many had an id in place of a text.

    Raises
    ------
    ConfigError, PoolError, ScoreError
        If some candidates have no scores, or not by the rule that is named; nothing is written then.
    ContractError
        If the pool there has another contract.
    """
    contract, scores, outside = _check(file, generator, reward_model, aggregation)
    pool = Pool.create(location, contract)
    held = pool.question_ids
    new = {name: entries for name, entries in file.entries.items() if name not in held}
    sizes = [len(scores[name]) for name in new]
    of_candidates = ("score", "verdict", "answer", "tokens")
    count = Counter[str](
        dict.fromkeys(
            ("candidates", *(f"with_{what}" for what in of_candidates), "misses", "empty_completions"), 0
        )
    )
    pool.extend(_rows(entries, scores[name], contract, count) for name, entries in new.items())
    return {
        "questions": len(new),
        "with_reference": sum(entries[0].question.answer is not None for entries in new.values()),
        "fewest_candidates": min(sizes, default=0),
        "most_candidates": max(sizes, default=0),
        **count,
        "scale": contract.scale if contract.reward_model else "none",
        "first_outside": outside,
        "skipped": len(file.entries) - len(new),
        **file.count,
        "not_read": dict(sorted(file.not_read.items())),
        "contract": contract.fingerprint,
    }


def _check(
    file: ScoredFile, generator: str | None, reward_model: str | None, aggregation: Rule
) -> tuple[ScoreContract, dict[str, list[float | None]], str | None]:
    """The contract of what a file holds, each question's scores, and the place of the first beyond [0, 1]."""
    scores: dict[str, list[float | None]] = {}
    scored: str | None = None
    unscored: str | None = None
    outside: str | None = None
    for name, entries in file.entries.items():
        scores[name] = []
        for entry in entries:
            for number, candidate in enumerate(entry.candidates):
                place = f"{entry.where}: score {number}"
                score = _score(candidate, aggregation, place)
                scores[name].append(score)
                if score is not None and not 0 <= score <= 1:
                    outside = outside or f"{place} is {score:g}"
                if candidate.is_scored:
                    scored = scored or entry.where
                else:
                    unscored = unscored or entry.where
    if not scores:
        raise PoolError("the file to import holds no question")
    if scored and unscored:
        raise PoolError(f"{unscored} has no scores, but {scored} has; give null for a candidate without one")
    names = {"generator": generator, "reward_model": reward_model}
    told = {party: name or file.models.get(party, "unknown") for party, name in names.items()}
    if scored:
        return (
            imported_contract(**told, aggregation=aggregation, scale="raw" if outside else "unit"),
            scores,
            outside,
        )
    if reward_model:
        raise ConfigError(
            f"--reward-model {reward_model} names who scored, but {file.file} has no scores; name their key "
            "with --scores-key, or leave the reward model out"
        )
    return imported_contract(told["generator"], None, "given"), scores, outside


def _score(candidate: Candidate, aggregation: Rule, place: str) -> float | None:
    """The score that is given, or that of the steps.

    Raises
    ------
    ScoreError
        If it is to come of step scores by a rule that is not known, or differs from what those give.
    """
    given, steps = candidate.score, candidate.step_scores
    if steps is None or (aggregation == "given" and given is not None):
        return given
    if aggregation == "given":
        raise ScoreError(f"{place} has step scores alone; name what makes one score with --aggregation")
    found = aggregate(np.array(steps), aggregation)
    if given is not None and abs(given - found) > NEAR:
        raise ScoreError(
            f"{place} is {given:g}, but the {aggregation} of its step scores {found:g}; name what made the "
            "scores with --aggregation, or given for another rule"
        )
    return found if given is None else given


def _rows(
    entries: list[Entry], scores: list[float | None], contract: ScoreContract, count: Counter[str]
) -> list[Row]:
    """The rows of a question; ``count`` says what they have."""
    question = entries[0].question
    candidates = [candidate for entry in entries for candidate in entry.candidates]
    rows = []
    for number, (found, score) in enumerate(zip(candidates, scores, strict=True)):
        row = make_row(question, contract, candidate=number, **found.model_dump(exclude_none=True))
        if score is None and contract.reward_model and row["status"] == "complete":
            row["status"] = "failed"
        if contract.scale == "raw":
            row |= {"score": None, "raw_score": score}
        elif score is not None:
            row["score"] = round(score, contract.decimals)
        # Where answers are given none is read from a text: a candidate without one has no answer.
        text, key = found.completion, found.answer_key
        answer = key if key is not None else None if text is None else extract_answer(text) or ""
        if found.correct is None and answer is not None:
            row["correct"] = is_correct(text if key is None else rf"\boxed{{{key}}}", question.answer)
        rows.append(row)
        count.update(
            candidates=1,
            with_score=score is not None,
            with_verdict=row.get("correct") is not None,
            with_answer=bool(answer),
            with_tokens=found.completion_tokens is not None,
            misses=row["status"] != "complete",
            empty_completions=text is not None and not text.strip(),
        )
    return rows
