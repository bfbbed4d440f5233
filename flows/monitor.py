"""Monitor: hold what was served against what was promised and what was usual, and tell what has changed."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from prefect import flow
from prefect.events import emit_event
from prefect.logging import get_run_logger
from pydantic import Field

from data.answer_function import AnswerFunction, load_answer_function
from data.decision_log import read_rows, written
from data.errors import BundleError
from data.feedback import Feedback, read_feedback
from data.folds import FoldSettings
from data.log_import import contract_of, fate, pool_rows, question_of
from data.question import Question
from data.record import Record
from data.scores import tabulate
from flows import champion as champions
from flows.collect import read_all_questions
from flows.config import Config
from predictor.certificate import Certificate
from predictor.goal import Loss
from predictor.prior import Prior
from predictor.usual import USUAL, UsualStatistics, detectors, judge_of, loss_at, read
from predictor.watch import Detector, Usual
from serving.alarms import FILE, Alarm, Alarms
from serving.bundle import Bundle, BundleCard
from serving.champion import Champion, beside, change_record

EVENT = "optscale.alarm"
_LOSSES: tuple[tuple[str, Loss | None], ...] = (("lost", None), ("changed", "changed"))
LATE = timedelta(days=1)
"""By which a file may come into the log after another that is younger by its name."""
Row = dict[str, Any]


class State(Record):
    """``<manifest>/watch.json``: how far the log was read, and the wealth of all bets."""

    champion: str = ""
    """Its bundle, and since when: with another one all begins anew."""
    mark: int = 0
    """Files written before this (in nanoseconds since 1970) were read, or are not the champion's."""
    files: tuple[str, ...] = ()
    """Those after it that were read."""
    day: int = 0
    asked: tuple[str, ...] = ()
    """Questions of that day: each is counted once a day."""
    detectors: dict[str, Detector] = Field(default_factory=dict)
    told: tuple[str, ...] = ()
    """Statistics whose alarm was told."""
    found: Alarms = Alarms()


class Watched(NamedTuple):
    """What the log is held against."""

    config: Config
    champion: Champion
    card: BundleCard
    certificate: Certificate
    before: dict[str, Usual]
    folder: Path
    texts: dict[str, Question]
    """With their reference answers, where right answers are promised; and what people said."""
    told: dict[str, Feedback]
    judge: AnswerFunction | None
    """The user's own, of answers."""

    @classmethod
    def of(cls, config: Config, champion: Champion, folder: Path) -> Self:
        """What the champion's bundle tells; raises BundleError where it was shipped without."""
        card, file = Bundle.open(champion.bundle).card, Path(champion.bundle) / USUAL
        if card.certificate is None or not file.exists():
            raise BundleError(
                f"the champion's bundle {champion.bundle} does not tell what was usual ({USUAL}): validate "
                f"and ship version {champion.version} again"
            )
        before = UsualStatistics.model_validate_json(file.read_bytes()).root
        right = card.certificate.goal.loss == "lost_accuracy"
        texts = {q.id: q for q in read_all_questions(config)} if right else {}
        answers = config.collect.answers
        judge = None if answers is None else load_answer_function(answers)
        told = read_feedback(folder)
        return cls(config, champion, card, card.certificate, before, folder, texts, told, judge)

    @property
    def key(self) -> str:
        """Names the champion in the state."""
        return f"{self.champion.tag} since {self.champion.since.isoformat()}"

    def detectors(self) -> dict[str, Detector]:
        """As they begin."""
        return detectors(self.certificate, self.before, self.config.monitor.margins)


@flow(name="monitor", flow_run_name="monitor")
def monitor(config: Config, clear: str | None = None) -> Alarms:
    """Read what the log has anew, each request once, and tell each alarm.

    ``clear`` says why what stood is taken back: all is watched from here on as from the first day.

    Raises
    ------
    BundleError
        If the champion's bundle is not here, or the state cannot be read or written.
    PoolError
        If the log cannot be read.
    """
    logger, champion = get_run_logger(), champions.manifest(config).champion
    folder = None if config.gateway is None else config.gateway.log.location()
    if champion is None or folder is None:
        logger.info("nothing to watch: %s", "no champion" if champion is None else "no gateway that logs")
        return Alarms()
    if clear is not None:
        logger.warning("what stood was taken back by %s: %s", champions.who(), clear)
    watched = Watched.of(config, champion, folder)
    state = _change(config, lambda state: look(state, watched, clear))
    found, standing = state.found, tuple(alarm.statistic for alarm in state.found.standing)
    change_record(beside(config.champion_location, FILE), Alarms, "file of alarms", lambda _: found)
    for alarm in found.standing:
        if alarm.statistic not in state.told:
            _tell(config, alarm)
    _change(config, lambda state: state.model_copy(update={"told": standing}))
    logger.info(
        "%d requests of version %s, %d of them explored: %d alarms stand",
        *(found.requests, found.version, found.explored, len(standing)),
    )
    return found


def _change(config: Config, make: Any) -> State:
    location = beside(config.champion_location, "watch")
    return change_record(location, State, "monitor's state", make)


