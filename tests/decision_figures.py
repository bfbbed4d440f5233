"""What value of information saves over fixed schedules: ``python -m tests.decision_figures published FILE``.

``FILE``: lines of JSON with ``scores`` of 64 candidates, and ``score_mean`` and ``score_std``, the
moments of the law they were drawn from. Fitted and chosen on four fifths, reported on the last.
"""

import hashlib
import sys
from pathlib import Path

import numpy as np

from data.candidates import Candidates
from data.read_file import read_records
from predictor.empirical import fit_empirical
from predictor.families import FAMILIES
from predictor.family_check import choose, compare_families
from predictor.policies import Schedule, Value
from predictor.policy_base import Policy
from predictor.prior import Prior, PriorBatch, fit_population
from predictor.replay import Outcome, bootstrap, outcomes

FIFTHS = 5


def published(file: Path) -> None:
    """Draws against the best fixed schedule at equal rounds, by prior: the population's, the known law.

    Both are the cheapest of their grid on tune questions that hit .99 as often as the cap in as few rounds.
    """
    records = [record for _, record in read_records(file)]
    scores = np.array([r["scores"] for r in records])
    keys = [str(r.get("unique_id", r.get("problem"))) for r in records]
    fifth = np.array([int(hashlib.sha256(k.encode()).hexdigest(), 16) % FIFTHS for k in keys])
    tune, test = scores[fifth > 0], scores[fifth == 0]
    laws = [Prior.centred(r["score_mean"], r["score_std"], spread=0.05) for r in records]
    known = [PriorBatch.of([laws[i] for i in np.flatnonzero(rows)]) for rows in (fifth > 0, fifth == 0)]
    cap = scores.shape[1]
    for target in (0.95, 0.98):
        fits = compare_families(tune[::2], tune[1::2], target, (*FAMILIES, fit_empirical(tune[::2]).name))
        family = choose(fits)
        population = fit_population(tune, family)
        priors = [PriorBatch.of([population] * len(part)) for part in (tune, test)]
        print(f"target {target}: family {family}; forecast of a hit", end="")
        print("".join(f", {f.family.split(':')[0]} {f.hit_score:.4f}" for f in fits), flush=True)
        values: dict[tuple[float, ...], Policy] = {
            (token, wait): Value(target=target, cap=cap, token_price=token, round_price=token * wait)
            for token in np.geomspace(1e-4, 0.08, 16)
            for wait in (0.3, 0.6, 1, 1.5, 2, 3, 4, 6, 8, 11, 15, 20)
        }
        fixed: dict[tuple[float, ...], Policy] = {
            (start, factor, last): Schedule(target=target, cap=last, start=start, factor=factor)
            for start in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24)
            for factor in (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0, 16.0, 32.0)
            for last in range(24, 65, 4)
        }
        on_tune = {
            "fixed": _replay(fixed, tune, None, target),
            "population": _replay(values, tune, priors[0], target),
            "known": _replay(values, tune, known[0], target),
        }
        for rounds in (1.5, 2.0):
            chosen = {}
            for name, policies in (("fixed", fixed), ("population", values), ("known", values)):
                best = _cheapest(on_tune[name], (tune.max(axis=1) >= target).mean(), rounds)
                given = {"fixed": None, "population": priors[1], "known": known[1]}[name]
                (chosen[name],) = _replay({best: policies[best]}, test, given, target, orders=8).values()
                full = (test.max(axis=1) >= target).mean()
                found = chosen[name]
                print(
                    f"  rounds {rounds}: {name:10s} {tuple(map(float, np.round(best, 5)))!s:28s} "
                    f"draws {found.candidates.mean():6.3f} rounds {found.rounds.mean():.3f} "
                    f"hits {found.reached.mean() / full:.4f} of all {cap}"
                )
            saved = bootstrap(
                chosen["fixed"].candidates - chosen["population"].candidates, chosen["fixed"].candidates
            )
            gap = (chosen["fixed"].candidates - chosen["population"].candidates).mean() / (
                chosen["fixed"].candidates - chosen["known"].candidates
            ).mean()
            print(
                f"    saves {saved.mean:.1%} of the draws ({saved.low:.1%} to {saved.high:.1%}), {gap:.0%} "
                "of what the known law saves",
                flush=True,
            )


def _replay(
    policies: dict[tuple[float, ...], Policy],
    scores: np.ndarray,
    priors: PriorBatch | None,
    target: float,
    orders: int = 1,
) -> dict[tuple[float, ...], Outcome]:
    ones = np.ones(scores.shape)
    shown = Candidates(scores, np.full(scores.shape, np.nan), ones, ones, np.zeros(scores.shape, np.int64))
    found = outcomes(list(policies.values()), shown, priors, orders, target)
    return dict(zip(policies, found, strict=True))


def _cheapest(found: dict[tuple[float, ...], Outcome], full: float, rounds: float) -> tuple[float, ...]:
    """The fewest draws with .99 of the share of hits of the full cap, in that many rounds."""
    fits = [key for key, o in found.items() if o.reached.mean() >= 0.99 * full and o.rounds.mean() <= rounds]
    return min(fits, key=lambda key: float(found[key].candidates.mean()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["published"] and len(sys.argv) == 3:
        published(Path(sys.argv[2]))
    else:
        sys.exit(__doc__)
