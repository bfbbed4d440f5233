"""Whole projects, simulated: how often a promise is broken, and what is certified.

    python -m tests.projects real POOL [--lose .05 | --change .1 | ...] [--questions 300] [--projects 200]

halves a pool by the hash of its questions' ids; policies are designed on one half, certified on questions
that are drawn again (with replacement) from the other, the population that the promise is about.

    python -m tests.projects made [--lose .05 | --change .1 | ...] [--questions 300] [--projects 100]

makes questions with answers, scores and ties of several kinds, anew for each project: half as many to
design on as to certify on.
"""

import argparse
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from data.candidates import Candidates
from data.folds import FoldSettings
from data.pool import Pool
from data.scores import load_scores
from predictor.certificate import Certificate, certify
from predictor.design import Design, design
from predictor.goal import Goal
from predictor.measured import run
from predictor.policies import FixedN
from predictor.settings import CertifySettings
from predictor.stopping import load_rule
from predictor.value_rule import Orders

RULE = load_rule("public-1")
CAP = 16


def project(made: Design, calibration: Candidates, orders: int, seed: int = 0) -> Certificate:
    """Certify what was designed on these questions."""
    count = len(calibration.answers)
    return certify(
        made.sequence,
        Orders(calibration, RULE, seed, made.judge),
        made.goal,
        reference=made.reference,
        proposed=made.proposed.policy,
        orders=orders,
        target=made.judge.target,
        contract="simulated",
        question_ids=[f"{seed}-{number}" for number in range(count)],
        groups=np.full(count, ""),
    )


def real(pool: str, goal: Goal, questions: int, projects: int, settings: CertifySettings) -> None:
    """Projects of a pool's halves."""
    table = load_scores(Pool.open(pool), FoldSettings())
    cap = table.usual_cap(32)
    table = table.full(cap)
    candidates = table.candidates(cap)
    side = np.array([hashlib.sha256(q.id.encode()).digest()[0] % 2 for q in table.questions])
    for half in (0, 1):
        rows, others = np.flatnonzero(side == half), np.flatnonzero(side != half)
        made = design(FixedN(cap=cap), goal, settings, candidates.select(rows))
        population, full = (
            candidates.select(others),
            float(candidates.select(others).tokens.sum(axis=1).mean()),
        )
        asked = Orders(population, RULE, 0, made.judge)
        # A question's losses do not depend on which others are drawn: they are computed once.
        known = {
            m.policy: run(m.contender, asked, np.arange(len(others)), settings.orders) for m in made.sequence
        }
        risk, rng, spent, broken = next(iter(made.goal.epsilon.values())), np.random.default_rng(0), [], 0
        for number in range(projects):
            drawn = rng.integers(0, len(others), questions)
            found = project(made, population.select(drawn), settings.orders, number) if number < 2 else None
            policy = _certified(made, known, drawn, risk)
            assert found is None or (found.policy is None) == (policy is None) or settings.orders < 20
            spent.append(1.0 if policy is None else known[policy].tokens.mean() / full)
            broken += policy is not None and float(np.nanmean(known[policy].loss)) > risk
        shares = np.array(spent)
        kept = [m.policy for m in made.sequence if np.nanmean(known[m.policy].loss) <= risk]
        best = min((known[policy].tokens.mean() / full for policy in kept), default=1.0)
        print(
            f"half {half}: {len(rows)} to design on, {questions} of {len(others)} to certify on, selected "
            f"by {made.judge.selection.kind}: spends {shares.mean():.3f} of the full cap in the mean (the "
            f"cheapest tested that keeps the promise {best:.3f}); at most .55 in "
            f"{np.mean(shares <= 0.55):.2f} of projects, half of the best saving in "
            f"{np.mean(1 - shares >= (1 - best) / 2):.2f}; promise broken in {broken / projects:.3f}"
        )


def _certified(made: Design, known: dict[Any, Any], drawn: np.ndarray, risk: float) -> Any:
    from predictor.risk import risk_p_value

    policy = None
    for each in made.sequence:
        if risk_p_value(known[each.policy].loss[drawn], risk, each.loss) > made.goal.delta:
            break
        policy = each.policy
    return policy


