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

Mix = dict[tuple[int, int], int]
SOLVER_SEED, SOLVER_QUESTIONS = 1, 270 * 16 + 64
# (terms, digits): weight. Short chains teach the sums, the longer ones teach to carry on.
SOLVER_MIX: Mix = {
    (2, 1): 4,
    (2, 2): 14,
    (2, 3): 12,
    (3, 1): 6,
    (3, 2): 22,
    (3, 3): 10,
    (4, 1): 6,
    (4, 2): 16,
    (4, 3): 4,
    (5, 2): 6,
}
PRM_SEED, PRM_QUESTIONS = 2, 3000
PRM_MIX: Mix = {
    (2, 2): 12,
    (2, 3): 16,
    (3, 1): 4,
    (3, 2): 26,
    (3, 3): 4,
    (4, 1): 8,
    (4, 2): 16,
    (5, 1): 10,
    (5, 2): 4,
    (6, 1): 8,
}
POOL_SEED, POOL_QUESTIONS = 3, 1900
# From nearly always right to nearly never, most in between (the solver's card has the shares).
POOL_MIX: Mix = {
    (2, 2): 16,
    (2, 3): 12,
    (3, 1): 10,
    (3, 2): 18,
    (4, 1): 14,
    (4, 2): 6,
    (5, 1): 14,
    (6, 1): 10,
}
# Sums told as a story, which the solver never saw.
STORY_QUESTIONS = 200
STORY_MIX: Mix = {(2, 1): 1, (2, 2): 1, (3, 1): 1, (3, 2): 1}


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
    match = _QUESTION.fullmatch(question.strip())
    if match is None:
        return None
    return tuple(int(t) for t in re.findall(r"-?\d+", match[1].replace("+ ", "").replace("- ", "-")))


def work_out(terms: tuple[int, ...]) -> list[str]:
    """The right steps for ``terms``, the answer last."""
    return _chain(terms, wrong_at=None, error=0)


def work_out_wrongly(terms: tuple[int, ...], rng: random.Random) -> list[str]:
    """Steps with one slip that later steps carry on from: a digit, a carry, a sign, a miscopy."""
    steps = len(terms) - 1
    at = rng.randrange(steps + 1)
    if at == steps:  # the slip is in the answer line alone
        right = work_out(terms)
        return [*right[:-1], f"Answer: {_slip(sum(terms), rng)}"]
    if rng.random() < 0.15:  # a term copied wrongly, its sum then right
        miscopied = list(terms)
        miscopied[at + 1] = _slip_digit(miscopied[at + 1], rng)
        return _chain(tuple(miscopied), wrong_at=None, error=0)
    value = sum(terms[: at + 2])
    return _chain(terms, wrong_at=at, error=_slip(value, rng) - value)


def _chain(terms: tuple[int, ...], wrong_at: int | None, error: int) -> list[str]:
    total, lines = terms[0], []
    for index, term in enumerate(terms[1:]):
        result = total + term + (error if index == wrong_at else 0)
        lines.append(f"{total} {'+' if term > 0 else '-'} {abs(term)} = {result}")
        total = result
    return [*lines, f"Answer: {total}"]


def _slip(value: int, rng: random.Random) -> int:
    """A nearly right value: one off, a lost carry, a wrong digit or sign; never ``value`` itself."""
    kind = rng.random()
    if kind < 0.3:
        slipped = value + rng.choice([-1, 1])
    elif kind < 0.6:
        slipped = value + rng.choice([-10, 10, -100, 100] if abs(value) > 99 else [-10, 10])
    elif kind < 0.7 and value:
        slipped = -value
    else:
        slipped = _slip_digit(value, rng)
    return slipped


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
    kinds, weights = list(mix), list(mix.values())
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
