"""Step scores as the model cards compute them, written out; nothing here is the project's code."""

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, MistralForCausalLM, Qwen2Config, Qwen2Model


def qwen_by_hand(path, question, steps) -> list[float]:
    """P(right) of each step by Qwen2.5-Math-PRM's card."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    messages = [
        {
            "role": "system",
            "content": "Please reason step by step, and put your final answer within \\boxed{}.",
        },
        {"role": "user", "content": question},
        {"role": "assistant", "content": "<extra_0>".join(steps) + "<extra_0>"},
    ]
    ids = tokenizer(tokenizer.apply_chat_template(messages, tokenize=False), return_tensors="pt").input_ids
    weights = load_file(f"{path}/model.safetensors")
    model = Qwen2Model(Qwen2Config.from_pretrained(path)).eval()
    model.load_state_dict({k.removeprefix("model."): v for k, v in weights.items() if k.startswith("model.")})
    with torch.inference_mode():
        hidden = model(ids)[0][0]
    hidden = torch.relu(hidden @ weights["score.0.weight"].T + weights["score.0.bias"])
    classes = (hidden @ weights["score.2.weight"].T + weights["score.2.bias"]).softmax(-1)
    return classes[ids[0] == tokenizer.convert_tokens_to_ids("<extra_0>"), 1].tolist()


def shepherd_by_hand(path, question, steps) -> list[float]:
    """P(right) of each step by Math-Shepherd's card."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    text = "<s>" + question + " " + "\n".join(f"{s} ки" for s in steps)
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    mark, right, wrong = tokenizer.convert_tokens_to_ids(["▁ки", "▁+", "▁-"])
    model = MistralForCausalLM.from_pretrained(path).eval()
    with torch.inference_mode():
        logits = model(ids).logits[0]
    return logits[ids[0] == mark][:, [right, wrong]].softmax(-1)[:, 0].tolist()
