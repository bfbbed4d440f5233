"""Why one question was decided as it was: a request of the gateway, or a question of a pool."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

import numpy as np
from pydantic import ValidationError
from rich.table import Table

from data.answers import answer_key, extract_answer, is_correct
from data.candidates import Candidates
from data.contract import ScoreContract
from data.decision_log import read_log
from data.errors import ConfigError, PoolError, ScoreError
from data.feedback import read_feedback
from data.files import short_digest
from data.pool import Pool
from data.questions import read_questions
from data.rows import question_of
from data.scores import load_scores
from flows.config import Config
from flows.output import number, table
from predictor.certificate import Certificate
from predictor.empirical import load_family
from predictor.explanation import alternatives, follow
from predictor.policies import AnyPolicy, load_policy
from predictor.prior import Prior

NEAREST = 3
Found = dict[str, Any]
Row = Mapping[str, Any]


def explain_request(
    folder: Path, request_id: str, questions: Path | None = None, predictor: Path | None = None
) -> Found:
    """What the gateway's log tells of a request.

    Parameters
    ----------
    questions : reference answers, found by the question's id.
    predictor : the bundle or predictor whose score family the logged prior is of.

    Raises
    ------
    PoolError
        If the log cannot be read, or holds no such request; names those that are like it.
    """
    ids = list[str]()
    for row in read_log(folder):
        ids.append(row["request_id"])
        if ids[-1] == request_id:
            break
    else:
        raise _unknown(f"request {request_id!r}", f"the log in {folder}", request_id, ids)
    if predictor is not None:
        load_family(predictor)
    asked = {q.id: q for q in read_questions(questions)} if questions else {}
    reference = asked[row["question_id"]].answer if row["question_id"] in asked else None
    rows = [{**c, "completion_tokens": c["tokens"]} for c in row["candidates"]]
    keys = _answers(rows)
    correct = [is_correct(rf"\boxed{{{key}}}", reference) if key else None for key in keys]
    contract = ScoreContract.model_validate_json(row["contract"])
    policy, prior = cast(AnyPolicy, load_policy(row["policy"])), Prior.model_validate_json(row["prior"])
    ends = [sum(c["round"] <= n for c in rows[: row["seen"]]) for n in range(row["rounds"])]
    found = {
        "request": row["request_id"],
        "time": row["time"],
        "question": {"id": row["question_id"], "text": (row["messages"] or [{}])[-1].get("content")},
        **_course(policy, rows, keys, correct, prior, _scored(contract), ends),
        "stopped_by": row["reason"],
        "ended": row["ended"],
        "degraded": row["degraded"],
        "versions": _versions(policy, contract, prior.family, None, "not in the log"),
    }
    found["delivered"] = _delivered(row["chosen"], rows, keys, correct)
    if (told := read_feedback(folder).get(request_id)) is not None:
        found["delivered"] |= {
            "right": {"right": True, "wrong": False}.get(told.verdict),
            "said_by": told.who,
        }
    if row["explored"]:
        found["notes"].append("It was drawn to the full cap for the log, and answered from all candidates.")
    if row["messages"] is None:
        found["notes"].append("Texts are not in the log (log.text is off), so answers cannot be compared.")
    return found


def explain_question(
    config: Config, question_id: str, policy_file: Path | None = None, predictor: Path | None = None
) -> Found:
    """What a policy does on a pool's question, its candidates in the order drawn.

    Parameters
    ----------
    policy_file : a policy or a certificate as JSON; None takes the config's policy.
    predictor : whose prior is read; None takes the population's, fitted on the train fold.

    Raises
    ------
    PoolError
        If the pool holds no such question; names those that are like it.
    ConfigError, ScoreError, ContractError
        If the policy cannot be asked on what the pool has.
    """
    pool, where = Pool.open(config.pool_location), f"pool {config.pool_location}"
    known = [name for name in sorted(pool.question_ids) if name.startswith(question_id)]
    if len(known) != 1:
        raise _unknown(f"question {question_id!r}", where, question_id, pool.question_ids)
    rows = sorted((r for r in pool.rows() if r["question_id"] == known[0]), key=lambda r: r["candidate"])
    policy, certificate = _read_policy(policy_file, config)
    contract, prior, source = pool.manifest.contract, None, "none is read"
    if policy.reads_prior:
        prior, source = _prior_of(config, pool, known[0], predictor)
    keys, correct = _answers(rows), [row["correct"] for row in rows]
    found = {
        "question": {"id": known[0], "text": question_of(rows[0]).text},
        **_course(policy, rows[: policy.cap], keys, correct, prior, _scored(contract)),
        "versions": _versions(policy, contract, prior.family if prior else None, certificate, source),
    }
    last = found["rounds"][-1]["decision"]
    found |= {"stopped_by": last.reason, "ended": "decided", "degraded": []}
    if last.more:
        found |= {"ended": "censored", "stopped_by": "the pool has no further candidate"}
    found["delivered"] = _delivered(last.selected, rows, keys, correct)
    return found


def _unknown(what: str, where: str, name: str, known: Iterable[str]) -> PoolError:
    near = difflib.get_close_matches(name, list(known), NEAREST, cutoff=0.0)
    return PoolError(f"there is no {what} in {where}; nearest are {', '.join(near) or 'none: it is empty'}")


def _read_policy(file: Path | None, config: Config) -> tuple[AnyPolicy, Certificate | None]:
    if file is None:
        return config.policy, None
    try:
        certificate = Certificate.model_validate_json(file.read_bytes())
    except ValidationError:
        return cast(AnyPolicy, load_policy(file.read_bytes())), None
    if certificate.policy is None:
        raise ConfigError(f"{file} certifies no policy: {certificate.statement}")
    return certificate.policy, certificate


def _prior_of(config: Config, pool: Pool, name: str, predictor_dir: Path | None) -> tuple[Prior, str]:
    """The prior of one question, and where it is from."""
    from flows.examine import population_priors

    scores = load_scores(pool, config.folds)
    if predictor_dir is None:
        own = name in {q.id for q in scores.fold("train").questions}
        source = f"the population's, of the pool's train questions{', this one among them' if own else ''}"
        return population_priors(config, scores).population, source
    from data.contract import require_same_contract
    from predictor.learned.store import load_predictor

    predictor = load_predictor(predictor_dir)
    require_same_contract(predictor.card.contract, pool.manifest.contract.fingerprint, str(predictor_dir))
    question = next(q for q in scores.questions if q.id == name)
    return predictor.predict([question])[0], f"the {predictor.card.kind} predictor in {predictor_dir}"


def _scored(contract: ScoreContract) -> bool:
    return contract.reward_model is not None and contract.scale == "unit"


def _answers(rows: Iterable[Row]) -> list[str | None]:
    """The key of each candidate's answer, as it was given or is read from its text."""
    return [
        row["answer_key"] if row.get("answer_key") is not None else answer_key(_extracted(row))
        for row in rows
    ]


