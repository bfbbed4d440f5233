"""Fit, store and use the LoRA predictor.

It is stored as its adapter (``adapter_*``, a few MB, on a backbone named by reference), or with the adapter
folded in (``backbone/`` and ``head.safetensors``), as a bundle ships it.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, record
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from data.arrays import Array
from data.errors import ModelError
from data.files import short_digest
from data.question import Question
from models import lora
from models.batching import Collator, by_length
from models.lora import Log
from models.reward.steps import Example
from predictor.empirical import load_family, save_family
from predictor.families import get_family
from predictor.learned.base import NOTHING, Fold, Normals, Predictor, require_readable
from predictor.learned.card import BACKBONE, BASE, PredictorCard
from predictor.learned.features import encode
from predictor.learned.kernel_predictor import KernelPredictor
from predictor.learned.network import EvidenceLoss, PriorNetwork, make_labels
from predictor.learned.normals import to_normals, to_outputs
from predictor.learned.settings import PredictorSettings
from predictor.learned.states import (
    FrozenStates,
    Read,
    Tokens,
    load_trunk,
    read_kept,
    read_states,
    reading_key,
)
from predictor.prior import fit_population

LOOKED_AT = 256
"""Tune questions on which training is stopped early, at most."""
SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of what training has learnt, the share that is kept: the best on tune."""


