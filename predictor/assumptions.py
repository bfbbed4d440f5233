"""Are the assumptions behind the decisions true of a pool? Findings for its owner to read.

A decision takes the candidates of a question as independent draws from one law, so their order must carry
nothing: under any reordering a statistic of order has a known mean, and the questions, which are independent,
show by their spread how far chance moves it (a t-test over questions). In a large pool any trifle is
significant: the size of a departure, not its p-value, decides between ``look`` and ``broken``.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, kruskal, ttest_1samp

from data.arrays import Array, BoolArray, IntArray
from data.record import Record
from data.scores import ScoreTable

Verdict = Literal["fine", "look", "broken", "unknown"]
LEVEL = 0.01
_NUMBER = re.compile(r"\d+")
MISSES = ("cut", "failed", "over-length", "cancelled")


class Finding(Record):
    """One assumption and what the pool shows of it; the report's template has the words."""

    name: str
    verdict: Verdict
    """``unknown`` where the pool has nothing to judge it by."""
    values: dict[str, float]
    p_value: float | None = None
    """Chance of a departure so large if the assumption held; None where nothing is tested."""


def check(table: ScoreTable, target: float) -> list[Finding]:
    """All findings on a pool's questions, in the order in which they should be mended.

    A plan may have drawn few candidates of train questions: these are not held against it. Of a pool without
    scores what stands for them is looked at (`ScoreTable.signal`), and nothing is said of ``target``.
    """
    scores, status, texts = table.signal, table.status, table.texts
    drawn = (~np.isnan(scores)).sum(axis=1)
    planned = table.folds == "train"
    others = np.ones(len(drawn), bool) if planned.all() else ~planned
    # The most candidates that a tenth of the questions have: one odd question must not set it.
    cap = max(int(np.quantile(drawn[others], 0.9, method="lower")), 1)
    full = drawn >= cap
    found = [
        _misses(status, table.tokens),
        _censoring(full, others, cap),
        _duplicates(texts, texts[full, :cap]),
        _order(scores[full, :cap]),
        _parts(scores, table.parts),
        _clusters([question.text for question in table.questions]),
    ]
    if not table.has_scores:
        return found
    usable = (status == "complete") & ~np.isnan(scores)
    return [*found, _ties(scores, usable, texts), _differences(scores[full, :cap], target)]


def _clusters(texts: Sequence[str]) -> Finding:
    """Questions that are one another but for their numbers: they are no independent questions."""
    templates = Counter(_NUMBER.sub("#", text) for text in texts)
    alike = sum(count for count in templates.values() if count > 1)
    values = {"alike": alike / len(texts), "largest": float(max(templates.values()))}
    return Finding(name="clusters", verdict=_grade(values["alike"], 0.02, np.inf), values=values)


def _misses(status: NDArray[np.str_], tokens: Array) -> Finding:
    """Candidates without a usable score: shares of each kind, of tokens, of questions with nothing else."""
    drawn, missed = (status != "").sum(axis=1), np.isin(status, MISSES)
    shares = {kind: float((status == kind).sum() / drawn.sum()) for kind in MISSES}
    cost = float(tokens[missed].sum() / max(tokens.sum(), 1))
    alone = float((missed.sum(axis=1) == drawn).mean())
    verdict = _grade(sum(shares.values()), 0.02, 0.2)
    return Finding(name="misses", verdict=verdict, values=shares | {"tokens": cost, "questions": alone})


def _censoring(full: BoolArray, others: BoolArray, cap: int) -> Finding:
    """Share of questions with fewer candidates than the others, and of those with few by plan."""
    short = 1 - float(full[others].mean())
    values = {"short": short, "candidates": cap, "planned": float((~full & ~others).mean())}
    return Finding(name="censoring", verdict=_grade(short, 1e-9, 0.5), values=values)