def _extracted(row: Row) -> str:
    return extract_answer(row["completion"] or "") or ""


def _course(
    policy: AnyPolicy,
    rows: Sequence[Row],
    keys: Sequence[str | None],
    correct: Sequence[bool | None],
    prior: Prior | None,
    scored: bool,
    ends: Sequence[int] | None = None,
) -> Found:
    """Rounds and alternatives; what cannot be computed again is said in ``notes``."""
    numbers = {key: place for place, key in enumerate(dict.fromkeys(key for key in keys if key))}
    scores = [row["score"] or 0.0 if scored and row["status"] == "complete" else 0.0 for row in rows]
    columns = {
        "scores": scores if scored else [np.nan] * len(rows),
        "correct": [np.nan if right is None else float(right) for right in correct[: len(rows)]],
        "tokens": [row["completion_tokens"] for row in rows],
        "reward_tokens": [row["reward_tokens"] for row in rows],
        "answers": [numbers.get(key or "", -1) for key in keys[: len(rows)]],
    }
    candidates = Candidates(**{name: np.array([values]) for name, values in columns.items()})
    notes, steps = list[str](), []
    try:
        steps = follow(policy, candidates, prior, ends)
        ends = [step.decision.drawn for step in steps[1:]]
    except (ConfigError, ScoreError) as error:
        if ends is None:
            raise
        notes.append(f"What the rule computed cannot be shown: {error}")
    rounds: list[Found] = [
        {
            "drawn": end,
            "scores": [row["score"] for row in rows[start:end]] if scored else None,
            "answers": list(keys[start:end]),
            **({"decision": steps[place].decision, "evidence": steps[place].evidence} if steps else {}),
        }
        for place, (start, end) in enumerate(zip([0, 0, *ends], [0, *ends], strict=False))
    ]
    for told in rounds:
        chosen = told["decision"].selected if "decision" in told else None
        told["leader"] = None if chosen is None else {"candidate": chosen, "answer": keys[chosen]}
    if len(rows) < policy.cap:
        notes.append(f"{len(rows)} of {policy.cap} candidates are known; what others would have done is not.")
    others = [
        {**other.model_dump(), "answer": keys[other.selected]}
        for other in alternatives(candidates, policy.selection, policy.cap)
    ]
    return {"rounds": rounds, "alternatives": others, "notes": notes}


