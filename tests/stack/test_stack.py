"""The whole stack in containers: started, asked, killed piece by piece, rolled back. In order, as written."""

import json
import os
import shlex
import time

import httpx
import openai
import pytest
import yaml

from data.question import Question
from tests.conftest import ROOT
from tests.servers import free_port
from tests.stack.stack import BASE, DEPLOY, ENGINE, FAR, PROJECT, SERVICES, Stack, run, secret, wait_for


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """Built, up and healthy; on the shipped pool, with the cheapest predictor and certificate."""
    options = shlex.split(os.environ.get("IMAGE_OPTIONS", ""))
    file = ["--file", "serving/deploy/Containerfile", "--build-arg", f"BASE={BASE}"]
    run(ENGINE, "build", *file, "--tag", "localhost/optscale:latest", *options, str(ROOT))
    run(str(DEPLOY / "secrets.sh"))
    config = yaml.safe_load((DEPLOY / "config.yaml").read_text())
    config["collect"]["limit"] = 1
    config |= {"predictor": {"compare": ["text"]}, "certify": {"orders": 1}, "goal": {"lose": 0.1}}
    config["gateway"]["log"] |= {"seconds": 1, "text": True}
    config["gateway"]["deadline"] = 600
    config["monitor"] = {"cron": FAR}
    path = tmp_path_factory.mktemp("stack") / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    path.parent.chmod(0o755)
    made = Stack(path)
    made.compose("down", "--volumes")
    try:
        made.compose("up", "--detach")
        made.wait()
        yield made
    finally:
        made.compose("down", "--volumes")


VOLUMES = ("mlflow", "worker", "gateway")
SHIP = ("optscale", "ship", "--version", "1")


def ask(stack, question="Compute 61 - 33 + 28.", base_url=None):
    base_url = base_url or stack.url("gateway", "/v1")
    with openai.OpenAI(base_url=base_url, api_key=secret("api_key"), timeout=600) as client:
        return client.chat.completions.create(
            model="solver", messages=[{"role": "user", "content": question}]
        )


def test_the_gateway_answers_on_the_first_day(stack):
    """Nothing was shipped: it draws the reference."""
    answer = ask(stack)
    assert answer.optscale["drawn"] == 32
    assert answer.optscale["degraded"] == []
    assert stack.served() is None


def test_the_worker_retrains_on_what_was_served_and_the_gateway_follows(stack):
    """What was asked on the first day, and what a user said of it, are in the pool then."""
    served = ask(stack, "How many legs do 3 spiders and a cow have?")
    told = {"request_id": served.optscale["request_id"], "verdict": "wrong", "answer": "28"}
    key = {"authorization": f"Bearer {secret('api_key')}"}
    httpx.post(stack.url("gateway", "/v1/feedback"), headers=key, json=told).raise_for_status()
    number = stack.start("retrain/retrain")
    state = stack.ended(number)
    assert state["type"] == "COMPLETED", state
    assert any("of the decision log are new in the pool" in line for line in stack.log_of(number))
    assert Question.ask("How many legs do 3 spiders and a cow have?").id in stack.pooled()
    assert stack.versions() == ["1"]
    wait_for(lambda: stack.served() == "1", 60)
    answer = ask(stack)
    assert answer.choices[0].message.content
    assert answer.optscale["degraded"] == []


def test_every_service_comes_back_and_nothing_is_lost(stack):
    """Killed one after the other, each while all others run."""
    before = stack.logged(), stack.versions(), stack.served()
    runs = stack.prefect("POST", "/flow_runs/count", json={})
    asked = stack.query("max(optscale_candidates_total)")
    wait_for(lambda: stack.query("max_over_time(up[1h])"))
    for service in SERVICES:
        stack.kill(service)
        stack.wait()
    ask(stack)
    wait_for(lambda: stack.logged() == before[0] + 1, 60)
    assert stack.versions() == before[1]
    assert stack.served() == before[2]
    assert stack.prefect("POST", "/flow_runs/count", json={}) == runs
    assert asked
    assert stack.query("sum(increase(optscale_candidates_total[1h]))")


