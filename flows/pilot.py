"""A pilot: some of a user's questions sampled within a budget, and one page on what adaptive N is worth."""

import html
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.candidates import Array
from data.errors import CollectError, ConfigError, PoolError
from data.files import short_digest
from data.pool import Pool, pending
from data.question import Question
from data.questions import read_questions
from data.read_file import source_of
from data.rows import Row
from data.score_map import ScoreMap
from data.scores import ScoreTable, load_scores
from flows.config import Config
from flows.output import render
from predictor import pilot
from predictor.assumptions import Finding, check
from predictor.pilot import Curve, Findings
from predictor.selection import Selection

PROBED, PROBE = 4, 2
"""Questions and candidates by which the length of candidates is learned."""
ASIDE = 1 << 20
"""Seeds between a question's first candidates and its further ones."""
MOST = 32
"""Candidates a question that are looked at."""


def sample(config: Config, file: Path, budget: int) -> str:
    """Sample and score some of the questions into a pool of the pilot's own; its location.

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
    from flows.collect import make_contract
    from models.load import load_generator, load_reward_model

    asked = sorted(read_questions(file), key=lambda question: short_digest(f"pilot:{question.id}"))
    generator, reward = load_generator(config.generator), load_reward_model(config.reward)
    contract = make_contract(generator, reward)
    own = str(config.home.resolve() / "pilot" / f"{source_of(file)}-{contract.fingerprint}")
    pool = Pool.create(config.pool or own, contract)
    models = (generator, reward, contract)
    if not pool.manifest.parts:
        _begin(asked[:PROBED], len(asked), budget, config, models, pool)
    lengths, held = _lengths(pool), len(pool.question_ids)
    each = len(lengths) // held
    while new := pending(asked, pool):
        spent, held = sum(lengths), len(pool.question_ids)
        room = int((budget - spent) / (max(spent / len(lengths), 1) * each))
        part = new[: max(min(room, config.collect.part_questions, pilot.MOST - held), 0)]
        print(f"{held} questions, {spent:,} of {budget:,} tokens", file=sys.stderr, flush=True)
        if not part:
            break
        pool.append(_sample(part, each, config, models))
        lengths = _lengths(pool)
    return pool.location


def _begin(
    asked: Sequence[Question], available: int, budget: int, config: Config, models: Any, pool: Pool
) -> None:
    """Learn from a handful how long candidates are, plan how many a question has, and draw those."""
    if (most := len(asked) * PROBE * config.generator.sampling.max_tokens) > budget:
        raise ConfigError(
            f"a budget of {budget:,} tokens is too small: the first candidates may take {most:,}"
        )
    rows = _sample(asked, PROBE, config, models)
    mean = max(float(np.mean([row["completion_tokens"] for row in rows])), 1.0)
    each = pilot.plan(budget, mean, available, config.policy.cap).candidates
    pool.append(rows + _sample(asked, each - PROBE, config, models, PROBE))


def _lengths(pool: Pool) -> list[int]:
    return list(pool.columns("completion_tokens")["completion_tokens"].to_pylist())


def _sample(questions: Sequence[Question], n: int, config: Config, models: Any, after: int = 0) -> list[Row]:
    """Rows of ``n`` candidates a question, numbered ``after`` those that it has.

    Raises
    ------
    CollectError
        If too many of them failed.
    """
    from flows.collect import sample_and_score

    if not questions or n < 1:
        return []
    generator, reward, contract = models
    seed = config.collect.seed + int(questions[0].id[:8], 16) + (ASIDE if after else 0)
    rows = sample_and_score(questions, n, seed, generator, reward, contract)
    failed = sum(row["status"] == "failed" for row in rows)
    if failed > config.collect.failed_share * len(rows):
        raise CollectError(
            f"{failed} of {len(rows)} candidates failed (see the warnings above), more than "
            "collect.failed_share allows. Is the generator or reward model in order?"
        )
    return [row | {"candidate": row["candidate"] + after} for row in rows]


def look(config: Config, location: str) -> dict[str, Any]:
    """All that a pilot's pool shows, with what speaks against going on under ``against``.

    Raises
    ------
    PoolError, ScoreError
        If the pool cannot be read, or has neither scores nor answers.
    """
    scores = load_scores(Pool.open(location), config.folds)
    size = min(MOST, int(np.quantile(scores.drawn, 0.05, method="lower")))
    if scores.scale == "raw":  # by rank, without a look at a verdict
        scores = scores.mapped(ScoreMap.fit(scores.full(size).raw_scores[:, :size]))
    shown = scores.full(size)
    candidates, prices = shown.candidates(size), config.prices
    if not scores.has_scores and (candidates.answers < 0).all():
        raise PoolError(f"pool {location} has neither scores nor answers: there is nothing to select by")
    price = prices.reward_per_million / prices.generator_per_million if prices.generator_per_million else 1.0
    found = pilot.examine(candidates, price or 1.0)
    signal, judged_by, target = _signal(scores, config.policy.target)
    findings = check(signal, scores.status, scores.texts, scores.tokens, scores.parts, target)
    savings = expected(shown)
    against = list(_against(found, findings, savings))
    return {
        **found._asdict(),
        "tokens": float(candidates.tokens.mean()),
        "pool": location,
        "judged_by": judged_by,
        "findings": findings,
        "promises": promises(found.curves, findings),
        "keep_verifier": found.verifier.keep if found.verifier else None,
        "expected": savings,
        "go": not against,
        "against": against,
    }


def _signal(scores: ScoreTable, target: float) -> tuple[Array, str, float]:
    """What candidates are compared by (questions, n), NaN beyond those drawn; its name; what is a hit."""
    beyond = np.arange(scores.tokens.shape[1]) >= scores.drawn[:, None]
    if scores.has_scores:
        return scores.scores, "scores", target
    if not np.isnan(scores.correct).all():
        return np.where(beyond, np.nan, np.nan_to_num(scores.correct)), "verdicts", 0.5
    chosen = Selection(kind="majority").count(scores.answers, None).answer[:, [-1]]
    return np.where(beyond, np.nan, scores.answers == chosen), "agreement with the majority", 0.5


def expected(table: ScoreTable) -> list[dict[str, Any]]:
    """What each goal is expected to save on questions like these; none where it cannot be told."""
    return []


def promises(curves: Sequence[Curve], findings: Sequence[Finding]) -> str:
    """Which promises survive what was found, in one line."""
    verdicts = {finding.name: finding.verdict for finding in findings}
    parts = "no promise over questions to come, unless they were sorted: parts of the pool differ"
    if any(curve.matters for curve in curves) or "broken" in (verdicts["order"], verdicts["duplicates"]):
        line = (
            "Candidates depend on each other: certificates in the pool's own order stand where serving draws "
            "alike; a policy's own confidence, plans and certificates over random orders do not"
        )
    elif any(curve.shown for curve in curves) or "look" in (verdicts["order"], verdicts["duplicates"]):
        line = (
            "Candidates depend on each other a little: certificates in the pool's own order stand; take a "
            "policy's own confidence, plans and certificates over random orders with care"
        )
    else:
        line = "No dependence is shown: certificates, a policy's own confidence and plans stand"
    return f"{line}; {parts}." if verdicts["parts"] == "look" else f"{line}."


def _against(
    found: Findings, findings: Sequence[Finding], savings: Sequence[dict[str, Any]]
) -> Iterator[str]:
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
    if savings and not any(row["saved"] > 0 for row in savings):
        yield "no goal is expected to save anything"


def page(found: dict[str, Any]) -> str:
    """What a pilot shows, for a person: Markdown."""
    from flows.report import environment  # with the plots

    say = environment().get_template("findings.html.j2").module.words  # type: ignore[attr-defined]
    words = {f.name: html.unescape(" ".join(str(say(f)).split())) for f in found["findings"]}
    return render("pilot.md.j2", **found, words=words)
