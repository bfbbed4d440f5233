"""Are the assumptions behind the decisions true of a pool? Findings for its owner to read.

A decision takes the candidates of a question as independent draws from one law, so the order they came
in must carry nothing: the tests of order shuffle it, for blocks of questions at once, which is as exact
as for each alone and far cheaper. In a large pool any trifle is significant: the size of a departure,
not its p-value, decides between ``look`` and ``broken``.
"""

from collections.abc import Callable
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, kruskal

from data.errors import PoolError
from data.record import Record
from predictor.decision import Array, BoolArray, IntArray

Verdict = Literal["fine", "look", "broken", "unknown"]
Number = TypeVar("Number", np.float64, np.int64)
LEVEL = 0.01
_SHUFFLES, _BLOCKS = 999, 64
_MISSES = ("cut", "failed", "over-length", "cancelled")


class Finding(Record):
    """One assumption, what the pool says of it, and what to do."""

    name: str
    verdict: Verdict
    """``unknown`` where the pool has nothing to tell it by."""
    told: str
    """What was found, what it means for the decisions, what to do."""
    values: dict[str, float]
    p_value: float | None = None
    """Chance of a departure so large if the assumption held; None where nothing is tested."""


def check(
    scores: Array, status: NDArray[np.str_], texts: IntArray, tokens: Array, parts: IntArray, target: float
) -> list[Finding]:
    """All findings, in the order in which they should be mended; the same for the same pool.

    Parameters
    ----------
    scores : (questions, n) in the order drawn; 0 for a candidate without a score, NaN beyond those drawn.
    status, texts, tokens : (questions, n), as `data.scores.ScoreTable` has them.
    parts : (questions,) number of the part that holds the question.

    Raises
    ------
    PoolError
        If there is no question, or the shapes differ.
    """
    if not np.isfinite(scores).any() or not scores.shape == status.shape == texts.shape == tokens.shape:
        raise PoolError(f"findings need scores, and arrays of one shape; the scores are {scores.shape}")
    drawn = (~np.isnan(scores)).sum(axis=1)
    # The most candidates that a tenth of the questions have: one odd question must not set it.
    cap = max(int(np.quantile(drawn, 0.9, method="lower")), 1)
    full = drawn >= cap
    return [
        _misses(status, tokens),
        _censoring(full, cap),
        _duplicates(texts, texts[full, :cap]),
        _order(scores[full, :cap]),
        _parts(scores, parts),
        _ties(scores, status, texts),
        _differences(scores[full, :cap], target),
    ]


def _misses(status: NDArray[np.str_], tokens: Array) -> Finding:
    drawn, missed = (status != "").sum(axis=1), np.isin(status, _MISSES)
    shares = {kind: float((status == kind).sum() / drawn.sum()) for kind in _MISSES}
    cost = float(tokens[missed].sum() / max(tokens.sum(), 1))
    alone = float((missed.sum(axis=1) == drawn).mean())
    named = ", ".join(f"{share:.1%} {kind}" for kind, share in shares.items() if share) or "none"
    verdict = _grade(sum(shares.values()), 0.02, 0.2)
    told = (
        f"Candidates without a usable score: {named}. They count as misses, took {cost:.1%} of the tokens, "
        f"and {alone:.1%} of questions have nothing else."
    )
    if verdict != "fine":
        told += " Raise the token limit if many are cut, mend the server if many fail, and collect anew."
    return _finding("misses", verdict, told, **shares, tokens=cost, questions=alone)


def _censoring(full: BoolArray, cap: int) -> Finding:
    short = 1 - float(full.mean())
    told = f"All questions have {cap} candidates, so all of them serve for replay and certificates."
    if short:
        told = (
            f"{short:.1%} of questions have fewer than {cap} candidates. If their scores stopped them, the "
            "others are no fair sample for replay, certificates, and the findings on order and differences: "
            f"draw a random share of questions up to {cap}, whatever they score."
        )
    return _finding("censoring", _grade(short, 1e-9, 0.5), told, short=short, candidates=cap)