def _delivered(
    place: int | None, rows: Sequence[Row], keys: Sequence[str | None], correct: Sequence[bool | None]
) -> Found:
    if place is None:
        return {"candidate": None, "answer": None, "score": None, "right": None}
    row = rows[place]
    told = {"candidate": place, "answer": keys[place], "score": row["score"], "right": correct[place]}
    return told | {"completion": row["completion"]}


def _versions(
    policy: AnyPolicy,
    contract: ScoreContract,
    family: str | None,
    certificate: Certificate | None,
    predictor: str,
) -> Found:
    promise = None
    if certificate is not None:
        certificate.require_contract(contract.fingerprint)
        promise = certificate.statement
    return {
        "policy": f"{policy.kind} {short_digest(policy.model_dump_json())}",
        "target": policy.target,
        "cap": policy.cap,
        "selection": policy.selection.kind,
        "contract": contract.fingerprint,
        "generator": f"{contract.generator} ({contract.generator_revision})",
        "reward_model": contract.reward_model and f"{contract.reward_model} ({contract.reward_revision})",
        "predictor": predictor,
        "prior": family,
        "promise": promise,
    }


def tell(found: Found) -> list[str | Table]:
    """An explanation for a person."""
    asked, delivered, versions = found["question"], found["delivered"], found["versions"]
    lines: list[str | Table] = [f"Question {asked['id']}: {asked['text'] or '(its text is not in the log)'}"]
    if "request" in found:
        lines.append(f"Request {found['request']}, {found['time']:%Y-%m-%d %H:%M:%S} UTC.")
    lines += map(_say, found["rounds"])
    drawn = found["rounds"][-1]["drawn"]
    lines.append(
        f"It ended ({found['ended']}) after {drawn} candidates in {len(found['rounds']) - 1} rounds: "
        f"{found['stopped_by']}."
    )
    lines += [f"Degraded: {why}." for why in found["degraded"]]
    right = {True: "right", False: "wrong", None: "no verdict is known"}[delivered["right"]]
    said = f", says {delivered['said_by']}" if "said_by" in delivered else ""
    if delivered["candidate"] is None:
        lines.append("Nothing was delivered.")
    else:
        score = "no score" if delivered["score"] is None else f"score {number(delivered['score'])}"
        lines.append(
            f"Delivered: candidate {delivered['candidate']}, answer {delivered['answer'] or 'unknown'}, "
            f"{score}: {right}{said}."
        )
    promise = versions.pop("promise")
    lines.append("; ".join(f"{name.replace('_', ' ')} {value}" for name, value in versions.items() if value))
    lines.append(promise or "Promise: neither the log nor a file that was given says one.")
    if found["alternatives"]:
        columns = ("selection", "draws", "tokens", "answer", "correct")
        lines += [
            "On the same candidates:",
            table(found["alternatives"], dict(zip(columns, columns, strict=True))),
        ]
    return lines + found["notes"]


def _say(told: Found) -> str:
    """A round in one line: what came, who leads, what the rule computed, what it decided."""
    scores, answers = told["scores"] or [], told["answers"]
    came = [
        " ".join(filter(None, (f"{score:.2f}" if score is not None else "–" if scores else "", answer)))
        for score, answer in zip_longest(scores, answers)
    ]
    parts = [", ".join(came)] if any(came) else []
    if (leader := told["leader"]) is not None:
        parts.append(f"leader: candidate {leader['candidate']}, {leader['answer'] or 'answer unknown'}")
    if "decision" in told:
        decision, evidence = told["decision"], dict(told["evidence"])
        if decision.more or not evidence:
            evidence["asked for in all"] = decision.required_samples
        parts += [f"{name} {number(value)}" for name, value in evidence.items()]
        parts.append(f"{decision.action}{f' {decision.more}' if decision.more else ''}: {decision.reason}")
    return f"  after {told['drawn']}: {'; '.join(parts)}"
