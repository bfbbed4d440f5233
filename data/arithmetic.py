"""Chain arithmetic: questions whose every step can be recomputed.

A question is ``Compute 61 - 33 + 28.``; a solution works one operation a line and ends with the
answer::

    61 - 33 = 28
    28 + 28 = 56
    Answer: 56
"""

import random
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from data.question import Question
from data.questions import write_questions

STEP_SEPARATOR = "\n"
_QUESTION = re.compile(r"Compute (-?\d+(?: [+-] \d+)*)\.")
_STEP = re.compile(r"(-?\d+) ([+-]) (\d+) = (-?\d+)")
_ANSWER = re.compile(r"Answer: (-?\d+)")

Mix = dict[int, tuple[int, ...]]
"""Weights of chains by their terms, and for each by the digits of its numbers, from one on."""
SOLVER_SEED, SOLVER_QUESTIONS = 1, 270 * 16 + 64
# Short chains teach the sums, the longer ones teach to carry on.
SOLVER_MIX: Mix = {2: (4, 14, 12), 3: (6, 22, 10), 4: (6, 16, 4), 5: (0, 6)}
PRM_SEED, PRM_QUESTIONS = 2, 3000
PRM_MIX: Mix = {2: (0, 12, 16), 3: (4, 26, 4), 4: (8, 16), 5: (10, 4), 6: (8,)}
POOL_SEED, POOL_QUESTIONS = 3, 1900
# From nearly always right to nearly never, most in between (the solver's card has the shares).
POOL_MIX: Mix = {2: (0, 16, 12), 3: (10, 18), 4: (14, 6), 5: (14,), 6: (10,)}
# Sums told as a story, which the solver never saw.
STORY_QUESTIONS = 200
STORY_MIX: Mix = {2: (1, 1), 3: (1, 1)}


class Problem(NamedTuple):
    """A question's text, its terms with signs, and its group, e.g. ``terms3-digits2``."""

    text: str
    terms: tuple[int, ...]
    group: str

    @property
    def answer(self) -> str:
        return str(sum(self.terms))


def draw_problem(rng: random.Random, terms: int, digits: int) -> Problem:
    """Draw a question of ``terms`` numbers of exactly ``digits`` digits, joined by + and -."""
    low, high = (10 ** (digits - 1), 10**digits - 1) if digits > 1 else (1, 9)
    numbers = [rng.randint(low, high) for _ in range(terms)]
    signed = (numbers[0], *(n if rng.random() < 0.5 else -n for n in numbers[1:]))
    chain = str(signed[0]) + "".join(f" {'+' if n > 0 else '-'} {abs(n)}" for n in signed[1:])
    return Problem(f"Compute {chain}.", signed, f"terms{terms}-digits{digits}")


def parse_terms(question: str) -> tuple[int, ...] | None:
    """Signed terms of a chain question, or None where the text is another kind of question."""
    if match := _QUESTION.fullmatch(question.strip()):
        return tuple(int(t) for t in re.findall(r"-?\d+", match[1].replace("+ ", "").replace("- ", "-")))
    return None


def work_out(terms: tuple[int, ...], wrong_at: int | None = None, error: int = 0) -> list[str]:
    """The right steps for ``terms``, the answer last; ``error`` is added to the step ``wrong_at``."""
    total, lines = terms[0], []
    for index, term in enumerate(terms[1:]):
        result = total + term + (error if index == wrong_at else 0)
        lines.append(f"{total} {'+' if term > 0 else '-'} {abs(term)} = {result}")
        total = result
    return [*lines, f"Answer: {total}"]


def work_out_wrongly(terms: tuple[int, ...], rng: random.Random) -> list[str]:
    """Steps with one slip that later steps carry on from: a digit, a carry, a sign, a miscopy."""
    steps = len(terms) - 1
    at = rng.randrange(steps + 1)
    if at == steps:  # the slip is in the answer line alone
        return [*work_out(terms)[:-1], f"Answer: {_slip(sum(terms), rng)}"]
    if rng.random() < 0.15:  # a term copied wrongly, its sum then right
        miscopied = list(terms)
        miscopied[at + 1] = _slip_digit(miscopied[at + 1], rng)
        return work_out(tuple(miscopied))
    value = sum(terms[: at + 2])
    return work_out(terms, wrong_at=at, error=_slip(value, rng) - value)


