"""The value of a predictor's priors in decisions: tokens saved at one price of a hit and of a round.

The same policy (`Value`) decides with the population's prior, with the predictor's priors, and with each
question's own law, which nobody can know. Its price is chosen on some questions: the highest at which the
population's prior still hits nearly as often as the full cap. On other questions a policy costs its generated
tokens, and its rounds and missed hits at that price. Costs are compared with those of the population's prior,
or of a fixed schedule where one was cheaper on the first questions: without a predictor one would take it.
"""

from collections.abc import Callable, Sequence

import numpy as np

from data.arrays import Array, BoolArray
from data.question import Question
from data.record import Record
from predictor.policies import Schedule, Value
from predictor.policy_base import Policy
from predictor.prior import Prior, PriorBatch
from predictor.replay import Interval, Outcome, bootstrap, outcomes
from predictor.scored_questions import ScoredQuestions

POPULATION, PREDICTOR, ORACLE, BASELINE = "population", "predictor", "oracle", "without a predictor"
PRICES = np.geomspace(1e-5, 0.05, 20).tolist()  # of a candidate, in hits
ROUND_CANDIDATES = 2.0  # price of a round, in candidates of average length
HITS_KEPT = 0.98  # share of the full cap's hits that the price must keep


class PriorValue(Record):
    """The comparison; intervals are of 95 %, questions resampled in pairs, the chosen price held fixed."""

    questions: int
    hit_price: float
    """Tokens that a hit counts."""
    round_price: float
    """Tokens that a round counts."""
    reading: float
    """Tokens a question that the predictor itself reads."""
    tokens: dict[str, float]
    """Generated tokens a question, with each prior and in the baseline without a predictor."""
    hits: dict[str, float]
    """Share of questions with a hit."""
    rounds: dict[str, float]
    saved: Interval
    """Tokens a question by which the predictor's priors cost less than the baseline."""
    gap_closed: Interval | None
    """Share of the saving of the known laws; None where these save nothing."""
    break_even: float | None
    """Tokens a candidate from which the predictor pays for its reading; None if it saves nothing."""

    @property
    def statement(self) -> str:
        """The comparison in words."""
        net = Interval(*(value - self.reading for value in self.saved))
        if self.break_even is None:
            pays = "As it saves nothing, it pays at no length of candidate"
        else:
            pays = f"From {self.break_even:.0f} tokens a candidate on its saving covers its reading"
        if self.gap_closed is None:
            share = "Knowing each question's law would save nothing"
        else:
            share = f"That is {_range(self.gap_closed, 100)} % of the saving of known laws"
        verdict = (
            "It pays here" if net.low > 0 else "It does not pay here" if net.high < 0 else "Undecided here"
        )
        ours, theirs = ((self.hits[name], self.rounds[name]) for name in (PREDICTOR, BASELINE))
        return (
            f"The predictor saves {_range(self.saved)} tokens a question of {self.tokens[BASELINE]:.0f} "
            f"against the population's prior or a fixed schedule, and reads {self.reading:.0f} itself: "
            f"{_range(net)} in all. {verdict}. {pays}. {share}. A hit counts {self.hit_price:.0f} tokens, a "
            f"round {self.round_price:.0f}: {ours[0]:.1%} of questions hit in {ours[1]:.2f} rounds, against "
            f"{theirs[0]:.1%} in {theirs[1]:.2f}. {self.questions} questions."
        )


def measure_prior_value(
    target: float,
    cap: int,
    questions: ScoredQuestions,
    population: Prior,
    chosen: BoolArray,
    held: BoolArray,
    tokens_read: Callable[[Question], int],
    orders: int = 2,
) -> PriorValue:
    """Compare a predictor's priors with the population's and with known laws.

    Parameters
    ----------
    questions : with candidates up to the cap, and the predictor's priors.
    chosen, held : (questions,) those on which price and schedule are chosen, and others that are reported on.
    tokens_read : tokens that the predictor reads of a question.
    """
    table, priors = questions.table, questions.require_priors()
    candidates = table.candidates(cap)
    length = max(float(candidates.tokens.mean()), 1.0)
    own_laws = priors.family.own_laws(table.scores)
    batches = {
        POPULATION: PriorBatch.of([population] * len(table)).without(own_laws),
        PREDICTOR: priors.without(own_laws),
        ORACLE: PriorBatch.oracle(population, table.scores).without(own_laws),
    }

    def run(policies: Sequence[Policy], rows: BoolArray, batch: PriorBatch | None) -> list[Outcome]:
        shown, asked = candidates.select(np.flatnonzero(rows)), None if batch is None else batch[rows]
        return outcomes(policies, shown, asked, orders, target)

    sequence = [
        Value(
            target=target,
            cap=cap,
            token_price=price / length,
            candidate_tokens=length,
            round_price=price * ROUND_CANDIDATES,
        )
        for price in PRICES
    ]
    results = run(sequence, chosen, batches[POPULATION])
    wanted = HITS_KEPT * (candidates.scores[chosen] >= target).any(axis=1).mean()
    number = max((n for n, result in enumerate(results) if result.reached.mean() >= wanted), default=0)
    hit_price, round_price = 1 / sequence[number].token_price, length * ROUND_CANDIDATES

    def cost(outcome: Outcome) -> Array:
        return outcome.tokens + round_price * outcome.rounds - hit_price * outcome.reached

    starts, lasts = (1, 2, 3, 4, 6, 8, 12, cap), {cap, cap * 7 // 8, cap * 3 // 4, cap // 2, cap // 4} - {0}
    fixed = [
        Schedule(target=target, cap=last, start=min(start, last), factor=factor)
        for last in sorted(lasts)
        for start in starts
        for factor in (1.0, 1.5, 2.0, 3.0, 4.0)
    ]
    costs = [float(cost(result).mean()) for result in run(fixed, chosen, None)]
    held_out = {name: run([sequence[number]], held, batch)[0] for name, batch in batches.items()}
    held_out[BASELINE] = held_out[POPULATION]
    if min(costs) < cost(results[number]).mean():
        (held_out[BASELINE],) = run([fixed[int(np.argmin(costs))]], held, None)
    gain, most = (cost(held_out[BASELINE]) - cost(held_out[name]) for name in (PREDICTOR, ORACLE))
    saved, closed = bootstrap(gain), bootstrap(gain, most)
    reading = float(np.mean([tokens_read(question) for question in table.select(held).questions]))
    return PriorValue(
        questions=len(gain),
        hit_price=hit_price,
        round_price=round_price,
        reading=reading,
        tokens={name: float(outcome.tokens.mean()) for name, outcome in held_out.items()},
        hits={name: float(outcome.reached.mean()) for name, outcome in held_out.items()},
        rounds={name: float(outcome.rounds.mean()) for name, outcome in held_out.items()},
        saved=saved,
        gap_closed=closed if most.mean() > 0 and np.isfinite(closed).all() else None,
        break_even=reading * length / saved.mean if saved.mean > 0 else None,
    )


def _range(interval: Interval, scale: float = 1.0) -> str:
    mean, low, high = (scale * value for value in interval)
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"
