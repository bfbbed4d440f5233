"""A bundle with neither predictor nor reward model, served as any other: answers alone decide."""

import httpx
import openai
import pytest

from data.contract import UNSCORED, ScoreContract
from data.errors import BundleError
from predictor.policies import FixedN, Value
from predictor.selection import Selection
from predictor.vote_policies import Agreement
from serving.bundle import Bundle, write_card
from serving.settings import LogSettings
from tests.serving.conftest import CONTRACT, gateway_settings, make_card, serve

pytestmark = pytest.mark.slow
CONTRACT = ScoreContract.model_validate(CONTRACT.model_dump() | UNSCORED)
ALONE = {"contract": CONTRACT, "model_version": None, "correctness": None}


def make_alone(folder, policy):
    folder.mkdir(exist_ok=True)
    write_card(folder, make_card(policy=policy).model_copy(update=ALONE))
    return folder


@pytest.fixture(scope="module")
def served(upstream, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    bundle = make_alone(folder / "bundle", Agreement(cap=12, confidence=0.8))
    url = upstream.url("answers")
    settings = gateway_settings(url, url, tokenizer, reward=None, log=LogSettings(explore=0))
    with serve(bundle, settings, folder) as (url, _):
        yield url


@pytest.mark.suite
def test_a_client_gets_the_majoritys_answer(served):
    with openai.OpenAI(base_url=f"{served}/v1", api_key="any", max_retries=0) as client:
        for number in range(4):
            asked = [{"role": "user", "content": f"Compute {number} + 1."}]
            answer = client.chat.completions.create(model="m", messages=asked)
            found = answer.optscale
            assert answer.choices[0].message.content.startswith(f"Compute {number} + 1.")
            assert (found["ended"], found["degraded"], found["selection"]) == ("decided", [], "majority")
            assert (found["prior"], found["score"], found["tokens"]["reward"]) == (None, None, 0)
            assert found["contract"] == CONTRACT.fingerprint


@pytest.mark.suite
def test_decisions_are_by_answers_and_nothing_is_foretold(served):
    request = {"question": "Compute 1 + 1.", "answers": ["2", "2.0", "4/2", "2"]}
    decided = httpx.post(f"{served}/decide", json={"request": request}).json()
    assert (decided["action"], decided["selected"], decided["prior"]) == ("accept", 0, None)
    asked = httpx.post(f"{served}/predict", json={"questions": [{"question": "Compute 1 + 1."}]})
    assert asked.status_code == 400
    assert "no predictor" in asked.json()["error"]["message"]
    described = httpx.post(f"{served}/describe").json()
    assert (described["promise"], described["contract"]["reward_model"]) == (None, None)
    assert described["says"].startswith("nothing is certified: the policy (agreement, by majority)")
    assert httpx.get(f"{served}/health").json() == {"predictor": True, "away": [], "requests": 0}


def test_without_a_predictor_a_policy_that_reads_a_prior_is_no_bundle(tmp_path):
    assert Bundle.open(make_alone(tmp_path, FixedN(cap=4))).population() is None
    by_answers = Selection(kind="majority")
    for policy in (Value(cap=4, selection=by_answers), FixedN(cap=4, give_up=0.1, selection=by_answers)):
        with pytest.raises(BundleError, match="model_version is null.*reads a prior"):
            Bundle.open(make_alone(tmp_path, policy))
