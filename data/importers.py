"""Pools from candidates that are on disk already, whatever is known of them.

A file is checked whole before anything is written, and parts are written whole: an import that was killed
goes on where it was when it is run again.
"""

from collections import Counter
from itertools import chain
from typing import Any

import numpy as np

from data.answers import extract_answer, is_right
from data.contract import Rule, Sampling, ScoreContract, aggregate
from data.errors import ConfigError, PoolError, ScoreError
from data.pool import Pool
from data.rows import Row, make_row
from data.scored import Entry, ScoredFile

NEAR = 0.01
"""By how much a score may differ from what its step scores give: it may have been rounded."""
COUNTED = (
    *("with_reference", "candidates", "with_score", "with_verdict", "with_answer", "with_tokens"),
    *("misses", "empty_completions"),
)


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
    without a score where others have one); the ``scale`` of the scores (unit, raw, none) and how many lie
    outside [0, 1]. What was not: questions ``skipped`` (the pool held them); records ``repeated`` (the
    same once more) or ``left_out`` by what was asked for; and ``not_read``, the keys that nothing was taken
    from, with how often. Besides, how many ``records`` were taken and how many had an id in place of a text.

    Raises
    ------
    ConfigError, PoolError, ScoreError
        If some candidates have no scores, or not by the rule that is named; nothing is written then.
    ContractError
        If the pool there has another contract.
    """
    scores = {name: [_scores(entry, aggregation) for entry in found] for name, found in file.entries.items()}
    every = [score for lists in scores.values() for score in chain.from_iterable(lists) if score is not None]
    outside = sum(not 0 <= score <= 1 for score in every)
    contract = _contract(file, generator, reward_model, aggregation, "raw" if outside else "unit")
    pool = Pool.create(location, contract)
    held, count = pool.question_ids, Counter[str](dict.fromkeys(COUNTED, 0))
    new = [name for name in file.entries if name not in held]
    sizes = [sum(map(len, scores[name])) for name in new]
    pool.extend(_rows(file.entries[name], scores[name], contract, count) for name in new)
    return {
        "questions": len(new),
        "fewest_candidates": min(sizes, default=0),
        "most_candidates": max(sizes, default=0),
        **count,
        "scale": contract.scale if contract.reward_model else "none",
        "scores_outside_0_1": outside,
        "skipped": len(file.entries) - len(new),
        **file.count,
        "not_read": dict(sorted(file.not_read.items())),
        "contract": contract.fingerprint,
    }


def _contract(
    file: ScoredFile, generator: str | None, reward_model: str | None, aggregation: Rule, scale: str
) -> ScoreContract:
    """The contract of what a file holds, by what is said of it and what it says itself."""
    entries = [entry for found in file.entries.values() for entry in found]
    scored = [entry for entry in entries if entry.is_scored]
    if not entries:
        raise PoolError("the file to import holds no question")
    generator = generator or file.models.get("generator", "unknown")
    if not scored:
        if reward_model:
            raise ConfigError(
                f"--reward-model {reward_model} names who scored, but {file.file} has no scores; name their "
                "key with --scores-key, or leave the reward model out"
            )
        return imported_contract(generator, None, "given")
    for entry in entries:
        if not entry.is_scored:
            raise PoolError(
                f"{entry.where} has no scores, but {scored[0].where} has; give null for a candidate without"
            )
    reward_model = reward_model or file.models.get("reward_model", "unknown")
    return imported_contract(generator, reward_model, aggregation, scale)


def _scores(entry: Entry, aggregation: Rule) -> list[float | None]:
    """The score of each candidate, as it is given or of its steps.

    Raises
    ------
    ScoreError
        If it is to come of step scores by a rule that is not known, or differs from what those give.
    """
    scores = []
    for number, candidate in enumerate(entry.candidates):
        score, steps, place = candidate.score, candidate.step_scores, f"{entry.where}: score {number}"
        if steps is not None and aggregation != "given":
            found = aggregate(np.array(steps), aggregation)
            if score is not None and abs(score - found) > NEAR:
                raise ScoreError(
                    f"{place} is {score:g}, but the {aggregation} of its step scores {found:g}; name what "
                    "made the scores with --aggregation, or given for another rule"
                )
            score = found if score is None else score
        elif steps is not None and score is None:
            raise ScoreError(f"{place} has step scores alone; name what makes one score with --aggregation")
        scores.append(score)
    return scores


def _rows(
    entries: list[Entry], scores: list[list[float | None]], contract: ScoreContract, count: Counter[str]
) -> list[Row]:
    """The rows of a question; ``count`` says what they have."""
    question, rows = entries[0].question, list[Row]()
    count["with_reference"] += question.answer is not None
    candidates = chain.from_iterable(entry.candidates for entry in entries)
    for found, score in zip(candidates, chain.from_iterable(scores), strict=True):
        row = make_row(question, contract, candidate=len(rows), **found.model_dump(exclude_none=True))
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
            row["correct"] = is_right(answer, question.answer)
        rows.append(row)
        count["candidates"] += 1
        count["with_score"] += score is not None
        count["with_verdict"] += row.get("correct") is not None
        count["with_answer"] += bool(answer)
        count["with_tokens"] += found.completion_tokens is not None
        count["misses"] += row["status"] != "complete"
        count["empty_completions"] += text is not None and not text.strip()
    return rows