def _duplicates(texts: IntArray, whole: IntArray) -> Finding:
    """Repeats, unseen mass (Good-Turing), and whether repeats lie where a cache or a seed puts them."""
    ordered, (questions, n) = np.sort(texts, axis=1), whole.shape
    known = ordered >= 0
    if not known.any() or n < 2:
        return _finding("duplicates", "unknown", "The pool has no texts to compare.")
    again = known[:, 1:] & (ordered[:, 1:] == ordered[:, :-1])
    alone = known & ~np.pad(again, ((0, 0), (1, 0))) & ~np.pad(again, ((0, 0), (0, 1)))
    repeated, unseen = float(again.sum() / known.sum()), float(alone.sum() / known.sum())
    told = (
        f"{repeated:.1%} of candidates repeat an earlier text of their question, and about {unseen:.1%} of "
        "further ones would be new. "
    )

    dealt = _deal(whole, -1)
    equal = [((dealt == dealt[:, :, [j]]) & (dealt >= 0)).sum(axis=1) for j in range(n)]
    tables = np.stack(equal, axis=2).astype(float)
    # A batch that starts from one seed repeats itself at its own size, most often a power of two.
    apart = [2**k for k in range((n - 1).bit_length())]
    found = _shuffle(lambda order: np.array([_sum_apart(tables, order, d) for d in apart]), n)
    z = _standardise(found)
    p, worst = _p_value(z.max(axis=1)), int(z[0].argmax())
    excess = float((found[0] - found.mean(axis=0))[worst] / questions / (n - apart[worst]))
    # Where the chance of the commonest text has a smooth law, questions of one text are about as many as
    # those with a single exception; a cache makes no exceptions.
    others = (whole != np.sort(whole, axis=1)[:, [n // 2]]).sum(axis=1)[(whole >= 0).all(axis=1)]
    single = int((others == 0).sum())
    verdict = _grade(excess, 0.001, 0.05, p)
    if verdict != "fine":
        told += (
            f"Those {apart[worst]} apart are equal in {excess:.1%} more pairs than by chance, like a cache "
            "or a repeated seed, and the decisions take copies for evidence: mend it and collect anew."
        )
    elif n >= 4 and single > 4 * ((others == 1).sum() + 1):
        verdict = "look"
        told += (
            f"{single / questions:.1%} of questions have but one text and hardly any has one exception, like "
            "a cache or temperature 0, and the decisions take copies for evidence: see how they were made."
        )
    else:
        told += "They lie as chance would have them; independent draws do repeat, so leave them in."
    values = {"repeated": repeated, "unseen": unseen, "excess": excess, "apart": apart[worst]}
    return _finding("duplicates", verdict, told, p, **values, single=single / questions)


def _order(whole: Array) -> Finding:
    """Trend along the order drawn and correlation of neighbours, within questions; one test for both."""
    questions, n = whole.shape
    if n < 2:
        return _finding("order", "unknown", "Questions of one candidate have no order.")
    away = _deal(whole - whole.mean(axis=1, keepdims=True), 0)
    position, sums, products = np.arange(n) - (n - 1) / 2, away.sum(axis=1), away.swapaxes(1, 2) @ away

    def statistic(order: IntArray) -> Array:
        slope = (np.take_along_axis(sums, order, 1) @ position).sum()
        return np.array([slope, _sum_apart(products, order, 1)])

    found = _shuffle(statistic, n)
    p = _p_value(np.abs(_standardise(found)).max(axis=1))
    change = float(found[0, 0] / questions / (position @ position) * (n - 1))
    square = max(float((away**2).sum()) * (n - 1) / n, 1e-12)
    r = float(np.clip((found[0, 1] - found[:, 1].mean()) / square, -0.99, 0.99))
    verdict = _grade(max(abs(change) / 0.05, abs(r) / 0.1), 0.04, 1.0, p)
    told = "Later candidates score like earlier ones, and neighbours tell nothing of each other, as assumed."
    if verdict != "fine":
        told = (
            f"From the first candidate to the last scores change by {change:+.3f}, and neighbours correlate "
            f"by {r:+.2f}: the decisions, which take candidates as independent, promise too much. Keep them "
            "in the order drawn, not that of finishing, and see whether a batch shares a seed or a cache."
        )
    return _finding("order", verdict, told, p, change=change, correlation=r)


def _parts(scores: Array, parts: IntArray) -> Finding:
    known = ~np.isnan(scores).all(axis=1)
    means, numbers = np.nanmean(scores[known], axis=1), parts[known]
    groups = [g for k in np.unique(numbers) if len(g := means[numbers == k]) >= 5]
    if len(groups) < 2 or not np.ptp(np.concatenate(groups)):
        return _finding("parts", "unknown", "The pool has no two parts of five questions that could differ.")
    statistic, p = map(float, kruskal(*groups))
    effect = max(statistic - len(groups) + 1, 0.0) / (sum(map(len, groups)) - len(groups))
    low, *_, high = sorted(float(g.mean()) for g in groups)
    verdict = _grade(effect, 0.0, np.inf, p)
    told = "Questions score alike in all parts: no sign that the collection drifted."
    if verdict != "fine":
        told = (
            f"Mean scores of parts lie between {low:.3f} and {high:.3f}, further apart than chance "
            "allows. Unless the questions were sorted, a model changed on the way, and what one part teaches "
            "fails on another: compare the revisions, and collect anew what differs."
        )
    return _finding("parts", verdict, told, p, parts=len(groups), effect=effect, low=low, high=high)


def _ties(scores: Array, status: NDArray[np.str_], texts: IntArray) -> Finding:
    rows, columns = np.nonzero((status == "complete") & ~np.isnan(scores))
    if not rows.size:
        return _finding("ties", "unknown", "No candidate has a score.")
    score, text = scores[rows, columns], texts[rows, columns]
    sort = np.lexsort((text, score, rows))
    rows, score, text = rows[sort], score[sort], text[sort]
    opens = np.append(True, (np.diff(rows) != 0) | (np.diff(score) != 0))
    other = opens | np.append(True, np.diff(text) != 0) | (text < 0)  # an unknown text is another one
    tie = np.cumsum(opens) - 1
    tied = float((np.bincount(tie, other)[tie] > 1).mean())
    zero, one, top = (float((score == value).mean()) for value in (0, 1, score.max()))
    gaps, times = np.unique(np.diff(np.unique(score)).round(6), return_counts=True)
    step = float(gaps[times.argmax()]) if gaps.size else 0.0
    verdict = _grade(max(tied, zero, one), 0.1, np.inf)
    told = (
        f"{tied:.1%} of candidates share their score with another text of the question; scores are {step:g} "
        f"apart, {zero:.1%} are 0, {one:.1%} are 1, {top:.1%} the highest of all, {score.max():g}. "
    )
    if verdict == "fine":
        told += "That is too few to matter."
    else:
        told += "The best score often names no single answer: see whether a family with atoms fits better."
    return _finding("ties", verdict, told, tied=tied, zero=zero, one=one, top=top, step=step)


def _differences(whole: Array, target: float) -> Finding:
    """Does P(score >= target) differ between questions beyond binomial noise? Chi-squared dispersion test."""
    questions, n = whole.shape
    hit = whole >= target
    share, rate = hit.mean(axis=1), float(hit.mean())
    told = f"{rate:.1%} of candidates reach the target of {target:g}"
    if questions < 2 or n < 2 or rate in (0, 1):
        told += ", so there is nothing to decide: take one that some scores reach and others miss."
        return _finding("differences", "look", told, hits=rate)
    noise = rate * (1 - rate) / n
    p = float(chi2.sf(((share - rate) ** 2).sum() / noise, questions - 1))
    between = float(np.sqrt(max(share.var(ddof=1) - (share * (1 - share)).mean() / (n - 1), 0)))
    draws = float(np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, n).mean())
    never = 1 - float(hit.any(axis=1).mean())
    if p < LEVEL:
        told += (
            f", give or take {between:.1%} from question to question; {never:.1%} of questions have none in "
            f"{n}. One N for all wastes: stopping at the first would take {draws:.1f} of {n} on average."
        )
    else:
        told += ", in all questions alike as far as can be seen: a fixed N serves as well as any policy."
    values = {"hits": rate, "between": between, "noise": noise**0.5, "never": never, "draws": draws}
    return _finding("differences", "fine" if p < LEVEL else "look", told, p, **values)


def _finding(
    name: str, verdict: Verdict, told: str, p_value: float | None = None, **values: float
) -> Finding:
    return Finding(name=name, verdict=verdict, told=told, values=values, p_value=p_value)


def _grade(size: float, small: float, large: float, p_value: float = 0.0) -> Verdict:
    if p_value >= LEVEL or size < small:
        return "fine"
    return "broken" if size >= large else "look"


def _deal(rows: NDArray[Number], fill: int) -> NDArray[Number]:
    """Rows (questions, n) as (blocks, questions of a block, n), padded with ``fill``."""
    blank = np.full((-len(rows) % _BLOCKS, rows.shape[1]), fill, dtype=rows.dtype)
    return np.concatenate([rows, blank]).reshape(_BLOCKS, -1, rows.shape[1])


def _sum_apart(tables: Array, order: IntArray, apart: int) -> float:
    """Sum of tables (blocks, n, n) over the pairs of columns that lie ``apart`` in ``order``."""
    return float(tables[np.arange(_BLOCKS)[:, None], order[:, :-apart], order[:, apart:]].sum())


def _shuffle(statistic: Callable[[IntArray], Array], n: int) -> Array:
    """(1 + shuffles, k) statistic in the order drawn, then with every block's columns shuffled."""
    rng, drawn = np.random.default_rng(0), np.tile(np.arange(n), (_BLOCKS, 1))
    shuffles = (rng.permuted(drawn, axis=1) for _ in range(_SHUFFLES))
    return np.array([statistic(drawn), *map(statistic, shuffles)])


def _standardise(found: Array) -> Array:
    away: Array = (found - found.mean(axis=0)) / np.maximum(found.std(axis=0), 1e-12)
    return away


def _p_value(sizes: Array) -> float:
    """Share of sizes as large as the first, itself among them: exact where orders are exchangeable."""
    return float((sizes >= sizes[0] - 1e-9).mean())
