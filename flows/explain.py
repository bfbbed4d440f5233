"""Why one question was decided as it was: a request of the gateway, or a question of a pool."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from pydantic import ValidationError

from data.answers import answer_key, extract_answer, is_correct
from data.candidates import Candidates
from data.contract import ScoreContract, require_same_contract
from data.decision_log import read_log
from data.errors import ConfigError, PoolError, ScoreError
from data.feedback import read_feedback
from data.files import short_digest
from data.pool import Pool
from data.questions import read_questions
from data.rows import question_of
from data.scores import load_scores
from flows.config import Config
from predictor.certificate import Certificate
from predictor.empirical import load_family
from predictor.explanation import alternatives, follow
from predictor.policies import AnyPolicy, load_policy
from predictor.prior import Prior

NEAREST = 3
TAKEN = ("status", "score", "completion_tokens", "reward_tokens", "completion", "correct")
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
        raise _unknown(f"request {request_id!r} in the log in {folder}", request_id, ids)
    if predictor is not None:
        load_family(predictor)
    answers = {q.id: q.answer for q in read_questions(questions)} if questions else {}
    reference = answers.get(row["question_id"])
    rows = [
        _take({**found, "completion_tokens": found["tokens"], "correct": None}) for found in row["candidates"]
    ]
    for found in rows:
        if found["answer"]:
            found["correct"] = is_correct(rf"\boxed{{{found['answer']}}}", reference)
    policy, prior = cast(AnyPolicy, load_policy(row["policy"])), Prior.model_validate_json(row["prior"])
    ends = [sum(c["round"] <= n for c in row["candidates"][: row["seen"]]) for n in range(row["rounds"])]
    told = _explain(policy, ScoreContract.model_validate_json(row["contract"]), prior, rows, ends)
    told["versions"]["predictor"] = "not in the log"
    if row["chosen"] is not None:
        told["delivered"] = {"candidate": row["chosen"], **rows[row["chosen"]]}
    if (said := read_feedback(folder).get(request_id)) is not None and said.verdict != "unsure":
        told["delivered"] |= {"correct": said.verdict == "right", "said_by": said.who}
    if row["explored"]:
        told["notes"].append("It was drawn to the full cap for the log, and answered from all candidates.")
    if row["messages"] is None:
        told["notes"].append("Texts are not in the log (log.text is off), so answers cannot be compared.")
    asked = {"id": row["question_id"], "text": (row["messages"] or [{}])[-1].get("content")}
    logged = {"request": row["request_id"], "stopped_by": row["reason"]}
    return told | logged | {"question": asked, **{name: row[name] for name in ("time", "ended", "degraded")}}


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
    pool = Pool.open(config.pool_location)
    known = [name for name in pool.question_ids if name.startswith(question_id)]
    if len(known) != 1:
        where = f"question {question_id!r} in pool {config.pool_location}"
        raise _unknown(where, question_id, sorted(pool.question_ids))
    raw = sorted((r for r in pool.rows() if r["question_id"] == known[0]), key=lambda r: r["candidate"])
    policy, certificate, contract = config.policy, None, pool.manifest.contract
    if policy_file is not None:
        policy, certificate = _read_policy(policy_file)
    prior, source = (
        _prior_of(config, pool, known[0], predictor) if policy.reads_prior else (None, "none is read")
    )
    told = _explain(policy, contract, prior, [_take(row) for row in raw[: policy.cap]])
    if certificate is not None:
        certificate.require_contract(contract.fingerprint)
        told["versions"]["promise"] = certificate.statement
    told["versions"]["predictor"] = source
    last = told["rounds"][-1]["decision"]
    ended, why = ("censored", "the pool has no further candidate") if last.more else ("decided", last.reason)
    asked = {"id": known[0], "text": question_of(raw[0]).text}
    return told | {"question": asked, "stopped_by": why, "ended": ended, "degraded": []}


def _unknown(what: str, name: str, known: Sequence[str]) -> PoolError:
    near = difflib.get_close_matches(name, known, NEAREST, cutoff=0.0)
    return PoolError(f"there is no {what}; nearest are {', '.join(near) or 'none: it is empty'}")


def _read_policy(file: Path) -> tuple[AnyPolicy, Certificate | None]:
    try:
        certificate = Certificate.model_validate_json(file.read_bytes())
    except ValidationError:
        return cast(AnyPolicy, load_policy(file.read_bytes())), None
    if certificate.policy is None:
        raise ConfigError(f"{file} certifies no policy: {certificate.statement}")
    return certificate.policy, certificate


def _prior_of(config: Config, pool: Pool, name: str, predictor_dir: Path | None) -> tuple[Prior, str]:
    """The prior of one question, and where it is from."""
    scores = load_scores(pool, config.folds)
    if predictor_dir is None:
        from flows.examine import population_priors

        own = name in {q.id for q in scores.fold("train").questions}
        source = f"the population's, of the pool's train questions{', this one among them' if own else ''}"
        return population_priors(config, scores).population, source
    from predictor.learned.store import load_predictor

    predictor = load_predictor(predictor_dir)
    require_same_contract(predictor.card.contract, pool.manifest.contract.fingerprint, str(predictor_dir))
    question = next(q for q in scores.questions if q.id == name)
    return predictor.predict([question])[0], f"the {predictor.card.kind} predictor in {predictor_dir}"


def _take(row: Row) -> Found:
    """What is told of a candidate, with the key of its answer as it was given or is read from its text."""
    key = row.get("answer_key")
    read = answer_key(extract_answer(row["completion"] or "") or "") if key is None else key or None
    return {"answer": read, **{name: row[name] for name in TAKEN}}


def _explain(
    policy: AnyPolicy,
    contract: ScoreContract,
    prior: Prior | None,
    rows: list[Found],
    ends: Sequence[int] | None = None,
) -> Found:
    """Rounds, alternatives, versions; what cannot be computed again is said in ``notes``."""
    scored = contract.reward_model is not None and contract.scale == "unit"
    numbers = {key: number for number, key in enumerate(dict.fromkeys(row["answer"] for row in rows))}
    candidates = Candidates(
        scores=np.array([[_score(row) if scored else np.nan for row in rows]]),
        correct=np.array([[np.nan if row["correct"] is None else float(row["correct"]) for row in rows]]),
        tokens=np.array([[row["completion_tokens"] for row in rows]]),
        reward_tokens=np.array([[row["reward_tokens"] for row in rows]]),
        answers=np.array([[numbers[row["answer"]] if row["answer"] else -1 for row in rows]]),
    )
    notes, steps = list[str](), []
    try:
        steps = follow(policy, candidates, prior, ends)
        ends = [step.decision.drawn for step in steps[1:]]
    except (ConfigError, ScoreError) as error:
        if ends is None:
            raise
        notes.append(f"What the rule computed cannot be shown: {error}")
    rounds = list[Found]()
    for place, (start, end) in enumerate(zip([0, 0, *ends], [0, *ends], strict=False)):
        rounds.append(
            {"drawn": end, "new": [{k: row[k] for k in ("answer", "score")} for row in rows[start:end]]}
        )
        if steps:
            rounds[-1] |= {"decision": steps[place].decision, "evidence": steps[place].evidence}
    if len(rows) < policy.cap:
        notes.append(f"{len(rows)} of {policy.cap} candidates are known; what others would have done is not.")
    last = rounds[-1]["decision"].selected if steps else None
    others = alternatives(candidates, policy.selection, policy.cap)
    return {
        "rounds": rounds,
        "delivered": {} if last is None else {"candidate": last, **rows[last]},
        "alternatives": [
            {**other.model_dump(), "answer": rows[other.selected]["answer"]} for other in others
        ],
        "versions": {
            **{"policy": policy, "policy_digest": short_digest(policy.model_dump_json())},
            **{
                "contract": contract,
                "contract_digest": contract.fingerprint,
                "prior": prior,
                "promise": None,
            },
        },
        "answers": [row["answer"] for row in rows],
        "notes": notes,
    }


def _score(row: Row) -> float:
    return row["score"] or 0.0 if row["status"] == "complete" else 0.0
