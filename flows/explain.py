"""Why one question was decided as it was: a request of the gateway, or a question of a pool."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.answers import key_of
from data.candidates import Candidates
from data.contract import ScoreContract, require_same_contract
from data.decision_log import read_log
from data.errors import ConfigError, PoolError, ScoreError
from data.feedback import read_feedback
from data.files import short_digest
from data.folds import FoldSettings
from data.log_import import contract_of, pool_rows, question_of
from data.question import Question
from data.questions import read_questions
from data.scores import ScoreTable, tabulate
from flows.config import Config
from flows.examine import load_table, population_priors, read_certificate
from predictor.certificate import Certificate
from predictor.empirical import load_family
from predictor.explanation import alternatives, follow
from predictor.policies import AnyPolicy, load_policy
from predictor.prior import Prior

NEAREST = 3
Found = dict[str, Any]
Row = dict[str, Any]


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
    texts = {q.id: q for q in read_questions(questions)} if questions else {}
    question = texts.get(row["question_id"]) or question_of(row)
    contract = contract_of(row, folder)
    rows = pool_rows(row, question or Question.ask(row["question_id"]), contract)
    policy = load_policy(row["policy"])
    prior = None if row["prior"] == "null" else Prior.model_validate_json(row["prior"])
    ends = [sum(c["round"] <= n for c in rows[: row["seen"]]) for n in range(row["rounds"])]
    scale: Literal["unit", "none"] = "unit" if contract.reward_model else "none"
    # As they were mapped then: the pool's rows keep of raw scores the raw ones alone.
    decided = [r | {"score": c["score"]} for r, c in zip(rows, row["candidates"], strict=True)]
    candidates = tabulate(decided, FoldSettings(), "the request", scale=scale).candidates(len(rows))
    told = _explain(policy, contract, prior, rows, candidates, ends)
    told["versions"] |= {"predictor": row.get("model_version"), "promise": row.get("promise")}
    told["delivered"] = _deliver(rows, row["chosen"]) | {"by": row.get("selection")}
    if (said := read_feedback(folder).get(request_id)) is not None and said.verdict != "unsure":
        told["delivered"] |= {"correct": said.verdict == "right", "said_by": said.who}
    if row["explored"]:
        told["notes"].append("It was drawn to the full cap for the log, and answered from all candidates.")
    if row["messages"] is None:
        told["notes"].append(
            "Texts are not in the log (log.text is off), so answers are neither told nor judged."
        )
    asked = {"id": row["question_id"], "text": question and question.text}
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
    pool, table = load_table(config)
    ids = [question.id for question in table.questions]
    known = [place for place, name in enumerate(ids) if name.startswith(question_id)]
    if len(known) != 1:
        where = f"question that alone begins with {question_id!r} in pool {config.pool_location}"
        raise _unknown(where, question_id, ids)
    asked, contract = table.questions[known[0]], pool.manifest.contract
    raw = sorted((r for r in pool.rows() if r["question_id"] == asked.id), key=lambda r: r["candidate"])
    policy, certificate = (config.policy, None) if policy_file is None else _read_policy(policy_file)
    prior, source = None, "none is read"
    if policy.reads_prior:
        prior, source = _prior_of(config, table, contract, asked, predictor)
    candidates = table.select(np.arange(len(table)) == known[0]).candidates(min(len(raw), policy.cap))
    told = _explain(policy, contract, prior, raw[: policy.cap], candidates)
    if certificate is not None:
        certificate.require_contract(contract.fingerprint)
        told["versions"]["promise"] = certificate.statement
    told["versions"]["predictor"] = source
    last = told["rounds"][-1]["decision"]
    ended, why = ("censored", "the pool has no further candidate") if last.more else ("decided", last.reason)
    question = {"id": asked.id, "text": asked.text}
    return told | {"question": question, "stopped_by": why, "ended": ended, "degraded": []}


def _unknown(what: str, name: str, known: Sequence[str]) -> PoolError:
    near = difflib.get_close_matches(name, known, NEAREST, cutoff=0.0)
    return PoolError(f"there is no {what}; nearest are {', '.join(near) or 'none: it is empty'}")


def _read_policy(file: Path) -> tuple[AnyPolicy, Certificate | None]:
    try:
        certificate = read_certificate(file)
    except ConfigError:
        return load_policy(file.read_bytes()), None
    return certificate.policy or certificate.fallback, certificate


def _prior_of(
    config: Config, table: ScoreTable, contract: ScoreContract, asked: Question, predictor_dir: Path | None
) -> tuple[Prior, str]:
    """The prior of one question, and where it is from."""
    if predictor_dir is None:
        own = ", this one among them" if asked in table.fold("train").questions else ""
        population = population_priors(config, table).require_population()
        return population, f"the population's, of the pool's train questions{own}"
    from predictor.learned.store import load_predictor

    predictor = load_predictor(predictor_dir)
    require_same_contract(predictor.card.contract, contract.fingerprint, str(predictor_dir))
    return predictor.predict([asked])[0], f"the {predictor.card.kind} predictor in {predictor_dir}"


def _key(row: Row) -> str | None:
    return key_of(row["answer_key"], row["completion"])


def _deliver(rows: Sequence[Row], place: int | None) -> Found:
    if place is None:
        return {}
    told = {name: rows[place][name] for name in ("score", "correct", "completion")}
    return {"candidate": place, "answer": _key(rows[place]), **told}


def _explain(
    policy: AnyPolicy,
    contract: ScoreContract,
    prior: Prior | None,
    rows: Sequence[Row],
    candidates: Candidates,
    ends: Sequence[int] | None = None,
) -> Found:
    """Rounds, alternatives, versions; what cannot be computed again is said in ``notes``."""
    notes, steps, keys = list[str](), [], [_key(row) for row in rows]
    try:
        steps = follow(policy, candidates, prior, ends)
        ends = [step.decision.drawn for step in steps[1:]]
    except (ConfigError, ScoreError) as error:
        if ends is None:
            raise
        notes.append(f"What the rule computed cannot be shown: {error}")
    rounds = list[Found]()
    for place, (start, end) in enumerate(zip([0, 0, *ends], [0, *ends], strict=False)):
        new = [{"answer": keys[number], "score": rows[number]["score"]} for number in range(start, end)]
        rounds.append({"drawn": end, "new": new, **(dict(steps[place]) if steps else {})})
    if len(rows) < policy.cap:
        notes.append(f"{len(rows)} of {policy.cap} candidates are known; what others would have done is not.")
    others = alternatives(candidates, policy.selection, policy.cap)
    versions = {
        "policy_digest": short_digest(policy.model_dump_json()),
        "contract_digest": contract.fingerprint,
    }
    return {
        "rounds": rounds,
        "delivered": _deliver(rows, steps[-1].decision.selected if steps else None),
        "alternatives": [{**other.model_dump(), "answer": keys[other.selected]} for other in others],
        "versions": {**versions, "policy": policy, "contract": contract, "prior": prior, "promise": None},
        "answers": keys,
        "notes": notes,
    }