def _slip(value: int, rng: random.Random) -> int:
    """A nearly right value: one off, a lost carry, a wrong digit or sign; never ``value`` itself."""
    kind = rng.random()
    if kind < 0.3:
        return value + rng.choice([-1, 1])
    if kind < 0.6:
        return value + rng.choice([-10, 10, -100, 100] if abs(value) > 99 else [-10, 10])
    return -value if kind < 0.7 and value else _slip_digit(value, rng)


def _slip_digit(value: int, rng: random.Random) -> int:
    digits = list(str(abs(value)))
    at = rng.randrange(len(digits))
    digits[at] = rng.choice([d for d in "123456789" if d != digits[at]])
    return int("".join(digits)) * (-1 if value < 0 else 1)


def label_steps(question: str, completion: str) -> list[bool]:
    """Recompute each step of a completion.

    A step is right when its left side is what the question and the step before it ask for and its
    result is their sum; an answer line is right when it repeats the last result and no term is left.

    Parameters
    ----------
    question : a chain question.
    completion : lines as in the module's example; empty lines are skipped.

    Returns
    -------
    One label a non-empty line.
    """
    terms = parse_terms(question)
    if terms is None:
        raise ValueError(f"not a chain question: {question!r}")
    total, used, labels = terms[0], 1, []
    for line in split_steps(completion):
        if step := _STEP.fullmatch(line):
            left, operator, number, result = step.groups()
            operand = int(number) * (1 if operator == "+" else -1)
            follows = used < len(terms) and int(left) == total and operand == terms[used]
            labels.append(follows and int(result) == total + operand)
            total, used = int(result), used + 1
        elif final := _ANSWER.fullmatch(line):
            labels.append(used == len(terms) and int(final[1]) == total)
        else:
            labels.append(False)
    return labels


def split_steps(completion: str) -> list[str]:
    """Non-empty lines, stripped."""
    return [line.strip() for line in completion.split(STEP_SEPARATOR) if line.strip()]


def draw_mix(
    rng: random.Random,
    mix: Mix,
    count: int,
    without: Collection[str] = (),
    draw: Callable[[random.Random, int, int], Problem] = draw_problem,
) -> list[Problem]:
    """Distinct problems, their kinds drawn by the weights of ``mix``; none of ``without``."""
    kinds = [(terms, digits) for terms, row in mix.items() for digits in range(1, len(row) + 1)]
    weights = [weight for row in mix.values() for weight in row]
    seen: dict[str, Problem] = {}
    while len(seen) < count:
        problem = draw(rng, *rng.choices(kinds, weights)[0])
        if problem.text not in without:
            seen.setdefault(problem.text, problem)
    return list(seen.values())


def training_questions() -> set[str]:
    """Every question that the solver or the reward model was trained or tuned on."""
    solver = draw_mix(random.Random(SOLVER_SEED), SOLVER_MIX, SOLVER_QUESTIONS)
    prm = draw_mix(random.Random(PRM_SEED), PRM_MIX, PRM_QUESTIONS)
    return {problem.text for problem in solver + prm}


def tell_story(rng: random.Random, terms: int, digits: int) -> Problem:
    """A sum of ``terms`` numbers told in words; no total on the way is negative."""
    problem = draw_problem(rng, terms, digits)
    total, told = problem.terms[0], [f"A library has {problem.terms[0]} books."]
    signed = [total]
    for term in problem.terms[1:]:
        change = term if total + term >= 0 else -term
        told.append(f"It {'buys' if change > 0 else 'gives away'} {abs(change)} books.")
        signed.append(change)
        total += change
    text = " ".join([*told, "How many books does it have now?"])
    return Problem(text, tuple(signed), f"story-{problem.group}")


def pool_questions() -> list[Question]:
    """The questions of the shipped pool and fresh ones, in mixed order; none was trained on."""
    rng = random.Random(POOL_SEED)
    drawn = draw_mix(rng, POOL_MIX, POOL_QUESTIONS, without=training_questions())
    drawn += draw_mix(rng, STORY_MIX, STORY_QUESTIONS, draw=tell_story)
    rng.shuffle(drawn)
    return [Question.ask(p.text, answer=p.answer, source="arithmetic", group=p.group) for p in drawn]


if __name__ == "__main__":
    write_questions(pool_questions(), Path(__file__).parent / "questions" / "arithmetic.jsonl")