def test_the_next_retraining_can_be_rolled_back(stack):
    """Of two workers one takes it; the gateway is killed when it is to switch, and switches all the same."""
    stack.compose("up", "--detach", "--no-deps", "--scale", "worker=2", "worker")
    state = stack.ended(stack.start("retrain/retrain"))
    assert state["type"] == "COMPLETED", state
    assert stack.versions() == ["1", "2"]
    run(ENGINE, "stop", "-t", "60", second := stack.containers("worker")[-1])
    run(ENGINE, "rm", second)
    wait_for(lambda: stack.served() == "2", 60)
    told = json.loads(stack.optscale("rollback", "--json"))
    stack.kill("gateway")
    stack.wait()
    assert (told["champion"], told["registry"]) == ("1", "its alias names the champion")
    assert stack.served() == "1"
    assert ask(stack).optscale["degraded"] == []


def test_a_hand_on_the_switch(stack):
    """The gateway draws the reference at once; nothing is promoted while it is held."""
    drawn = ask(stack).optscale["drawn"]
    stack.optscale("full-cap", "on")
    wait_for(lambda: ask(stack).optscale["drawn"] == 32, 60)
    stack.optscale("full-cap", "off")
    wait_for(lambda: ask(stack).optscale["drawn"] == drawn, 60)
    stack.optscale("hold", "--why", "until Monday")
    with pytest.raises(AssertionError, match=r"promotions are held \(until Monday\)"):
        stack.optscale("ship", "--version", "2")
    assert json.loads(stack.optscale("release", "--json"))["held"] is None


def test_what_was_changed_in_prefects_ui_is_told_when_it_is_set_anew(stack):
    deployment = stack.prefect("GET", "/deployments/name/retrain/retrain")
    path = f"/deployments/{deployment['id']}/schedules/{deployment['schedules'][0]['id']}"
    stack.prefect("PATCH", path, json={"schedule": {"cron": "30 4 * * *", "timezone": "UTC"}})
    again = f"optscale deploy --cron '{FAR}' --timezone Europe/Berlin 2>&1"
    told = stack.compose("run", "--rm", "-T", "--no-deps", "deploy", "sh", "-c", again)
    assert "30 4 * * * (UTC), is replaced by this one" in told
    deployment = stack.prefect("GET", "/deployments/name/retrain/retrain")
    assert [one["schedule"]["cron"] for one in deployment["schedules"]] == [FAR]


def test_ten_ships_and_three_killed_ones_leave_what_is_kept(stack):
    for _ in range(10):
        stack.optscale("ship", "--version", "1")
    name = f"{PROJECT}-ship"
    for seconds in (6, 10, 14):
        stack.compose("run", "--detach", "--no-deps", "--name", name, "worker", *SHIP)
        time.sleep(seconds)
        run(ENGINE, "kill", name)
        run(ENGINE, "rm", name)
    assert len(stack.bundles()) >= 12
    told = json.loads(stack.optscale("clean", "--keep", "2", "--hours", "0", "--json"))
    assert stack.bundles() == set(told["kept"])
    assert len(told["kept"]) == 3
    tmp = "import pathlib; print(*pathlib.Path('/var/lib/optscale/tmp').glob('*'))"
    assert stack.python("worker", tmp) == ""
    stack.kill("gateway")
    stack.wait("gateway")
    assert stack.served() == "1"
    assert ask(stack).optscale["degraded"] == []


def test_another_users_state_is_one_line(stack):
    """A command as a user who may not write there."""
    command = ["run", "--rm", "-T", "--no-deps", "--user", "12345", "worker", "optscale", "retrain"]
    with pytest.raises(AssertionError, match="ConfigError: .*cannot be written") as told:
        stack.compose(*command)
    assert "Traceback" not in str(told.value)


def test_a_question_is_forgotten_in_pool_and_log(stack):
    forgotten = Question.ask("How many legs do 3 spiders and a cow have?").id
    rows = stack.logged()
    told = json.loads(stack.optscale("forget", "--question", forgotten, "--json"))
    assert (told["questions"], told["requests"], told["verdicts"]) == (1, 1, 1)
    assert forgotten not in stack.pooled()
    assert stack.logged() == rows - 1
    assert json.loads(stack.optscale("forget", "--question", forgotten, "--json"))["questions"] == 0
    assert ask(stack).optscale["degraded"] == []


def test_the_monitor_runs_on_the_worker(stack):
    state = stack.ended(stack.start("monitor/monitor"))
    assert state["type"] == "COMPLETED", state
    assert json.loads(stack.optscale("status", "--json"))["alarms"] == []


