"""The one LoRA training loop: solver, reward model and predictor all learn through it."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from data.errors import ConfigError, ModelError
from models.batching import IGNORED
from models.reward.steps import Example
from models.settings import LoraSettings
from models.tokenizer import chat_prompt, first_line

Log = Callable[[int, dict[str, float]], None]
NOISE = 1e-3
"""Share of the tune loss before training by which it may be worse after an epoch, and training goes on."""
MAX_STEPS = "max_steps"
"""Value that is logged after every step: the steps that there will be, unless training stops early."""


def attach(
    model: nn.Module,
    settings: LoraSettings,
    trained: Sequence[str] = (),
    layers: Sequence[int] | None = None,
) -> PeftModel:
    """Wrap ``model`` with fresh adapters; the modules named in ``trained`` are learnt whole.

    ``layers`` are the numbers of those that are adapted; None: all.

    Raises
    ------
    ConfigError
        If no layer of the model is named in ``settings.targets``.
    """
    torch.manual_seed(settings.seed)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=list(settings.targets),
        modules_to_save=list(trained) or None,
        layers_to_transform=None if layers is None else list(layers),
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise ConfigError(
            f"lora.targets {list(settings.targets)} cannot be adapted in a {type(model).__name__}: "
            f"{first_line(error)} Name its linear layers"
        ) from error


def fit(
    model: nn.Module,
    train: Sequence[Example],
    tune: Sequence[Example],
    *,
    collate: Callable[[list[Example]], dict[str, Any]],
    loss: Callable[[Any, Tensor], Tensor],
    settings: LoraSettings,
    directory: Path,
    log: Log = lambda step, values: None,
) -> dict[str, float]:
    """Train the adapted weights of ``model`` in place; keep those of the best look at ``tune``.

    The first look is before the first step, so training never makes a model worse on ``tune``. It ends where
    an epoch has done harm.

    Parameters
    ----------
    model : takes what ``collate`` returns, less its ``labels``.
    train, tune : examples with ``input_ids``, by whose length training batches are grouped.
    collate : examples to a batch of tensors with ``labels``.
    loss : (model output, labels) to a scalar.
    directory : checkpoints; a run that finds a whole one there goes on from it.
    log : called with the step and its values, after each step with `MAX_STEPS`.

    Returns
    -------
    The mean training loss, the tune loss before training, and the best tune loss.
    """
    arguments = TrainingArguments(
        output_dir=str(directory),
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=4 * settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        train_sampling_strategy="group_by_length",
        eval_strategy=(looks := "steps" if settings.evaluate_every else "epoch"),
        save_strategy=looks,
        eval_steps=settings.evaluate_every,
        save_steps=settings.evaluate_every or 1,
        save_total_limit=2,
        load_best_model_at_end=True,
        restore_callback_states_from_checkpoint=True,  # patience, which would begin anew
        prediction_loss_only=True,
        label_names=["labels"],
        logging_steps=10,
        remove_unused_columns=False,
        disable_tqdm=True,  # whoever is logged to says how far it is
        seed=settings.seed,
        dataloader_pin_memory=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available() and "WORLD_SIZE" in os.environ,  # else none knows of another
        **_precision(),
    )

    trainer = _Trainer(
        loss,
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=sorted(tune, key=lambda e: len(e["input_ids"])),  # least padding
        data_collator=collate,
        callbacks=[EarlyStoppingCallback(settings.patience), _LogCallback(log), (worth := _WorthCallback())],
    )
    trainer.remove_callback(PrinterCallback)
    # Training may do harm where data are few: the start is kept unless a look at tune is better.
    learnt = {name: p for name, p in model.named_parameters() if p.requires_grad}
    start = {name: p.detach().clone() for name, p in learnt.items()}
    start_loss = worth.start_loss = trainer.evaluate()["eval_loss"]
    for folder in directory.glob("checkpoint-*"):
        if not _whole(folder):
            shutil.rmtree(folder, ignore_errors=True)  # each process does it
    resume = any(directory.glob("checkpoint-*"))
    result = trainer.train(resume_from_checkpoint=resume)
    best = trainer.state.best_metric
    if best is None or not best < start_loss:
        best = start_loss
        with torch.no_grad():
            for name, parameter in learnt.items():
                parameter.copy_(start[name])
    model.eval()
    return {"train_loss": result.training_loss, "start_tune_loss": start_loss, "tune_loss": best}


def _precision() -> dict[str, Any]:
    """For the trainer: forward passes in bfloat16, each by itself, and TF32 where the card has them."""
    if not (torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)):
        return {}
    return {"bf16": True, "tf32": True}


def _whole(checkpoint: Path) -> bool:
    """Whether it was saved to its end: the trainer's state is written last."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False
    return True


