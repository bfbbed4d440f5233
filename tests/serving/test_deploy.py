"""The files that run the bundle elsewhere, against their own schemas and against our settings."""

import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from serving.settings import override
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


def test_the_compose_file_fits_its_schema():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    subprocess.run([*command, str(DEPLOY / "compose.yaml")], check=True)
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    for item in compose["configs"].values():
        assert (DEPLOY / item["file"]).is_file()


def test_settings_in_the_files_are_settings(monkeypatch, tmp_path):
    (config_map,) = (m.values[0] for m in manifests() if m.values[0]["kind"] == "ConfigMap")
    (tmp_path / "k8s.yaml").write_text(config_map["data"]["gateway.yaml"])
    base = gateway_settings(URL, URL, "tokenizer")
    for file in (DEPLOY / "gateway.yaml", tmp_path / "k8s.yaml"):
        monkeypatch.setenv("OPTSCALE_GATEWAY_FILE", str(file))
        found = override(base)
        assert found.generator.base_url == "http://generator:8000/v1"
        assert found.log.location() == Path("/var/lib/optscale/decisions")


def test_grace_periods_cover_the_longest_request():
    longest = gateway_settings(URL, URL, "tokenizer").longest_deadline
    pods = (m.values[0] for m in manifests() if m.values[0]["kind"] == "Deployment")
    (pod,) = (p["spec"]["template"]["spec"] for p in pods if p["metadata"]["name"] == "optscale")
    assert pod["terminationGracePeriodSeconds"] >= longest
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert compose["services"]["gateway"]["stop_grace_period"] == f"{longest / 60:g}m"
