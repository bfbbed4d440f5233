"""The files that run the bundle elsewhere, against their own schemas and against our settings."""

import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from data.contract import ScoreContract
from data.pool import Pool
from flows.config import load_config
from tests.conftest import ROOT
from tests.serving.conftest import gateway_settings

DEPLOY = Path(__file__).parents[2] / "serving" / "deploy"
URL = "http://127.0.0.1:9/v1"


def manifests():
    for file in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            yield pytest.param(document, id=f"{document['kind']}/{document['metadata']['name']}")


@pytest.mark.parametrize("manifest", manifests())
def test_manifests_fit_the_schema_of_kubernetes(manifest):
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("manifest", manifests())
def test_every_container_has_probes_and_limits(manifest):
    if manifest["kind"] == "Deployment":
        for container in manifest["spec"]["template"]["spec"]["containers"]:
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container)
            assert {"requests", "limits"} <= set(container["resources"])


@pytest.mark.parametrize("file", ["compose.yaml", "compose.gpu.yaml"])
def test_the_compose_files_fit_their_schema(file):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    subprocess.run([*command, str(DEPLOY / file)], check=True)


def test_everything_in_the_stack_has_a_health_check_a_user_of_its_own_and_a_local_port():
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    for name, service in compose["services"].items():
        assert "healthcheck" in service or name == "deploy"
        assert all(port.startswith("${BIND:-127.0.0.1}:") for port in service.get("ports", ()))
        if "optscale" in service["image"]:
            assert service["read_only"]
            assert service["cap_drop"] == ["ALL"]
        for volume in service.get("volumes", ()):
            place = volume.partition(":")[0]
            assert (DEPLOY / place).is_file() or place in {*compose["volumes"], "${STACK_CONFIG"}


def test_the_stacks_config_is_of_the_shipped_pools_contract():
    """Or no candidate that the stack draws would fit the pool that it starts from."""
    config = load_config(DEPLOY / "config.yaml", ("home=/tmp",))
    pool = Pool.open(str(ROOT / "data" / "pool")).manifest.contract
    generator = {"generator": config.generator.model, "generator_revision": config.generator.revision}
    reward = {"reward_model": config.reward.model, "reward_revision": config.reward.revision}
    made = {
        **generator,
        **reward,
        "prompt_template": config.generator.prompt_template,
        "sampling": config.generator.sampling,
        "markup": config.reward.convention,
        "span": config.reward.span,
        "aggregation": config.reward.aggregation,
    }
    assert ScoreContract(**made).fingerprint == pool.fingerprint
    assert config.gateway.generator == config.generator
    assert config.gateway.reward == config.reward


def test_grace_periods_cover_the_longest_request():
    longest = gateway_settings(URL, URL, "tokenizer").longest_deadline
    pods = (m.values[0] for m in manifests() if m.values[0]["kind"] == "Deployment")
    (pod,) = (p["spec"]["template"]["spec"] for p in pods if p["metadata"]["name"] == "optscale")
    assert pod["terminationGracePeriodSeconds"] >= longest
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert compose["services"]["gateway"]["stop_grace_period"] == f"{longest / 60:g}m"
