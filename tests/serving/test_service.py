"""The service in process."""

import asyncio
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from starlette.testclient import TestClient

from data.errors import BundleError
from predictor.empirical import fit_empirical, save_family
from predictor.prior import Prior
from serving.bundle import Bundle, write_card
from tests.serving.conftest import CONTRACT, POLICY, gateway_settings, make_card

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def client(bundle, upstream, tokenizer, tmp_path_factory):
    patch, second = pytest.MonkeyPatch(), tmp_path_factory.mktemp("second") / "bundle"
    shutil.copytree(bundle, second)
    settings = gateway_settings(upstream.url("plain"), upstream.url("plain"), tokenizer)
    write_card(second, make_card(settings))  # the first bundle has no gateway
    patch.setenv("OPTSCALE_BUNDLE", str(bundle))
    patch.setenv("OPTSCALE_MORE_BUNDLES", str(second))
    from serving.service import OptScale as Service

    with TestClient(Service.to_asgi(), raise_server_exceptions=False) as client:
        yield client
    patch.undo()


def ask(client, route, body):
    answer = client.post(route, json=body)
    return answer.status_code, answer.json()


def decide(client, **request):
    return ask(client, "/decide", {"request": request})


def test_it_is_ready_after_the_warm_up(client):
    assert client.get("/readyz").status_code == 200
    assert client.get("/livez").status_code == 200


def test_predict_gives_a_prior_a_question(client):
    messages = [{"role": "user", "content": "Compute 2 + 2."}]
    status, found = ask(
        client, "/predict", {"questions": [{"question": "Compute 2 + 2."}, {"messages": messages}]}
    )
    assert status == 200
    assert found[0]["prior"]["location"] == pytest.approx(found[1]["prior"]["location"], abs=1e-4)
    assert 1 <= found[0]["required_samples"] <= POLICY.cap
    assert found[0]["expected_tokens"] == 20 * found[0]["required_samples"]
    assert found[0]["contract"] == CONTRACT.fingerprint


def test_a_further_bundle_answers_for_its_model_with_its_predictor(client):
    messages = [{"role": "user", "content": "Compute 2 + 2."}]
    status, found = ask(client, "/v1/chat/completions", {"model": "m", "messages": messages})
    assert (status, found["optscale"]["degraded"]) == (200, [])
    (known,) = ask(client, "/predict", {"questions": [{"messages": messages}]})[1]
    assert found["optscale"]["prior"]["location"] == pytest.approx(known["prior"]["location"], abs=1e-4)
    assert list(ask(client, "/describe", {})[1]["models"]) == ["m"]
    assert ask(client, "/v1/chat/completions", {"model": "m2", "messages": messages})[0] == 404


def test_decide_walks_from_the_first_sample_to_the_end(client):
    scores: list[float] = []
    for _ in range(POLICY.cap + 1):
        status, found = decide(client, question="Compute 2 + 2.", scores=scores)
        assert status == 200
        if found["action"] != "sample":
            break
        scores += [0.5] * found["more"]
    assert found["action"] in {"accept", "give up"}
    assert found["reason"]
    assert found["drawn"] == len(scores) <= POLICY.cap


def test_decide_takes_a_prior_instead_of_a_question(client):
    prior = Prior.centred(0.99, 0.01, 0.1).model_dump(mode="json")
    status, found = decide(client, prior=prior, scores=[0.95, 0.96])
    assert (status, found["action"], found["prior"]) == (200, "accept", prior)


def test_decide_tells_the_chance_of_being_right(client):
    prior = Prior.centred(0.8, 0.1).model_dump(mode="json")
    assert decide(client, prior=prior, scores=[])[1]["chance_correct"] is None
    one, many = (decide(client, prior=prior, scores=s)[1]["chance_correct"] for s in ([0.8], [0.8, 0.1]))
    assert one == pytest.approx(1 / (1 + np.exp(-2.0)))
    assert many == pytest.approx(1 / (1 + np.exp(-2.0 + 0.5 * np.log(2))))
    assert decide(client, prior=prior, scores=[0.5])[1]["promise"] is None  # this bundle has no certificate


def test_scores_of_another_contract_are_refused(client):
    status, found = decide(client, question="q", scores=[0.5], contract="0" * 16)
    assert status == 409
    assert "cannot be compared" in json.dumps(found)
    assert decide(client, question="q", scores=[], contract=CONTRACT.fingerprint)[0] == 200


