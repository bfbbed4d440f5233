"""Generators in this process: what they draw depends on their settings and seed, and on nothing else."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from transformers import DynamicCache

from data.contract import Sampling
from data.question import Question
from models.generator import local as module
from models.generator.local import LocalGenerator
from models.settings import LocalGeneratorSettings
from tests.models.tiny import save_causal

pytestmark = pytest.mark.slow

ASKED = [Question.ask(f"Compute {a} + {a + 3}.") for a in (1, 2, 40, 577)]
HOT = Sampling(temperature=1.0, top_p=1.0, max_tokens=8)
GREEDY = Sampling(temperature=0, max_tokens=16)


def local(path, **changes):
    values = {"backbone": path, "adapter": None, "dtype": "float32", "sampling": HOT}
    return LocalGenerator(LocalGeneratorSettings(**values | changes))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return save_causal(tmp_path_factory.mktemp("plain"))


def texts(found):
    return [[c.text for c in candidates] for candidates in found]


@pytest.mark.suite
@pytest.mark.parametrize("sampling", [HOT, GREEDY])
def test_what_a_model_ships_as_its_defaults_changes_no_sample(plain, tmp_path, sampling):
    held_back = list(range(40000))
    shaped = save_causal(tmp_path, do_sample=True, min_p=0.9, suppress_tokens=held_back)
    first, second = (local(path, sampling=sampling).sample(ASKED, n=2, seed=5) for path in (plain, shaped))
    assert texts(first) == texts(second)


def test_threads_that_draw_at_once_draw_what_each_draws_alone(plain):
    drawing = local(plain)
    alone = [drawing.sample(ASKED, n=2, seed=seed) for seed in (10, 20)]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            assert list(pool.map(lambda seed: drawing.sample(ASKED, n=2, seed=seed), (10, 20))) == alone


def test_no_more_rows_are_decoded_together_than_the_batch_holds(plain, monkeypatch):
    drawing, rows = local(plain, batch_size=4), []
    inner = drawing._sample_batch

    def watched(prompts, n, seed):
        rows.append(len(prompts) * n)
        return inner(prompts, n, seed)

    monkeypatch.setattr(drawing, "_sample_batch", watched)
    found = drawing.sample(ASKED[:2], n=10, seed=0)
    assert rows == [4, 4, 2] * 2
    assert [len(candidates) for candidates in found] == [10, 10]
    assert len({c.text for c in found[0]}) > 8


def test_tokens_after_a_stop_string_are_not_counted(plain):
    asked = ASKED[:1]
    ((whole,),) = local(plain, sampling=GREEDY).sample(asked, n=1, seed=0)
    stop = whole.text[60:66]
    drawing = local(plain, sampling=GREEDY.model_copy(update={"stop": (stop, "never")}))
    ((alone,),) = drawing.sample(asked, n=1, seed=0)
    assert (alone.text, alone.status) == (whole.text[: whole.text.index(stop)], "complete")
    assert 1 < alone.tokens < whole.tokens
    together = drawing.sample(ASKED, n=1, seed=0)  # the others never stop, and the row goes on with them
    assert together[0] == [alone]
    assert [c.status for (c,) in together[1:]] == ["cut"] * 3


def test_a_cache_that_grows_in_room_made_before_changes_no_sample(plain, monkeypatch):
    monkeypatch.setattr(module, "ROOM", 5)  # new room is made, and rows are left out, several times
    long = HOT.model_copy(update={"max_tokens": 40})
    drawing = local(plain, sampling=long)
    monkeypatch.setattr(drawing, "_ended", lambda generated: (generated % 97 == 0).any(1))
    found = drawing.sample(ASKED, n=4, seed=3)
    monkeypatch.setattr(module, "_roomy_cache", lambda config: DynamicCache(config=config))
    assert drawing.sample(ASKED, n=4, seed=3) == found
    assert len({len(c.text) for candidates in found for c in candidates}) > 4
