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
from data.pool import Pool, Row, make_row
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
    What was added, by name: ``questions``, and how many of them have a ``reference`` answer; their
    ``candidates``, the ``fewest`` and ``most`` of a question, and how many have a ``score``, a ``verdict``,
    an ``answer``, ``tokens``; ``misses`` (not complete, or without a score where others have one) and
    ``empty_completions``; the ``scale`` of the scores (unit, raw, none), and which score is the first
    ``outside`` [0, 1]. What was not: questions ``skipped`` (the pool held them); and of the file's records
    those ``repeated`` (the same once more) and ``left_out`` by what was asked for, and ``not_read``, the keys
    that nothing was taken from, with how often. Besides, how many ``records`` were taken and had an id
    ``in_place_of_text``, and the pool's ``contract``.

    Raises
    ------
    ConfigError, PoolError, ScoreError
        If some candidates have no scores, or not by the rule that is named; nothing is written then.
    ContractError
        If the pool there has another contract.
    """
    contract, scores, outside = _check(file, generator, reward_model, aggregation)
    pool = Pool.create(location, contract)
    held, count = pool.question_ids, Counter[str]()
    new = {name: entries for name, entries in file.entries.items() if name not in held}
    pool.extend(_rows(entries, scores[name], contract, count) for name, entries in new.items())
    names = ("reference", "candidates", "score", "verdict", "answer", "tokens", "misses", "empty_completions")
    sizes = [len(scores[name]) for name in new]
    return {
        "questions": len(new),
        "fewest": min(sizes, default=0),
        "most": max(sizes, default=0),
        **{name: count[name] for name in names},
        "skipped": len(file.entries) - len(new),
        **file.count,
        "not_read": dict(sorted(file.not_read.items())),
        "scale": contract.scale if contract.reward_model else "none",
        "outside": outside,
        "contract": contract.fingerprint,
    }


def describe(done: dict[str, Any]) -> str:
    """What `import_pool` gives as lines of text."""
    n = done["candidates"]
    each = f"{done['fewest']} to {done['most']}" if done["fewest"] < done["most"] else f"{done['most']}"
    scores = "nothing scored them" if done["scale"] == "none" else f"{done['score']} have a score"
    raw = f", raw, for {done['outside']}" if done["outside"] else ""
    lines = [
        f"added: {done['questions']} questions ({done['reference']} with a reference answer) with {each} "
        f"candidates each, {n} in all",
        f"of the candidates {scores}{raw}; {done['verdict']} a verdict, {done['answer']} an answer, "
        f"{done['tokens']} tokens (the others count as 0)",
    ]
    others = ("misses", "empty_completions", "skipped", "repeated", "left_out", "in_place_of_text")
    lines += [f"{name.replace('_', ' ')}: {done[name]}" for name in others if done[name]]
    unread = ", ".join(f"{name} ({number})" for name, number in done["not_read"].items())
    return "\n".join([*lines, f"not read: {unread or 'nothing'}", f"contract: {done['contract']}"])


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
    count["reference"] += question.answer is not None
    rows = []
    for number, (found, score) in enumerate(zip(candidates, scores, strict=True)):
        # Where answers are given, none is read from a completion: a candidate without one has no answer.
        key = found.answer or "" if "answer" in found.model_fields_set else None
        text = found.completion if key is None else rf"\boxed{{{key}}}" if key else ""
        right = found.correct
        if right is None and text is not None:
            right = is_correct(text, question.answer)
        status = found.status or "complete"
        if score is None and contract.reward_model and status == "complete":
            status = "failed"
        is_raw = contract.scale == "raw"
        rows.append(
            make_row(
                question,
                contract,
                candidate=number,
                round=0,
                completion=found.completion,
                completion_tokens=found.completion_tokens or 0,
                prompt_tokens=found.prompt_tokens or 0,
                status=status,
                step_scores=found.step_scores,
                score=None if score is None or is_raw else round(score, contract.decimals),
                raw_score=score if is_raw else None,
                answer_key=key,
                correct=right,
                reward_tokens=found.reward_tokens or 0,
                seed=-1,
            )
        )
        count["candidates"] += 1
        count["score"] += score is not None
        count["verdict"] += right is not None
        count["answer"] += bool(key) if text is None or key is not None else extract_answer(text) is not None
        count["tokens"] += found.completion_tokens is not None
        count["misses"] += status != "complete"
        count["empty_completions"] += found.completion is not None and not found.completion.strip()
    return rows
