"""A pilot: some of a user's questions sampled within a budget, and one page on what adaptive N is worth."""

import html
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import ConfigError, PoolError
from data.files import short_digest
from data.pool import Pool, pending
from data.questions import read_questions
from data.read_file import source_of
from data.scores import ScoreTable
from flows.config import Config
from flows.examine import load_table
from flows.pages import environment, render
from predictor import pilot
from predictor.assumptions import Finding, check
from predictor.forecast import GoalForecast, forecast
from predictor.pilot import Curve, Findings

PROBED, PROBE = 4, 2
"""Questions and candidates by which the length of candidates is learned; these are not kept."""
MOST = 32
"""Candidates a question that are looked at."""


def sample(config: Config, file: Path, budget: int) -> Config:
    """Sample and score some of the questions into a pool of the pilot's own; the config with that pool.

    The pool is kept: what it holds counts against the budget, and a run that was killed goes on where it was.
    Questions are taken in an order that their ids give, so a longer pilot is a shorter one and more.

    Parameters
    ----------
    budget : generated tokens at most, as far as the mean length so far foretells a part.

    Raises
    ------
    ConfigError
        If the budget is too small to say anything; says what would be enough.
    QuestionError, ModelError, PoolError
        If the questions, the models or the pool cannot be read.
    CollectError
        If too many candidates failed.
    """
    from flows.collect import collect_part, make_contract
    from models.load import load_generator, load_reward_model

    asked = sorted(read_questions(file), key=lambda question: short_digest(f"pilot:{question.id}"))
    generator = load_generator(config.generator)
    reward = None if config.reward is None else load_reward_model(config.reward)
    contract, settings = make_contract(generator, reward), config.collect
    own = config.home.resolve() / "pilot" / f"{source_of(file)}-{contract.fingerprint}"
    pool = Pool.create(config.pool or str(own), contract)
    lengths = pool.columns("completion_tokens")["completion_tokens"].to_pylist()
    if lengths:
        each = len(lengths) // len(pool.question_ids)
    else:
        few = asked[:PROBED]
        if (most := len(few) * PROBE * generator.sampling.max_tokens) > budget:
            raise ConfigError(
                f"a budget of {budget:,} tokens is too small: a look at lengths may take {most:,}"
            )
        lengths = [
            found.tokens for candidates in generator.sample(few, PROBE, settings.seed) for found in candidates
        ]
        left, mean = budget - sum(lengths), max(float(np.mean(lengths)), 1.0)
        each = pilot.plan(left, mean, len(asked), config.policy.cap).candidates
    spent, drawn = sum(lengths), len(lengths)
    settings = settings.model_copy(update={"candidates": each})
    while new := pending(asked, pool):
        held, mean = len(pool.question_ids), max(spent / drawn, 1.0)
        print(f"{held} questions, {spent:,} of {budget:,} tokens", file=sys.stderr, flush=True)
        room = min(int((budget - spent) / (mean * each)), pilot.MOST - held, settings.part_questions)
        if room < 1:
            break
        seed = settings.seed + int(new[0].id[:8], 16)
        done = collect_part.fn(new[:room], seed, settings, generator, reward, pool)
        spent, drawn = spent + done.tokens, drawn + done.candidates
    return config.model_copy(update={"pool": pool.location})


def look(config: Config) -> dict[str, Any]:
    """All that the config's pool shows as a pilot, with what speaks against going on under ``against``.

    Raises
    ------
    PoolError
        If the pool cannot be read, or has neither scores nor answers.
    """
    _, scores = load_table(config)
    size = scores.usual_cap(MOST)
    shown, prices = scores.full(size), config.prices
    candidates = shown.candidates(size)
    if not scores.has_scores and (candidates.answers < 0).all():
        raise PoolError(
            f"pool {config.pool_location} has neither scores nor answers: there is nothing to select by"
        )
    price = prices.reward_per_million / prices.generator_per_million if prices.generator_per_million else 1.0
    found = pilot.examine(candidates, price or 1.0)
    findings, savings = check(scores, config.policy.target), expected(config, shown, size)
    against = list(_against(found, findings, savings))
    return {
        **found._asdict(),
        **{"tokens": float(candidates.tokens.mean()), "pool": config.pool_location},
        "judged_by": "scores" if scores.has_scores else "agreement with the most frequent answer",
        **{"findings": findings, "promises": promises(found.curves, findings)},
        "keep_verifier": found.verifier.keep if found.verifier else None,
        **{"expected": savings, "calibration": int((shown.folds == "calibration").sum())},
        **{"go": not against, "against": against},
    }


def expected(config: Config, table: ScoreTable, cap: int) -> list[GoalForecast]:
    """What each goal is expected to save on questions like these, and with how many calibration questions.

    Only train and tune questions are looked at: the others may still certify.
    """
    seen, calibration = table.fold("train", "tune"), int((table.folds == "calibration").sum())
    given = seen.candidates(cap) if len(seen) else None
    return forecast(given, calibration, config.certify, config.goal.delta)


def promises(curves: Sequence[Curve], findings: Sequence[Finding]) -> str:
    """Which promises survive what was found, in one line."""
    verdicts = {finding.name: finding.verdict for finding in findings}
    parts = "no promise over questions to come, unless they were sorted: parts of the pool differ"
    if any(curve.matters for curve in curves) or "broken" in (verdicts["order"], verdicts["duplicates"]):
        line = (
            "Candidates depend on each other: a certificate stands in the pool's own order (certify.orders: "
            "1), where serving draws alike; a policy's own confidence and plans do not"
        )
    elif any(curve.shown for curve in curves) or "look" in (verdicts["order"], verdicts["duplicates"]):
        line = (
            "Candidates depend on each other a little: certify in the pool's own order (certify.orders: 1), "
            "and take a policy's own confidence and plans with care"
        )
    else:
        line = "No dependence is shown: certificates, a policy's own confidence and plans stand"
    return f"{line}; {parts}." if verdicts["parts"] == "look" else f"{line}."


def _against(found: Findings, findings: Sequence[Finding], savings: Sequence[GoalForecast]) -> Iterator[str]:
    """What speaks against going on."""
    if found.questions < pilot.LEAST:
        yield f"{found.questions} questions are too few to tell: {pilot.LEAST} at least"
    for finding in findings:
        if finding.verdict == "broken":
            yield f"{finding.name} of candidates: mend it and draw anew"
    if any(curve.matters for curve in found.curves):
        yield "candidates of one question depend on each other: see seeds, caches and batches, and draw anew"
    if found.gain is None:
        yield "no reference answers: nothing shows that more candidates are right more often"
    elif found.gain.low <= 0:
        yield "more candidates are not shown to be right more often than one"
    if not any(goal.expected_saving for goal in savings):
        yield "no goal is expected to save anything"


def page(found: dict[str, Any]) -> str:
    """What a pilot shows, for a person: Markdown."""
    say = environment().get_template("findings.html.j2").module.words  # type: ignore[attr-defined]
    words = {f.name: html.unescape(" ".join(str(say(f)).split())) for f in found["findings"]}
    return render("pilot.md.j2", **found, words=words)
