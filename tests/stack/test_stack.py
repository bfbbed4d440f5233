"""The whole stack in containers: started, asked, killed piece by piece, rolled back. In order, as written."""

import json
import os
import shlex
import time

import httpx
import openai
import pytest
import yaml

from tests.conftest import ROOT
from tests.servers import free_port
from tests.stack.stack import BASE, DEPLOY, ENGINE, PROJECT, SERVICES, Stack, run, secret, wait_for


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
    config["gateway"]["log"] |= {"seconds": 1}
    config["gateway"]["deadline"] = 600
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


def test_the_worker_retrains_and_the_gateway_follows(stack):
    state = stack.ended(stack.start("retrain/retrain"))
    assert state["type"] == "COMPLETED", state
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
    run(ENGINE, "rm", "--force", "--time", "60", stack.containers("worker")[-1])
    wait_for(lambda: stack.served() == "2", 60)
    told = json.loads(stack.optscale("rollback", "--json"))
    stack.kill("gateway")
    stack.wait()
    assert (told["champion"], told["registry"]) == ("1", "its alias names the champion")
    assert stack.served() == "1"
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


def test_a_database_that_is_away_for_a_minute_costs_no_run(stack):
    number = stack.start("collect/collect")
    wait_for(lambda: stack.state(number)["type"] == "RUNNING")
    stack.kill("postgres", away=60)
    state = wait_for(lambda: final(stack, number), 600)
    assert state["type"] == "COMPLETED", state


def final(stack, number):
    """The state of a run that has ended, from a server that may be away."""
    try:
        return stack.ended(number, 1)
    except (AssertionError, httpx.HTTPError):
        return None


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


def test_a_dump_of_the_databases_is_a_backup(stack):
    """README.md's commands, onto a new volume."""
    before = stack.versions(), stack.prefect("POST", "/flow_runs/count", json={})
    dump = [
        "exec",
        "-T",
        "postgres",
        "pg_dump",
        "--clean",
        "--if-exists",
        "-U",
        "optscale",
    ]
    saved = {name: stack.compose(*dump, name) for name in ("mlflow", "prefect")}
    for service in ("mlflow", "prefect"):
        run(ENGINE, "stop", "-t", "5", stack.container(service))
    run(ENGINE, "rm", "--force", stack.container("postgres"))
    run(ENGINE, "volume", "rm", f"{PROJECT}_postgres")
    stack.compose("up", "--detach", "--no-deps", "postgres")
    stack.wait("postgres")
    for name, text in saved.items():
        psql = ["exec", "-T", "postgres", "psql", "-q", "-U", "optscale", "-d", name]
        stack.compose(*psql, "-v", "ON_ERROR_STOP=1", input=text)
    for service in ("mlflow", "prefect"):
        run(ENGINE, "start", stack.container(service))
    stack.wait()
    assert (stack.versions(), stack.prefect("POST", "/flow_runs/count", json={})) == before


def test_a_worker_killed_in_a_run_frees_its_slot(stack):
    number = stack.start("retrain/retrain")
    wait_for(lambda: stack.state(number)["type"] == "RUNNING")
    time.sleep(5)  # for a sign of life
    stack.kill("worker")
    assert stack.ended(stack.start("retrain/retrain"))["type"] == "CANCELLED"  # one at a time
    state = stack.ended(number)
    assert state["type"] == "CRASHED"
    assert state["message"] == "it gave no sign of life for 5 minutes. Its slot is free."
    following = stack.start("retrain/retrain")
    wait_for(lambda: stack.state(following)["type"] == "RUNNING")
