"""The embedded models served over HTTP, and the gateway in front of them: what ``make serve`` starts."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from starlette.testclient import TestClient

from data.answers import is_correct
from data.contract import ScoreContract
from data.errors import ConfigError
from data.question import Question
from flows.config import Config
from flows.serve import serve_models
from models.load import load_generator, load_reward_model
from models.reward.local import LocalRewardModel
from models.settings import LocalRewardSettings
from predictor.policies import Schedule
from serving.backend import Backend
from serving.bundle import Bundle
from serving.routes import app
from serving.settings import GatewaySettings, LogSettings
from tests.servers import free_port, running
from tests.serving.conftest import make_card, with_middlewares
from tests.serving.test_routes import Population

pytestmark = [pytest.mark.slow, pytest.mark.suite]
SUMS = [Question.ask(f"Compute {n} + 2.", answer=str(n + 2)) for n in range(3, 9)]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Gateway settings of the embedded models behind a server of their own."""
    folder = tmp_path_factory.mktemp("models")
    port, file = free_port(), folder / "models.yaml"
    command = [sys.executable, "-m", "flows.serve", Config().model_dump_json(), str(port), str(file)]
    with running(command, f"http://127.0.0.1:{port}/v1/models", folder / "log"):
        yield GatewaySettings.model_validate_json(file.read_text())


def test_candidates_come_as_from_any_server(settings):
    found = load_generator(settings.generator).sample(SUMS, 4, 0)
    candidates = [c for own in found for c in own]
    assert len(candidates) == 4 * len(SUMS)
    assert {c.status for c in candidates} == {"complete"}
    right = [is_correct(c.text, q.answer) for q, own in zip(SUMS, found, strict=True) for c in own]
    assert sum(right) > 0.6 * len(right)
    (hard,) = load_generator(settings.generator).sample([Question.ask("Compute 481 - 377 + 905.")], 8, 0)
    assert len({c.text for c in hard}) > 1  # they are samples


def test_a_seed_gives_the_same_candidates_whatever_else_is_asked(settings):
    url = f"{settings.generator.base_url}/chat/completions"
    body = {
        "model": "solver",
        "messages": [{"role": "user", "content": "Compute 481 - 377 + 905.", "name": "A"}],
    }

    def texts(seed):
        answer = httpx.post(url, json=body | {"n": 3, "seed": seed}, timeout=120).raise_for_status().json()
        return [choice["message"]["content"] for choice in answer["choices"]]

    with ThreadPoolExecutor(4) as pool:
        first, other, again, _ = pool.map(texts, (5, 6, 5, None))
    assert first == again == texts(5)
    assert first != other


def test_scores_are_those_of_the_model_in_process(settings):
    items = [
        (Question.ask("Compute 61 - 33 + 28."), "61 - 33 = 28\n28 + 28 = 56\nAnswer: 56"),
        (Question.ask("Compute 61 - 33 + 28."), "61 - 33 = 38\n38 + 28 = 66\nAnswer: 66"),
        (SUMS[0], "3 + 2 = 5\nAnswer: 5"),
        (SUMS[0], ""),
    ]
    here = LocalRewardModel(LocalRewardSettings()).score(items)
    over_http = load_reward_model(settings.reward).score(items)
    assert [s.tokens for s in over_http] == [s.tokens for s in here]
    for a, b in zip(over_http, here, strict=True):
        assert (a.steps is None) == (b.steps is None)
        assert a.steps is None or a.steps == pytest.approx(b.steps, abs=2e-3)


def test_requests_that_come_together_are_answered_each_for_itself(settings):
    model = load_reward_model(settings.reward)
    asked = [[(q, f"{n} + 2 = {n + 2}\nAnswer: {n + 2}")] for n, q in enumerate(SUMS, start=3)]
    alone = [model.score(items) for items in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(model.score, asked))
    for ones, others in zip(alone, together, strict=True):
        assert ones[0].steps == pytest.approx(others[0].steps, abs=2e-3)


@pytest.mark.parametrize(
    ("route", "body", "named"),
    [
        ("/v1/chat/completions", {"model": "solver", "messages": []}, "messages"),
        ("/v1/chat/completions", {"model": "solver", "messages": SUMS[0].as_chat(), "tools": [1]}, "tools"),
        ("/pooling", {"model": "prm", "input": [[1, 2, 3]]}, "no answer"),
        ("/pooling", None, "JSON"),
    ],
)
def test_what_is_not_understood_is_refused(settings, route, body, named):
    base = settings.generator.base_url.removesuffix("/v1")
    answer = httpx.post(f"{base}{route}", **({"json": body} if body else {"content": b"{"}))
    assert answer.status_code == 400
    assert named.lower() in answer.json()["error"]["message"].lower()


def test_the_gateway_answers_with_the_best_of_them(settings, bundle):
    reward = load_reward_model(settings.reward)
    contract = ScoreContract(
        **load_generator(settings.generator).identity,
        **reward.identity,
        sampling=settings.generator.sampling,
        aggregation=reward.aggregation,
    )
    policy = Schedule(target=0.9, cap=8, start=2)
    card = make_card(policy=policy).model_copy(update={"contract": contract})
    quiet = settings.model_copy(update={"log": LogSettings(explore=0)})
    app.state.stage = None  # of a service that another module started
    app.state.backend = Backend(Bundle(path=bundle, card=card), quiet, Population())
    with (
        TestClient(with_middlewares(app)) as http,
        openai.OpenAI(base_url="http://testserver/v1", api_key="none", http_client=http) as client,
    ):
        for question in SUMS[:3]:
            found = client.chat.completions.create(model="solver", messages=question.as_chat())
            named = found.optscale
            assert (named["ended"], named["degraded"]) == ("decided", [])
            assert named["score"] == max(named["scores"])
            assert 2 <= named["drawn"] <= policy.cap


def test_without_a_reward_model_the_generator_is_served_alone(tmp_path):
    config = Config.model_validate({"reward": None})
    port, file = free_port(), tmp_path / "models.yaml"
    command = [sys.executable, "-m", "flows.serve", config.model_dump_json(), str(port), str(file)]
    url = f"http://127.0.0.1:{port}"
    with running(command, f"{url}/v1/models", tmp_path / "log"):
        found = GatewaySettings.model_validate_json(file.read_text())
        listed = [model["id"] for model in httpx.get(f"{url}/v1/models").json()["data"]]
        assert (found.reward, listed) == (None, [found.generator.model])
        assert httpx.post(f"{url}/pooling", json={}).status_code == 404
        ((candidate,),) = load_generator(found.generator).sample(SUMS[:1], 1, 0)
        assert candidate.status == "complete"


def test_other_models_are_not_served_from_here():
    config = Config.model_validate({"reward": {"kind": "local", "convention": "qwen"}})
    with pytest.raises(ConfigError, match="under gateway"):
        serve_models(config, 1, Path("nowhere"))
