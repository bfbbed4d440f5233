"""Rows of the pool: their columns, and the question that a row belongs to."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa

from data.contract import ScoreContract
from data.question import Question

SCHEMA_VERSION: Literal[2] = 2
TIME = pa.timestamp("us", tz="UTC")
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
SCHEMA = pa.schema(
    [
        pa.field("schema_version", pa.int16(), nullable=False),
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("messages", MESSAGES, nullable=False),
        pa.field("answer", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("group", pa.string()),
        pa.field("candidate", pa.int32(), nullable=False),
        pa.field("round", pa.int32(), nullable=False),
        pa.field("completion", pa.string()),
        pa.field("completion_tokens", pa.int32(), nullable=False),
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("step_scores", pa.list_(pa.float32())),
        pa.field("score", pa.float64()),
        pa.field("correct", pa.bool_()),
        pa.field("reward_tokens", pa.int32(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("inclusion_probability", pa.float64(), nullable=False),
        pa.field("contract", pa.string(), nullable=False),
        pa.field("time", TIME, nullable=False),
        pa.field("raw_score", pa.float64()),
        pa.field("answer_key", pa.string()),
    ]
)
ADDED = ("raw_score", "answer_key")
"""Columns that parts of version 1 do not have; they are read as null."""
Row = dict[str, Any]


def with_added(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """The table with those of the columns ``names`` that later versions added, null where it has none."""
    for name in ADDED:
        if name in names and name not in table.column_names:
            table = table.append_column(SCHEMA.field(name), pa.nulls(len(table), SCHEMA.field(name).type))
    return table


def question_of(row: Row) -> Question:
    """The question that a row belongs to."""
    return Question(**{name: row[name] for name in Question.model_fields})


def make_row(question: Question, contract: ScoreContract, **values: Any) -> Row:
    """A row of the pool: the question's columns, the contract's, and what is known of the candidate."""
    return {
        **{"completion": None, "status": "complete", "round": 0, "seed": -1},
        **dict.fromkeys(("completion_tokens", "prompt_tokens", "reward_tokens"), 0),
        "schema_version": SCHEMA_VERSION,
        "question_id": question.id,
        "messages": question.as_chat(),
        **{name: getattr(question, name) for name in ("answer", "source", "group")},
        "contract": contract.fingerprint,
        "inclusion_probability": 1.0,
        "time": datetime.now(UTC),
        **values,
    }