def encode_completion(tokenizer: Any, messages: list[dict[str, str]], completion: str) -> Example:
    """Token ids of prompt and completion, end token included; only the completion has labels."""
    prompt = tokenizer(chat_prompt(tokenizer, messages), add_special_tokens=False).input_ids
    answer = tokenizer(completion + tokenizer.eos_token, add_special_tokens=False).input_ids
    return {"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer}


def completion_loss(output: Any, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the next completion token; ``labels`` (batch, width) of `encode_completion`."""
    logits = output.logits[:, :-1].float()
    return cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)


def round_adapter(model: PeftModel) -> None:
    """Let the adapter be what `save_adapter` makes of it."""
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(torch.bfloat16).to(parameter.dtype)


def save_adapter(model: PeftModel, directory: Path) -> None:
    """Write the adapter as bfloat16 and the modules learnt whole as float32 safetensors, with its config."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = {
        name: tensor.detach().to("cpu", torch.bfloat16 if "lora_" in name else torch.float32).contiguous()
        for name, tensor in get_peft_model_state_dict(model).items()
    }
    save_file(weights, directory / "adapter_model.safetensors")
    config = model.peft_config["default"]
    config.base_model_name_or_path = None  # a folder of this machine
    config.save_pretrained(str(directory))


def load_adapter(model: nn.Module, directory: str | Path) -> PeftModel:
    """Put the adapter at ``directory`` on ``model``.

    Raises
    ------
    ModelError
        If it was made for a model of other modules or sizes.
    """
    try:
        adapted = PeftModel.from_pretrained(model, str(directory))
        saved = load_file(Path(directory) / "adapter_model.safetensors").keys() - adapted.state_dict().keys()
        # What has no place in the model, and what the model has and the file lacks, would be passed over.
        wrong = saved ^ get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
        if wrong:
            raise ValueError(f"{len(wrong)} weights differ, {min(wrong)} for one")
    except (OSError, LookupError, ValueError, RuntimeError, SafetensorError) as error:
        told = " ".join(str(error).split())[:300]
        raise ModelError(
            f"adapter {str(directory)!r} does not fit the {type(model).__name__} ({told}). Name the one that "
            "was made for this backbone, or none (adapter: null)"
        ) from error
    return adapted


def merge_adapter(model: nn.Module, directory: str | Path) -> Any:
    """`load_adapter`, folded into the weights."""
    return load_adapter(model, directory).merge_and_unload().eval()


class _Trainer(Trainer):
    """Of each pass the mean loss, in training and at looks at tune; a step has the mean of its passes."""

    def __init__(self, loss: Callable[[Any, Tensor], Tensor], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.loss = loss
        self.model_accepts_loss_kwargs = False  # else it takes what is given for a part of the step's sum

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        labels = inputs.pop("labels")
        output = model(**inputs)
        value = self.loss(output, labels)
        return (value, output) if return_outputs else value


class _WorthCallback(TrainerCallback):
    """Goes on after an epoch only where tune is hardly worse than before training.

    At a learning rate that has not fallen yet, a gain may still be hidden by noise of that size.
    """

    start_loss = float("inf")

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
        losses = [metrics["eval_loss"], *([] if state.best_metric is None else [state.best_metric])]
        if (state.epoch or 0) >= 1 and min(losses) > self.start_loss * (1 + NOISE):
            control.should_training_stop = True


class _LogCallback(TrainerCallback):
    def __init__(self, log: Log) -> None:
        self.log = log

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and state.is_world_process_zero:
            values = {k: float(v) for k, v in logs.items() if isinstance(v, (int, float))}
            self.log(state.global_step, values)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.log(state.global_step, {MAX_STEPS: float(state.max_steps)})