def look(state: State, watched: Watched, clear: str | None = None) -> State:
    """The state after what is new in the log; the same however often a run before was killed."""
    if state.champion != watched.key or clear is not None:
        kept = {"mark": state.mark, "files": state.files} if state.champion == watched.key else {}
        since = int(watched.champion.since.timestamp() * 1e9)
        state = State(champion=watched.key, detectors=watched.detectors(), **({"mark": since} | kept))
    new = sorted(
        (when, file)
        for file in watched.folder.glob("*.parquet")
        if (when := written(file) or 0) > state.mark and file.name not in state.files
    )
    day, asked, requests, explored = state.day, set(state.asked), state.found.requests, state.found.explored
    now = dict(state.detectors)
    for _, file in new:
        values: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for row in _rows(file, watched):
            hour = int(row["time"].timestamp() // 3600)
            if hour // 24 > day:
                day, asked = hour // 24, set()
            for name, value in _values(row, watched, asked):
                values[name].append((hour, value))
            requests, explored = requests + 1, explored + row["explored"]
        for name in values.keys() & now.keys():
            hours, logged = zip(*values[name], strict=True)
            ranks = watched.before[name].ranks if name in watched.before else None
            now[name] = now[name].after(np.array(hours), read(name, np.array(logged, float), ranks))
    latest = max((when for when, _ in new), default=state.mark)
    mark = max(state.mark, latest - int(LATE.total_seconds() * 1e9))
    names = {*state.files, *(file.name for _, file in new)}
    found = Alarms(
        version=watched.champion.version,
        looked=datetime.now(UTC),
        requests=requests,
        explored=explored,
        statistics=tuple(sorted(now)),
        standing=(*state.found.standing, *_new_alarms(now, state, watched.config.monitor.alarms_a_year)),
    )
    return State(
        champion=watched.key,
        mark=mark,
        files=tuple(sorted(name for name in names if (written(Path(name)) or 0) > mark)),
        day=day,
        asked=tuple(sorted(asked)),
        detectors=now,
        told=state.told,
        found=found,
    )


def _new_alarms(now: dict[str, Detector], state: State, a_year: float) -> Iterator[Alarm]:
    standing = {alarm.statistic for alarm in state.found.standing}
    for name, one in now.items():
        if name not in standing and one.alarms(a_year / len(now)):
            limits = {"lately": one.lately, "low": one.below, "high": one.above, "seen": one.seen}
            yield Alarm(statistic=name, since=datetime.now(UTC), **limits)


def _rows(file: Path, watched: Watched) -> Iterator[Row]:
    """Those of the champion's, under its contract; none of a file that retention has deleted meanwhile."""
    known = dict[str, bool]()
    for row in read_rows(file) if file.exists() else ():
        if (contract := row["contract"]) not in known:
            known[contract] = contract_of(row, watched.folder).fingerprint == watched.champion.contract
        if known[contract] and row["model_version"] == watched.champion.version and row["candidates"]:
            yield row


def _values(row: Row, watched: Watched, asked: set[str]) -> Iterator[tuple[str, float]]:
    """What a request tells of each statistic, as it is logged; each question of a day counts once."""
    question, first, policy = row["question_id"], row["candidates"][0], watched.card.policy
    as_shipped = row["policy"] == policy.model_dump_json()
    if question not in asked and first["status"] != "cancelled":
        asked.add(question)
        yield "failures", first["status"] != "complete"
        yield "tokens", first["tokens"]
        score = (first["score"] or 0.0) if first["status"] == "complete" else 0.0
        yield from (("scores", score), ("score_spread", score))
        if prompt := max(found["prompt_tokens"] for found in row["candidates"]):
            yield "length", prompt
        if row["prior"] != "null" and not any("population's prior" in why for why in row["degraded"]):
            yield "difficulty", Prior.model_validate_json(row["prior"]).moments()[0]
        if row["ended"] == "decided" and as_shipped:
            best = max((found["score"] or 0.0 for found in row["candidates"][: row["seen"]]), default=0.0)
            yield "hits", best >= watched.certificate.target
    whole = len(row["candidates"]) >= watched.certificate.fallback.cap
    if as_shipped and whole and fate(row) is None and f"{question} explored" not in asked:
        asked.add(f"{question} explored")
        yield from _losses(row, watched)


def _losses(row: Row, watched: Watched) -> Iterator[tuple[str, float]]:
    """What the policy lost on a request against the reference on the same candidates, as far as is known."""
    known = question_of(row) or Question.ask(row["question_id"])
    question, told = watched.texts.get(row["question_id"], known), watched.told.get(row["request_id"])
    contract = watched.card.contract
    scale: Literal["unit", "none"] = "unit" if contract.reward_model else "none"
    rows = pool_rows(row, question, contract, told, watched.judge)
    rows = [r | {"score": c["score"]} for r, c in zip(rows, row["candidates"], strict=True)]
    shown = tabulate(rows, FoldSettings(), "the request", scale=scale).candidates(len(rows))
    for name, kind in _LOSSES:
        judge = judge_of(watched.certificate, kind)
        (loss,) = loss_at(judge, watched.card.policy, shown, np.array([row["seen"]]))
        if not np.isnan(loss):
            yield name, float(loss)


def _tell(config: Config, alarm: Alarm) -> None:
    """Log it, let an event say it, and widen to the reference where that is wanted."""
    get_run_logger().error("ALARM: %s", alarm.says)
    model = config.tracking.model
    payload = alarm.model_dump(mode="json") | {"says": alarm.says}
    emit_event(
        EVENT, {"prefect.resource.id": resource(config), "prefect.resource.name": model}, payload=payload
    )
    if config.monitor.on_alarm == "full-cap":
        champions.full_cap(config, True, f"alarm: {alarm.says}")


def resource(config: Config) -> str:
    """What alarms are of, to Prefect."""
    return f"optscale.champion.{config.tracking.model}"
