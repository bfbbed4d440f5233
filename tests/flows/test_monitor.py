"""The monitor reads a log that the gateway's own code writes: each request once, and what changed is told."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from data.contract import Sampling
from data.decision_log import DecisionLog
from data.folds import FoldSettings
from data.forget import forget_in_log
from data.pool import Pool
from data.question import Question
from data.rows import make_row
from data.scores import load_scores
from flows.config import Config
from models.generator.base import Candidate
from models.reward.base import StepScores
from predictor.goal import Goal
from predictor.policies import FixedN, Schedule
from predictor.prior import Prior, PriorBatch
from predictor.scored_questions import ScoredQuestions
from predictor.usual import USUAL, UsualStatistics, usual
from serving.alarms import alarms_of
from serving.best_of_n import BestOfN
from serving.bundle import BundleCard, write_card
from serving.champion import Champion, change, read
from serving.draws import Ask, log_row
from tests.flows.conftest import KEY
from tests.helpers import make_certificate, make_contract

pytestmark = pytest.mark.slow
CONTRACT = make_contract()
POLICY = Schedule(target=0.6, cap=4, start=2)
CERTIFICATE = make_certificate(
    POLICY, {"changed": 0.2}, goal=Goal(change=0.2), reference=FixedN(target=0.6, cap=4), statement="promised"
)
ASKED = [Question.ask(f"Compute {n} + 1.") for n in range(6000)]


class World:
    """Right answers score .6 to .9 and wrong ones 0 to .5, and ``up`` more; ``right`` of the answers are."""

    def __init__(self, seed, right=0.5, up=0.0):
        self.rng, self.right, self.up = np.random.default_rng(seed), right, up

    def draw(self):
        right = self.rng.random() < self.right
        score = self.rng.uniform(0.6, 0.9) if right else self.rng.uniform(0, 0.5)
        return (
            f"{round(min(score + self.up, 1.0), 4)}\nAnswer: {'r' if right else 'wxyz'[self.rng.integers(4)]}"
        )

    async def sample(self, question, count, seed, sampling, more, observe):
        return [
            Candidate(self.draw(), int(self.rng.integers(8, 20)), 5, "complete", seed + k)
            for k in range(count)
        ]

    async def fits(self, question):
        return True

    async def score(self, items, observe):
        return [StepScores([float(text.splitlines()[0])], 30) for _, text in items]


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """What was usual on a pool of the world."""
    folder, world = str(tmp_path_factory.mktemp("pool")), World(0)
    rows = [
        make_row(
            question,
            CONTRACT,
            candidate=k,
            completion=(text := world.draw()),
            completion_tokens=int(world.rng.integers(8, 20)),
            prompt_tokens=5,
            score=float(text.splitlines()[0]),
        )
        for question in ASKED[5000:]
        for k in range(4)
    ]
    Pool.create(folder, CONTRACT).append(rows)
    table = load_scores(Pool.open(folder), FoldSettings())
    priors = PriorBatch.of([Prior.centred(0.5, 0.2)] * len(table))
    return usual(ScoredQuestions(table, priors), POLICY, CERTIFICATE)


@pytest.fixture
def config(tmp_path, before):
    """Version 1 is champion, and a gateway logs."""
    gateway = {"generator": {"base_url": "http://127.0.0.1:9/v1", "model": "m"}, "reward": None}
    values = {"home": tmp_path, "gateway": gateway | {"log": {"folder": str(tmp_path / "log")}}}
    config = Config.model_validate(values | {"tracking": {"uri": "sqlite:////dev/null/gone.db"}})
    name_champion(config, tmp_path / "1", before)
    return config


def name_champion(config, folder, before, version="1"):
    folder.mkdir()
    values = {"policy": POLICY, "certificate": CERTIFICATE, "model_version": version, "data_digest": "d"}
    write_card(folder, BundleCard(contract=CONTRACT, tokens_per_candidate=14, **values))
    (folder / USUAL).write_text(UsualStatistics(before).model_dump_json())
    since = datetime.now(UTC) - timedelta(minutes=1)
    new = Champion(
        **{"version": version, "tag": f"t:{version}", "bundle": str(folder), "promise": "promised"},
        **{"contract": CONTRACT.fingerprint, "since": since},
    )
    change(config.champion_location, lambda now: now.name(new))


def serve(config, world, asked, explored=0.5, version="1"):
    """Answer and log, as the gateway does; a file is of 50 requests."""

    async def main():
        best_of_n = BestOfN(world, world, None, CONTRACT, Prior.centred(0.5, 0.2))
        log = DecisionLog(config.gateway.log.location(), rows=50, seconds=0.05)
        async with log.running():
            for number, question in enumerate(asked):
                due = asyncio.get_running_loop().time() + 60
                explore = number % 10 < 10 * explored
                ask = Ask(question, POLICY, Sampling(), 0, due, explore=explore, explore_share=explored)
                answer = await best_of_n.answer(ask)
                log.add(log_row(answer, CONTRACT, f"r{number}", 0.1, False, version, "promised"))
                await asyncio.sleep(0)

    asyncio.run(main())


def test_in_good_order_nothing_is_told_and_each_request_counts_once(config, prefect_server):
    from flows.monitor import monitor

    serve(config, World(1), ASKED[:100])
    first = monitor(config)
    assert (first.requests, first.explored, first.standing) == (100, 50, ())
    assert set(first.statistics) == {"lost", "hits", "scores", "score_spread", "tokens", "failures"}
    assert monitor(config).requests == 100
    forget_in_log(config.gateway.log.location(), [q.id for q in ASKED[:20]], None)
    sorted(config.gateway.log.location().glob("*.parquet"))[-1].unlink()  # as retention does
    serve(config, World(2), [*ASKED[300:330], *ASKED[300:310]])
    second = monitor(config)
    assert (second.requests, second.standing) == (140, ())
    serve(config, World(3, right=0), ASKED[400:420], version="0")  # a gateway that has not switched yet
    assert monitor(config).requests == 140
    assert alarms_of(config.champion_location).requests == 140


def test_a_changed_reward_model_is_told_once_and_widens(config, before, prefect_server, monkeypatch):
    """In the log, in the file beside the manifest, as an event; on a wish the reference is drawn."""
    from flows.monitor import EVENT, monitor, resource

    wide = config.model_copy(update={"monitor": config.monitor.model_copy(update={"on_alarm": "full-cap"})})
    serve(config, World(4, up=0.3), ASKED[:150])
    found = monitor(wide)
    told = {alarm.statistic: alarm for alarm in found.standing}
    assert "scores" in told
    assert told["scores"].lately > told["scores"].high
    manifest = read(config.champion_location)
    assert manifest.full_cap
    assert manifest.full_cap_why.startswith("alarm: ")
    change(config.champion_location, lambda now: now.model_copy(update={"full_cap": False}))
    assert monitor(wide).standing == found.standing
    assert not read(config.champion_location).full_cap  # who switched it off is not overruled
    with httpx.Client(base_url=prefect_server, auth=tuple(KEY.split(":"))) as api:
        asked = {"filter": {"event": {"name": [EVENT]}, "resource": {"id": [resource(config)]}}}
        deadline = time.monotonic() + 60
        # Other tests share the server, and send events that say nothing.
        while not (
            events := [e for e in api.post("/events/filter", json=asked).json()["events"] if e["payload"]]
        ):
            assert time.monotonic() < deadline, "no event came"
            time.sleep(0.5)
    assert {e["payload"]["statistic"] for e in events} == set(told)
    assert len(events) == len(told)

    monkeypatch.setenv("OPTSCALE_HOME", str(config.home))
    line = ["status", "--json", "-s", f"tracking.uri={config.tracking.uri}"]
    from flows.cli import app

    status = json.loads(CliRunner().invoke(app, line, catch_exceptions=False).stdout)
    assert any("scores is" in alarm for alarm in status["alarms"])
    assert monitor(config, "a new reward model, and we know").standing == ()
    serve(config, World(5), ASKED[400:420])
    name_champion(config, config.home / "2", before, "2")
    assert monitor(config).requests == 0


def test_answers_that_change_too_often_are_told(config, prefect_server, monkeypatch):
    """Where the last candidate is always the best-scored, the policy's answer is another."""
    from flows.monitor import monitor

    number = iter(range(1000))
    world = World(6)
    monkeypatch.setattr(world, "draw", lambda: f"{0.6 + 0.1 * ((n := next(number)) % 4)}\nAnswer: {n}")
    serve(config, world, ASKED[:60], explored=1.0)
    (alarm,) = (alarm for alarm in monitor(config).standing if alarm.statistic == "lost")
    assert alarm.says == "lost is 1.000 lately, and may be at most 0.210"


def test_a_bundle_that_does_not_tell_what_was_usual_is_named(config, prefect_server):
    from data.errors import BundleError
    from flows.monitor import monitor

    (config.home / "1" / USUAL).unlink()
    with pytest.raises(BundleError, match="does not tell what was usual.*ship version 1 again"):
        monitor(config)