def _duplicates(texts: IntArray, whole: IntArray) -> Finding:
    """Repeats, unseen mass (Good-Turing), and whether repeats lie where a cache or a seed puts them."""
    ordered, (questions, n) = np.sort(texts, axis=1), whole.shape
    known = ordered >= 0
    if not known.any() or n < 2:
        return Finding(name="duplicates", verdict="unknown", values={})
    again = known[:, 1:] & (ordered[:, 1:] == ordered[:, :-1])
    alone = known & ~np.pad(again, ((0, 0), (1, 0))) & ~np.pad(again, ((0, 0), (0, 1)))
    equal = [
        ((whole[:, apart:] == whole[:, :-apart]) & (whole[:, apart:] >= 0)).sum(axis=1)
        for apart in range(1, n)
    ]
    # A batch that starts from one seed repeats itself at its own size, most often a power of two.
    distances = np.array([2**k for k in range((n - 1).bit_length())])
    expected = np.sum(equal, axis=0)[:, None] * (n - distances) / (n * (n - 1) / 2)
    surplus = np.stack([equal[d - 1] for d in distances], axis=1) - expected
    p, worst = _test_mean(surplus, "greater")
    excess = float(surplus[:, worst].mean() / (n - distances[worst]))
    # Where the chance of the commonest text has a smooth law, questions of one text are about as many as
    # those with a single exception; a cache makes no exceptions.
    others = (whole != np.sort(whole, axis=1)[:, [n // 2]]).sum(axis=1)[(whole >= 0).all(axis=1)]
    single = int((others == 0).sum())
    cached = n >= 4 and single > 4 * ((others == 1).sum() + 1)
    verdict = placed = _grade(excess, 0.001, 0.05, p)
    if verdict == "fine" and cached:
        verdict = "look"
    values = {
        "repeated": float(again.sum() / known.sum()),
        "unseen": float(alone.sum() / known.sum()),
        "excess": excess,
        "apart": float(distances[worst]),
        "placed": float(placed != "fine"),
        "single": single / questions,
    }
    return Finding(name="duplicates", verdict=verdict, values=values, p_value=p)


def _order(whole: Array) -> Finding:
    """Trend along the order drawn and correlation of neighbours, within questions; one test for both."""
    n = whole.shape[1]
    if n < 2:
        return Finding(name="order", verdict="unknown", values={})
    away = whole - whole.mean(axis=1, keepdims=True)
    position, square = np.arange(n) - (n - 1) / 2, (away**2).sum(axis=1)
    slope = away @ position
    product = (away[:, 1:] * away[:, :-1]).sum(axis=1) + square / n  # less its mean over all orders
    p, _ = _test_mean(np.stack([slope, product], axis=1), "two-sided")
    change = float(slope.mean() / (position @ position) * (n - 1))
    r = float(np.clip(product.sum() / max(square.sum() * (n - 1) / n, 1e-12), -0.99, 0.99))
    verdict = _grade(max(abs(change) / 0.05, abs(r) / 0.1), 0.04, 1.0, p)
    return Finding(name="order", verdict=verdict, values={"change": change, "correlation": r}, p_value=p)


def _parts(scores: Array, parts: IntArray) -> Finding:
    """Do the parts of a collection differ in their questions' mean scores? Kruskal-Wallis test."""
    known = ~np.isnan(scores).all(axis=1)
    means, numbers = np.nanmean(scores[known], axis=1), parts[known]
    groups = [g for k in np.unique(numbers) if len(g := means[numbers == k]) >= 5]
    if len(groups) < 2 or not np.ptp(np.concatenate(groups)):
        return Finding(name="parts", verdict="unknown", values={})
    statistic, p = map(float, kruskal(*groups))
    effect = max(statistic - len(groups) + 1, 0.0) / (sum(map(len, groups)) - len(groups))
    low, *_, high = sorted(float(g.mean()) for g in groups)
    values = {"parts": len(groups), "effect": effect, "low": low, "high": high}
    return Finding(name="parts", verdict=_grade(effect, 0.0, np.inf, p), values=values, p_value=p)


def _ties(scores: Array, usable: BoolArray, texts: IntArray) -> Finding:
    """Candidates that share their score with another text of the question, and how scores are spaced."""
    if not usable.any():
        return Finding(name="ties", verdict="unknown", values={})
    tied = np.zeros_like(usable)
    for column in range(scores.shape[1]):
        same = usable & usable[:, [column]] & (scores == scores[:, [column]])
        same &= (texts != texts[:, [column]]) | (texts < 0)  # an unknown text is another one
        same[:, column] = False
        tied |= same
    score = scores[usable]
    zero, one, top = (float((score == value).mean()) for value in (0, 1, score.max()))
    gaps, times = np.unique(np.diff(np.unique(score)).round(6), return_counts=True)
    values = {"tied": float(tied[usable].mean()), "zero": zero, "one": one, "top": top}
    verdict = _grade(max(values["tied"], zero, one), 0.1, np.inf)
    values |= {"step": float(gaps[times.argmax()]) if gaps.size else 0.0, "highest": float(score.max())}
    return Finding(name="ties", verdict=verdict, values=values)


def _differences(whole: Array, target: float) -> Finding:
    """Does P(score >= target) differ between questions beyond binomial noise? Chi-squared dispersion test."""
    questions, n = whole.shape
    hit = whole >= target
    share, rate = hit.mean(axis=1), float(hit.mean())
    values = {"target": target, "hits": rate}
    if questions < 2 or n < 2 or rate in (0, 1):
        return Finding(name="differences", verdict="look", values=values)
    noise = rate * (1 - rate) / n
    p = float(chi2.sf(((share - rate) ** 2).sum() / noise, questions - 1))
    values |= {
        "candidates": n,
        "between": float(np.sqrt(max(share.var(ddof=1) - (share * (1 - share)).mean() / (n - 1), 0))),
        "noise": noise**0.5,
        "never": 1 - float(hit.any(axis=1).mean()),
        "draws": float(np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, n).mean()),
    }
    return Finding(name="differences", verdict="fine" if p < LEVEL else "look", values=values, p_value=p)


def _grade(size: float, small: float, large: float, p_value: float = 0.0) -> Verdict:
    if p_value >= LEVEL or size < small:
        return "fine"
    return "broken" if size >= large else "look"


def _test_mean(values: Array, alternative: str) -> tuple[float, int]:
    """Chance of columns (questions, k) as far from a mean of 0, for all of them, and the farthest column."""
    p, varies = np.ones(values.shape[1]), values.std(axis=0) > 1e-12
    if varies.any():
        p[varies] = ttest_1samp(values[:, varies], 0.0, alternative=alternative).pvalue
    return float(1 - (1 - p.min()) ** len(p)), int(p.argmin())
