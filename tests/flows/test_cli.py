"""What every command has in common: help, an example, and answers in JSON alone on standard output."""

import json
import shlex

import pytest
import typer
from typer.testing import CliRunner

from data.questions import write_questions
from flows import cli
from tests.helpers import make_pool, make_questions

pytestmark = pytest.mark.slow

COMMANDS = typer.main.get_command(cli.app).commands
ANSWERING = {name for name, made in COMMANDS.items() if any(p.name == "as_json" for p in made.params)}
SILENT = {"serve", "serve-models"}
"""Becomes a server, and answers nothing."""
ON_A_SERVER = {"schedule", "deploy"}
"""They are asked in test_schedule.py and test_deployments.py."""
SMALL = """
predictor: {compare: [text]}
collect: {limit: 1, candidates: 2}
policy: {kind: value, cap: 6, target: 0.9}
goal: {lose: 0.3}
certify: {orders: 1}
gate: {mean_skill: -9, std_skill: -9, evidence_gain: -9, refutation_level: 1.0e-9}
"""


def test_every_command_answers_or_is_known_not_to():
    assert set(COMMANDS) == ANSWERING | SILENT


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Function that runs a command line in a folder with all that the lines below name."""
    folder = tmp_path_factory.mktemp("asked")
    make_pool(folder / "home" / "pool", questions=80)
    (folder / "c.yaml").write_text(SMALL)
    (folder / "scores.jsonl").write_text('{"question": "1 + 1?", "scores": [0.5, 0.25]}\n')
    (folder / "log").mkdir()
    listed = {"pool": "home/pool", "name": "one", "family": "sums", "source": "simulated", "licence": "none"}
    (folder / "pools.yaml").write_text(json.dumps({"name": "r", "pools": [listed]}))
    write_questions(make_questions(3, start=1000), folder / "q.jsonl")

    def run(line):
        arguments = [part.replace("HERE", str(folder)) for part in shlex.split(line)]
        return CliRunner().invoke(
            cli.app, arguments, catch_exceptions=False, env={"OPTSCALE_HOME": str(folder / "home")}
        )

    return run


# In this order: what a line needs, one before has made.
LINES = [
    "import-pool --format scores --input HERE/scores.jsonl --pool HERE/imported",
    "collect -c HERE/c.yaml --dry-run",
    "train -c HERE/c.yaml --output HERE/predictor",
    "validate -c HERE/c.yaml --output HERE/report",
    "ship -c HERE/c.yaml",
    "monitor -c HERE/c.yaml",
    "predict -c HERE/c.yaml --questions HERE/q.jsonl --predictor HERE/predictor",
    "plan -c HERE/c.yaml --questions HERE/q.jsonl",
    "replay -c HERE/c.yaml",
    "certify -c HERE/c.yaml",
    "relocate -c HERE/c.yaml",
    "config -c HERE/c.yaml",
    "decide '[0.3]' -s policy.kind=schedule",
    "grade --answer 5 --reference 5",
    f"explain --pool HERE/home/pool --question {make_questions(1)[0].id} -s 'policy={{kind: lead, cap: 6}}'",
    "compare --pool HERE/home/pool",
    "pilot --pool HERE/home/pool",
    "learn-rule HERE/pools.yaml --output HERE/rule.json",
]


HEAVY = ("train", "validate", "ship", "monitor", "predict", "relocate")
"""They need what `train` has fitted."""


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(line, id=name, marks=[pytest.mark.suite] if name in HEAVY else [])
        for line in LINES
        for name in [line.split()[0]]
    ],
)
def test_json_is_alone_on_standard_output(request, asked, line):
    if line.split()[0] in HEAVY:
        request.getfixturevalue("prefect_server")
    done = asked(f"{line} --json")
    assert done.exit_code == 0, done.output
    json.loads(done.stdout, parse_constant=pytest.fail)


def test_the_lines_above_are_all_commands_that_answer():
    whole_loop = {"run", "retrain"}  # the four above in one, told as they are (test_output.py)
    from_a_gateway = {"import-log", "review"}  # tests/data/test_decision_log.py, test_review.py
    with_servers = {"init"} | ON_A_SERVER  # test_init.py
    by_hand = {
        "clean",
        "forget",
        "status",
        "rollback",
        "approve",
        "hold",
        "release",
        "full-cap",
    }  # test_champion.py, test_forget.py
    assert {
        line.split()[0] for line in LINES
    } == ANSWERING - whole_loop - from_a_gateway - with_servers - by_hand