Maker = Callable[[np.random.Generator, int], Candidates]


def make(
    right: Callable[[np.random.Generator, int], np.ndarray], verifier: float = 0.2, answers: int = 6
) -> Maker:
    """Questions with a chance of being right each; so many wrong answers; scores that tell, or mislead."""

    def made(rng: np.random.Generator, count: int) -> Candidates:
        correct = rng.random((count, CAP)) < right(rng, count)[:, None]
        wrong = (
            rng.integers(1, answers + 1, correct.shape) if answers else np.arange(1, CAP + 1) + 0 * correct
        )
        given = np.where(correct, 0, wrong)
        empty = rng.random(correct.shape) < 0.05
        scores = np.clip(rng.normal(0.5, 0.2, correct.shape) + verifier * (correct - 0.5), 0, 1).round(2)
        tokens = rng.integers(50, 150, correct.shape).astype(float)
        right_now = np.where(empty, 0.0, correct)
        return Candidates(scores, right_now, tokens, tokens, np.where(empty, -1, given))

    return made


KINDS: dict[str, Maker] = {
    "every difficulty": make(lambda rng, n: rng.beta(1, 1, n)),
    "easy or hopeless": make(lambda rng, n: rng.beta(0.3, 0.3, n)),
    "useless verifier": make(lambda rng, n: rng.beta(1, 1, n), verifier=0.0),
    "verifier upside down": make(lambda rng, n: rng.beta(1, 1, n), verifier=-0.3),
    "answers never seen twice": make(lambda rng, n: rng.beta(1, 2, n), answers=0),
    "two answers": make(lambda rng, n: rng.beta(2, 2, n), answers=1),
    "all right": make(lambda rng, n: np.ones(n)),
    "all wrong": make(lambda rng, n: np.zeros(n)),
}


def simulated(goals: list[Goal], questions: int, projects: int, settings: CertifySettings) -> None:
    """Projects of made questions; the promise is about 1,500 others."""
    counts = questions // 2, questions, 1500
    for goal in goals:
        ((loss, risk),) = goal.epsilon.items()
        for name, maker in KINDS.items():
            broken, shares, saving = 0, list[float](), list[float]()
            for number in range(projects):
                rng = np.random.default_rng(number)
                seen, calibration, population = (maker(rng, count) for count in counts)
                made = design(FixedN(cap=CAP), goal, settings, seen)
                found = project(made, calibration, settings.orders, number)
                asked = Orders(population, RULE, 1, made.judge)
                truth = [run(m.contender, asked, np.arange(1500), 4) for m in made.sequence]
                full = population.tokens.sum(axis=1).mean()
                fine = [1 - t.tokens.mean() / full for t in truth if np.nanmean(t.loss) <= risk]
                saving.append(max(fine, default=0.0))
                mine = [t for m, t in zip(made.sequence, truth, strict=True) if m.policy == found.policy]
                shares.append(mine[0].tokens.mean() / full if mine else 1.0)
                broken += bool(mine) and float(np.nanmean(mine[0].loss)) > risk
            half = np.mean([1 - share >= best / 2 for share, best in zip(shares, saving, strict=True)])
            print(
                f"{loss} {risk}: {name:24s} broken in {broken / projects:.3f}, spends {np.mean(shares):.3f}, "
                f"half of the best saving {np.mean(saving):.3f} in {half:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("real", "made"))
    parser.add_argument("pool", nargs="?")
    for name in ("lose", "change", "hit", "target", "rounds"):
        parser.add_argument(f"--{name}", type=float)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--projects", type=int, default=200)
    parser.add_argument("--orders", type=int, default=20)
    given = vars(parser.parse_args())
    named = {name: given[name] for name in ("lose", "change", "hit", "target", "rounds") if given[name]}
    chosen = CertifySettings(orders=given["orders"])
    if given["what"] == "real":
        real(given["pool"], Goal(**named or {"lose": 0.05}), given["questions"], given["projects"], chosen)
    else:
        goals = [Goal(lose=0.03), Goal(lose=0.05), Goal(change=0.1), Goal(hit=0.03, target=0.7)]
        simulated([Goal(**named)] if named else goals, given["questions"], given["projects"], chosen)