def test_where_the_disk_is_full_requests_go_on_and_a_metric_says_so(stack):
    """A second gateway, whose log is on a disk of one megabyte."""
    port, name = free_port(), f"{PROJECT}-small-disk"
    mounts = ["--read-only", "--tmpfs", "/tmp", "--tmpfs", "/var/lib/gateway:size=1g,mode=1777"]
    mounts += ["--tmpfs", "/var/lib/gateway/decisions:size=1m,mode=1777"]
    mounts += ["--volume", f"{stack.config}:/etc/optscale/config.yaml:ro"]
    named = {"OPTSCALE_CONFIG": "/etc/optscale/config.yaml", "OPTSCALE_HOME": "/var/lib/gateway"}
    named |= {"HOME": "/tmp", "PROMETHEUS_MULTIPROC_DIR": "/tmp/metrics", "HF_HUB_OFFLINE": "1"}
    named |= {"WAIT_FOR": "models:8000", "OPTSCALE_SERVE__CHAMPION": "/var/lib/gateway/none.json"}
    variables = [part for key, value in named.items() for part in ("--env", f"{key}={value}")]
    places = ["--network", f"{PROJECT}_default", "--publish", f"127.0.0.1:{port}:3000"]
    command = ["localhost/optscale:latest", "optscale", "serve", "--host=0.0.0.0", "--open"]
    root = ["--user", "0"]  # a tmpfs is not the image's user's with every engine
    run(ENGINE, "run", "--detach", "--name", name, *root, *places, *mounts, *variables, *command)
    url = f"http://127.0.0.1:{port}"

    def logged():
        count = "ls /var/lib/gateway/decisions/*.parquet 2>/dev/null | wc -l"
        return int(run(ENGINE, "exec", name, "sh", "-c", count))

    def lost():
        lines = httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("optscale_log_lost_total"))

    try:
        wait_for(lambda: is_ready(url))
        fill = "cat /dev/zero > /var/lib/gateway/decisions/fill; true"
        run(ENGINE, "exec", name, "sh", "-c", fill)
        assert ask(stack, base_url=f"{url}/v1").choices
        wait_for(lost, 60)
        assert not logged()
        run(ENGINE, "exec", name, "rm", "/var/lib/gateway/decisions/fill")
        assert ask(stack, base_url=f"{url}/v1").choices
        wait_for(logged, 60)
    finally:
        run(ENGINE, "rm", "--force", name)


def is_ready(url):
    try:
        return httpx.get(f"{url}/readyz", timeout=60).is_success
    except httpx.HTTPError:
        return False


def panels():
    for panel in json.loads((DEPLOY / "grafana.json").read_text())["panels"]:
        for target in panel["targets"]:
            yield pytest.param(target["expr"].replace("$__rate_interval", "5m"), id=panel["title"])


@pytest.mark.parametrize("expression", panels())
def test_every_panel_of_the_dashboard_shows_something(stack, expression):
    assert wait_for(lambda: stack.query(expression), 60)


def test_the_alert_rules_are_loaded_and_none_fires(stack):
    def rules():
        groups = httpx.get(stack.url("prometheus", "/api/v1/rules")).json()["data"]["groups"]
        found = [rule for group in groups for rule in group["rules"]]
        return found if {rule["health"] for rule in found} == {"ok"} else None

    written = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    found = {rule["name"]: rule["state"] for rule in wait_for(rules, 120)}
    assert found.keys() == {rule["alert"] for group in written for rule in group["rules"]}
    assert "firing" not in found.values()


def test_each_alert_fires_when_it_should(stack):
    """By promtool, in whose clock two weeks pass at once."""
    prometheus = stack.container("prometheus")
    run(ENGINE, "cp", str(ROOT / "tests" / "stack" / "alerts_test.yml"), f"{prometheus}:/tmp/")
    assert "SUCCESS" in run(ENGINE, "exec", prometheus, "promtool", "test", "rules", "/tmp/alerts_test.yml")


def test_a_database_that_is_away_for_a_minute_costs_no_run(stack):
    number = stack.start("collect/collect")
    stack.comes(number, "RUNNING")
    stack.kill("postgres", away=60)
    state = stack.ended(number)
    assert state["type"] == "COMPLETED", state


def test_a_server_that_restarts_while_a_run_starts_costs_no_run(stack):
    number = stack.start("monitor/monitor")
    stack.comes(number, "PENDING")
    stack.kill("prefect")
    state = stack.ended(number)
    assert state["type"] == "COMPLETED", state