class LoraPredictor(Predictor):
    """Questions in, priors out: a kernel regression on frozen states, corrected by a fine-tuned backbone."""

    def __init__(
        self,
        card: PredictorCard,
        network: Any,
        tokenizer: Any,
        base: KernelPredictor,
        states: FrozenStates | None = None,
        cache: Path | None = None,
    ) -> None:
        """``cache`` is a folder that keeps what the adapted backbone reads, between runs."""
        # As it is adapted, the backbone still reads what the base is fitted on.
        super().__init__(card, tokenizer, states or FrozenStates(network.backbone, tokenizer, card.settings))
        self.network, self.cache = network, cache
        self.base = base
        """What is corrected; it also says whether training had questions like one."""

    @classmethod
    def fit(
        cls,
        train: Fold,
        tune: Fold,
        frozen: NDArray[np.float32],
        tokens: Tokens,
        settings: PredictorSettings,
        *,
        directory: Path,
        states: FrozenStates | None = None,
        base: Any = None,
        log: Log = lambda step, values: None,
    ) -> Self:
        """Fit on train; tune stops it early, and says how much of it is kept.

        Where a question of train is concerned, the regression that is corrected tells what the others tell.

        Parameters
        ----------
        frozen, tokens : of the train and then the tune questions, as `read_states` gives them.
        directory : takes the checkpoints; a run that finds one there goes on from it.
        states : what has read the questions; where it keeps what it reads, so does this.
        base : what is corrected, where a `KernelPredictor` was fitted on the states of train before.
        """
        if settings.lora.processes > 1:
            one = settings.model_copy(update={"lora": settings.lora.model_copy(update={"processes": 1})})
            fit = partial(cls.fit, train, tune, frozen, tokens, one, directory=directory)
            return cls._fit_in_processes(fit, settings, states, log)
        population, family = fit_population(train.scores, settings.family), get_family(settings.family)
        card = PredictorCard(
            kind="lora", settings=settings, population=population, questions=len(train.questions)
        ).change(question.id for fold in (train, tune) for question in fold.questions)
        parts = np.split(frozen, [len(train.questions)])
        for part in parts:
            require_readable(np.flatnonzero(np.isfinite(part).all(axis=1)), card)
        trunk, tokenizer = load_trunk(settings)
        network = PriorNetwork(trunk, settings, family)
        base = base or KernelPredictor.fit("states", train, settings, parts[0])
        examples: list[list[Example]] = []
        for fold, part in zip((train, tune), parts, strict=True):
            rows, offset, _ = _offset(base, fold.questions, part)
            labels, asked = make_labels(family, fold.scores), [fold.questions[row] for row in rows.tolist()]
            examples.append(
                [
                    {
                        "input_ids": encode(tokenizer, question, settings.max_length),
                        "tokens": tokens[question.id],
                        "offset": told,
                        "labels": labels[row],
                    }
                    for row, question, told in zip(rows, asked, offset, strict=True)
                ]
            )
        collate, loss = Collator(tokenizer.pad_token_id), EvidenceLoss(family)
        with network.without_lower_layers():
            network.head.standardise_by(_read_upper(network, _evenly(examples[0]), collate, settings))
        adapted = lora.attach(network, settings.lora, trained=["head"], layers=network.upper_layers)
        with network.without_lower_layers():
            results = lora.fit(
                adapted,
                examples[0],
                _evenly(examples[1]),
                collate=collate,
                loss=loss,
                settings=settings.lora,
                directory=directory,
                log=log,
            )
            lora.round_adapter(adapted)
            upper = _read_upper(adapted, examples[1], collate, settings)
        results["kept_share"] = _keep_share(adapted, examples[1], upper, loss)
        cache = None if states is None else states.cache
        predictor = cls(card.change(results=results), adapted, tokenizer, base, states, cache)
        # Of train questions not: they are read when this kind is recommended.
        seen = np.full((len(parts[1]), frozen.shape[1] + network.size), np.nan, np.float32)
        rows = np.flatnonzero(np.isfinite(parts[1]).all(axis=1))
        seen[rows] = np.hstack([parts[1][rows], upper.numpy()])
        known = dict(zip([question.id for question in tune.questions], seen, strict=True))
        predictor._read(tune.questions, lambda new: np.stack([known[question.id] for question in new]))
        return predictor

    def fit_base(self, fold: Fold, frozen: NDArray[np.float32]) -> Self:
        """The same correction of a regression that is fitted on these questions, by their states."""
        weights = self.base.kernel_fit.weights
        base: Any = KernelPredictor.fit("states", fold, self.card.settings, frozen, weights=weights)
        card = self.card.change(
            base.card.read, population=base.card.population, questions=len(fold.questions)
        )
        return type(self)(card, self.network, self.tokenizer, base, self.states, self.cache)

    @classmethod
    def _fit_in_processes(
        cls, fit: Callable[..., Self], settings: PredictorSettings, states: FrozenStates | None, log: Log
    ) -> Self:
        """The same fit in several processes; accelerate shares out the batches, and the first saves."""
        job = LaunchConfig(1, 1, settings.lora.processes, rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0")
        with tempfile.TemporaryDirectory() as name:
            save_family(settings.family, Path(name))
            try:
                found = elastic_launch(job, _fit_and_save)(fit, Path(name))
            except ChildFailedError as error:
                message = error.get_first_failure()[1].message
                raise ModelError(f"a training process failed: {message}") from error
            predictor = cls.load(Path(name), PredictorCard.open(Path(name)))
        for step, values in found[0]:
            log(step, values)
        predictor.card = predictor.card.change(settings=settings)
        if states is not None:
            predictor.states, predictor.cache = states, states.cache
        return predictor

    def predict_normals(
        self, questions: Sequence[Question], seen: NDArray[np.float32] | None = None
    ) -> Normals:
        """See `Predictor`."""
        if seen is None:
            seen = self._read(questions)
        lower, upper = np.split(seen, [-self.network.size], axis=1)
        rows, offset, share = _offset(self.base, questions, lower)
        if not len(rows):
            return NOTHING
        device = self.network.backbone.device
        with torch.inference_mode():
            told = torch.tensor(offset, device=device)
            output = self.network.head(torch.tensor(upper[rows], device=device), told).double().cpu().numpy()
        return Normals(rows, *to_normals(output), share)

    def read_lower(self, questions: Sequence[Question]) -> NDArray[np.float32]:
        """What the regression reads of questions; what the head will is read, and kept, in the same pass."""
        return np.split(self._read(questions), [-self.network.size], axis=1)[0]

    def _read(self, questions: Sequence[Question], known: Read | None = None) -> NDArray[np.float32]:
        """What the backbone, as it is adapted, makes of questions; ``known`` tells it without reading."""
        settings, trunk = self.card.settings, self.network.backbone
        read = known or partial(read_states, trunk, self.tokenizer, settings=settings, adapted=True)
        if self.cache is None or not questions:
            return read(questions)
        named = self.network.named_parameters()
        adapter = [p.detach().float().cpu().numpy().tobytes() for name, p in named if "lora_" in name]
        if not adapter:  # it is folded in, and what it was cannot be told
            return read(questions)
        key = f"{reading_key(trunk, settings, adapted=True)} {short_digest(b''.join(adapter))}"
        return read_kept(self.cache, key, questions, read)

    def write(self, directory: Path, merged: bool) -> None:
        """Adapter and head; ``merged``: the whole backbone, adapter folded in, and the head."""
        self.base.save(directory / BASE)
        if not merged:
            lora.save_adapter(self.network, directory)
            return
        if isinstance(self.network, PeftModel):
            self.network = self.network.merge_and_unload()
        trunk, head = self.network.backbone, self.network.head
        halved = {name: weight.to(torch.bfloat16) for name, weight in trunk.state_dict().items()}
        trunk.save_pretrained(directory / BACKBONE, state_dict=halved)
        self.tokenizer.save_pretrained(directory / BACKBONE)
        save_file(head.state_dict(), directory / "head.safetensors")

    @classmethod
    def load(cls, path: Path, card: PredictorCard, cache: Path | None = None) -> Self:
        """A stored predictor whose card was read, in either form; see `store.load_predictor`."""
        trunk, tokenizer = load_trunk(card.settings, path / BACKBONE)
        network: Any = PriorNetwork(trunk, card.settings, get_family(card.settings.family))
        if (path / "head.safetensors").exists():
            network.head.load_state_dict(load_file(path / "head.safetensors"))
        else:
            network = lora.load_adapter(network, path)
        base = KernelPredictor.load(path / BASE, PredictorCard.open(path / BASE), reads=False)
        return cls(card, network.to(trunk.device).eval(), tokenizer, base, cache=cache)


def _offset(
    base: KernelPredictor, questions: Sequence[Question], lower: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32], Array]:
    """Rows of the questions that can be read, what ``base`` tells of them (rows, 5), and `Normals.share`."""
    rows, location, covariance, share = base.predict_normals(questions, lower)
    return rows, to_outputs(location, covariance).astype(np.float32), share