@pytest.mark.parametrize(
    "request_",
    [
        {"question": "q", "scores": [1.5]},
        {"question": "q", "scores": [-0.1]},
        {"question": "q", "scores": ["a"]},
        {"question": "q", "scores": [0.5] * 9},
        {"question": "q", "scores": [0.5] * 5000},
        {"question": "q", "scors": []},
        {"question": "", "scores": []},
        {"question": "   ", "scores": []},
        {"question": "x" * 100_000, "scores": []},
        {"question": "q", "messages": [{"role": "user", "content": "q"}]},
        {"messages": [{"role": "user", "content": "x" * 100_000}]},
        {"messages": []},
        {"question": "q", "prior": Prior.centred(0.5, 0.1).model_dump(mode="json")},
        {"prior": {"family": "unknown", "location": [0, 0], "spread": [1, 1]}},
        {"question": 5},
    ],
)
def test_bad_requests_are_refused_with_a_reason(client, request_):
    status, found = decide(client, **request_)
    assert status == 400, found
    assert len(json.dumps(found)) > 20


@pytest.mark.parametrize(
    "body", ['{"request": {"question": "q", "scores": [NaN]}}', '{"request": {"scores": [1e999]}}', "{", "[]"]
)
def test_what_is_not_json_is_refused(client, body):
    answer = client.post("/decide", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "questions",
    [
        [{"question": "x" * 100_000}],
        [{"question": "q"}] * 100,
        [{}],
        [{"question": ""}],
        "q",
        [{"question": "q", "extra": 1}],
    ],
)
def test_predict_has_limits(client, questions):
    assert ask(client, "/predict", {"questions": questions})[0] == 400


def test_an_answered_request_leaves_no_timer(client):
    async def far_off():
        loop = asyncio.get_running_loop()
        return [h for h in loop._scheduled if not h.cancelled() and h.when() > loop.time() + 300]

    for _ in range(5):
        client.post("/describe")
    assert client.portal.call(far_off) == []


def test_openapi_has_the_routes_and_examples(client):
    document = client.get("/docs.json").json()
    assert {"/predict", "/decide", "/describe"} <= set(document["paths"])
    assert "Compute 61 - 33 + 28." in json.dumps(document)


def test_the_page_loads_nothing_from_other_hosts(client):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    assert "://" not in page.text.replace("window.location.protocol + '//'", "")
    assets = re.findall(r"(?:src|href)=\"([^\"]+)\"", page.text)
    assert len(assets) == 3
    assert all(client.get(asset).status_code == 200 for asset in assets)


def test_metrics_count_decisions(client):
    decide(client, question="q", scores=[])
    assert "optscale_decisions" in client.get("/metrics").text


def test_describe_names_contract_and_policy(client):
    _, found = ask(client, "/describe", {})
    assert found["policy"]["target"] == POLICY.target
    assert found["fingerprint"] == CONTRACT.fingerprint


def test_a_bundle_is_read_only_what_it_is(bundle, tmp_path):
    assert Bundle.open(bundle).card.policy == POLICY
    with pytest.raises(BundleError, match="missing"):
        Bundle.open(tmp_path)
    (tmp_path / "bundle.json").write_text('{"policy": {}}')
    with pytest.raises(BundleError, match="not a bundle's card"):
        Bundle.open(tmp_path)


@pytest.mark.suite
def test_the_empirical_family_is_read_without_torch(tmp_path):
    """The gateway has no predictor in its process, and decides with the family all the same."""
    family = fit_empirical(np.random.default_rng(0).beta(5, 2, (30, 8)).round(2))
    save_family(family.name, tmp_path)
    population = Prior(family=family.name, location=(1.0, -2.0), spread=(1.0, 1.0))
    (tmp_path / "predictor.json").write_text(json.dumps({"population": population.model_dump(mode="json")}))
    write_card(tmp_path, make_card())
    code = """
import sys
from predictor.decision import decide
from predictor.policies import Value
from serving.bundle import Bundle
bundle = Bundle.open(sys.argv[1])
print(decide(Value(target=0.9, cap=8), [0.5], bundle.population()).action, "torch" in sys.modules)
"""
    line = [sys.executable, "-c", code, str(tmp_path)]
    printed = subprocess.run(line, capture_output=True, text=True, check=True).stdout.split()
    assert printed[0] in {"sample", "accept", "give"}
    assert printed[-1] == "False"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            "from bentoml._internal.server.http import traffic; del traffic.TimeoutMiddleware",
            "TimeoutMiddleware",
        ),
        ("import bentoml; bentoml.__version__ = '1.5.0'", "newer"),
    ],
)
def test_a_bentoml_that_cannot_be_patched_is_named(change, named):
    code = f"{change}\nimport serving.bentoml_patches"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("data.errors.BundleError: bentoml ")
    assert named in last
    assert last.endswith("install bentoml>=1.4.20,<1.5")