def test_artifacts_that_cannot_be_written_are_an_error_of_ours(stack):
    mlflow = stack.container("mlflow")
    run(ENGINE, "exec", mlflow, "chmod", "-R", "a-w", "/var/lib/mlflow")
    try:
        with pytest.raises(AssertionError) as told:
            stack.optscale("validate", "--version", "1")
    finally:
        run(ENGINE, "exec", mlflow, "chmod", "-R", "u+w", "/var/lib/mlflow")
    assert "TrackingError: MLflow at http://mlflow:5000 failed" in str(told.value)
    assert "Traceback" not in str(told.value).split("TrackingError")[-1]


def test_what_was_backed_up_is_restored_onto_new_volumes(stack, tmp_path):
    """README.md's commands, as onto another machine."""

    def counted():
        runs = stack.prefect("POST", "/flow_runs/count", json={})
        return stack.versions(), runs, stack.pooled(), stack.bundles(), stack.logged(), stack.served()

    tmp_path.chmod(0o777)
    before = counted()
    exec_psql = ("exec", "-T", "postgres", "psql", "-q", "-v", "ON_ERROR_STOP=1", "-U", "optscale", "-d")
    dump = ("exec", "-T", "postgres", "pg_dump", "--clean", "--if-exists", "-U", "optscale")
    dumps = {name: stack.compose(*dump, name) for name in ("mlflow", "prefect")}
    for name in VOLUMES:
        tar(name, tmp_path, "ro", "-C", "/volume", "-cf", f"/archives/{name}.tar", ".")
    stack.compose("down", "--volumes")
    stack.compose("up", "--no-start")
    stack.compose("up", "--detach", "postgres")
    stack.wait("postgres")
    for name in VOLUMES:
        tar(name, tmp_path, "rw", "-C", "/volume", "-xpf", f"/archives/{name}.tar")
    for name, text in dumps.items():
        stack.compose(*exec_psql, name, input=text)
    stack.compose("up", "--detach")
    stack.wait()
    assert counted() == before
    assert json.loads(stack.optscale("status", "--json"))["registry"] == "its alias names the champion"
    assert ask(stack).optscale["degraded"] == []


def tar(volume, archives, mode, *options):
    mounts = ["-v", f"{PROJECT}_{volume}:/volume:{mode}", "-v", f"{archives}:/archives"]
    image = ["--user", "0", "--entrypoint", "tar", "localhost/optscale"]
    run(ENGINE, "run", "--rm", *mounts, *image, *options)


def test_a_run_is_stopped_at_each_of_its_states_and_the_next_one_comes(stack):
    """Waiting for a worker, taken by one, running, and about to be cancelled; by hand and by a kill."""
    run(ENGINE, "stop", "-t", "60", stack.container("worker"))
    waiting = stack.start("retrain/retrain")
    stack.prefect("POST", f"/flow_runs/{waiting}/set_state", json={"state": {"type": "CANCELLED"}})
    run(ENGINE, "start", stack.container("worker"))
    stack.wait("worker")
    stopped = stack.start("retrain/retrain")
    stack.comes(stopped, "RUNNING")
    stack.cancel(stopped)
    assert stack.ended(stopped)["type"] == "CANCELLED"
    killed, cancelled = (stack.start(name, limit=100) for name in ("retrain/retrain", "collect/collect"))
    for number in (killed, cancelled):
        stack.comes(number, "RUNNING")
    time.sleep(5)  # for a sign of life
    taken = stack.start("monitor/monitor")
    stack.comes(taken, "PENDING")
    run(ENGINE, "kill", "--signal=KILL", stack.container("worker"))
    stack.cancel(cancelled)
    run(ENGINE, "start", stack.container("worker"))
    assert stack.ended(stack.start("retrain/retrain"))["type"] == "CANCELLED"  # one at a time
    ends = [stack.ended(number) for number in (killed, cancelled, taken)]
    assert [end["type"] for end in ends] == ["CRASHED", "CANCELLED", "CRASHED"]
    assert ends[0]["message"] == "it gave no sign of life for 5 minutes. Its slot is free."
    assert ends[2]["message"] == "a worker took it 10 minutes ago, and it never began. Its slot is free."
    for name in ("retrain", "collect", "monitor"):
        begun = stack.comes(stack.start(f"{name}/{name}"), "RUNNING", "COMPLETED", "CANCELLED")
        assert begun["type"] != "CANCELLED", name  # as where a slot is still taken