def _evenly(examples: list[Example]) -> list[Example]:
    """At most `LOOKED_AT` of them."""
    return examples[:: -(-len(examples) // LOOKED_AT)]


@torch.inference_mode()
def _read_upper(
    network: Any, examples: Sequence[Example], collate: Collator, settings: PredictorSettings
) -> torch.Tensor:
    """(examples, size) what the upper layers, as they are now, make of what the lower ones have made."""
    found, device = torch.empty(len(examples), network.size), network.backbone.device
    for rows in by_length([example["input_ids"] for example in examples], settings.batch_size):
        batch = collate([{k: examples[row][k] for k in ("input_ids", "tokens")} for row in rows])
        found[rows] = network.read(**{k: v.to(device) for k, v in batch.items()}).float().cpu()
    return found


@torch.inference_mode()
def _keep_share(network: Any, examples: Sequence[Example], upper: torch.Tensor, loss: EvidenceLoss) -> float:
    """Scale the head so that the network corrects by the share of `SHARES` that predicts examples best."""
    device = network.backbone.device
    offset = torch.tensor(np.stack([example["offset"] for example in examples]), device=device)
    labels = torch.stack([example["labels"] for example in examples]).to(device)
    change = network.head(upper.to(device), offset) - offset
    share = min(SHARES, key=lambda share: float(loss(offset + share * change, labels)))
    for parameter in network.head.linear.parameters():
        parameter *= share
    return share


@record
def _fit_and_save(fit: Callable[..., LoraPredictor], target: Path) -> list[tuple[int, dict[str, float]]]:
    """One of the processes of `LoraPredictor._fit_in_processes`; gives what was logged."""
    load_family(target)
    logged: list[tuple[int, dict[str, float]]] = []
    predictor = fit(log=lambda *step: logged.append(step))
    if os.environ["RANK"] == "0":
        predictor.save(target)
    return logged
