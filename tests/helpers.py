"""Small builders that several tests share."""

import numpy as np

from data.contract import Sampling, ScoreContract
from data.pool import Pool
from data.question import Question
from data.rows import make_row
from flows.draw_plan import choose_few
from predictor.certificate import Certificate


def make_contract(**changes) -> ScoreContract:
    values = {
        "generator": "g",
        "generator_revision": "1",
        "prompt_template": "t",
        "sampling": Sampling(),
        "reward_model": "r",
        "reward_revision": "1",
        "markup": "lines",
        "aggregation": "min",
    }
    return ScoreContract(**values | changes)


def make_certificate(policy, risk: dict[str, float], **changes) -> Certificate:
    """One that promises ``policy``, and was never tested."""
    values = {
        "contract": make_contract().fingerprint,
        "questions": 100,
        "questions_digest": "d",
        "epsilon": risk,
        "delta": 0.1,
        "target": policy.target,
        "cap": policy.cap,
        "tried": (),
        "policy": policy,
        "questions_needed": None,
        "groups": {},
        "statement": "little is lost",
    }
    return Certificate(**values | changes)


def make_questions(count: int, start: int = 0) -> list[Question]:
    """Questions whose difficulty shows in their text."""
    return [
        Question.ask(
            f"Compute {number} plus {'9' * (1 + number % 4)}.",
            answer=str(number),
            group=f"nines{1 + number % 4}",
        )
        for number in range(start, start + count)
    ]


def score_rows(questions, contract, candidates: int = 6, seed: int = 0):
    """Rows with beta scores whose mean falls with the number of nines."""
    rng = np.random.default_rng(seed)
    rows = []
    for question in questions:
        nines = question.text.count("9")
        for number in range(candidates):
            score = round(float(rng.beta(9 - 2 * min(nines, 4), 2)), 4)
            rows.append(
                make_row(
                    question,
                    contract,
                    candidate=number,
                    round=0,
                    completion=f"Answer: {question.answer if score > 0.7 else -1}",
                    completion_tokens=10 + number,
                    prompt_tokens=12,
                    status="complete",
                    step_scores=[score],
                    score=score,
                    correct=score > 0.7,
                    reward_tokens=30,
                    seed=seed,
                )
            )
    return rows


def make_pool(location, questions: int = 60, contract=None, candidates: int = 6, few=frozenset()) -> Pool:
    """A pool of parts of 20 questions; of those whose ids are in ``few``, two candidates each."""
    contract = contract or make_contract()
    pool = Pool.create(str(location), contract)
    asked = make_questions(questions)
    for start in range(0, questions, 20):
        rows = score_rows(asked[start : start + 20], contract, candidates, seed=start)
        kept = [row for row in rows if row["candidate"] < (2 if row["question_id"] in few else candidates)]
        pool.append(kept, seconds=1.0)
    return pool


def make_uneven_pool(config, questions: int) -> Pool:
    """As a collection with ``collect.train_candidates`` of 2 leaves it."""
    few = choose_few(make_questions(questions), None, config.folds, config.collect)
    return make_pool(config.pool_location, questions, candidates=config.collect.candidates, few=few)


def fit_lora(train, tune, settings, directory, log=lambda step, values: None):
    """A LoRA predictor from two folds, as `fit_and_compare` fits it."""
    from predictor.learned.lora_predictor import LoraPredictor
    from predictor.learned.states import FrozenStates

    frozen = FrozenStates.load(settings).read([*train.questions, *tune.questions], tokens := {})
    return LoraPredictor.fit(train, tune, frozen, tokens, settings, directory=directory, log=log)
