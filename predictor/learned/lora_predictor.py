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

from data.errors import ModelError
from data.question import Question
from models import lora
from models.batching import Collator
from models.lora import Log
from predictor.empirical import load_family, save_family
from predictor.families import get_family
from predictor.learned.base import NOTHING, Fold, Normals, Predictor, require_readable
from predictor.learned.card import BACKBONE, DETECTOR, PredictorCard
from predictor.learned.features import encode
from predictor.learned.kernel_predictor import KernelPredictor
from predictor.learned.network import EvidenceLoss, PriorNetwork, make_labels
from predictor.learned.normals import to_normals
from predictor.learned.settings import PredictorSettings
from predictor.learned.states import load_trunk, read_states
from predictor.prior import fit_population

LOOKED_AT = 64
"""Tune questions on which training is stopped early: all of them would take longer than a step."""


class LoraPredictor(Predictor):
    """Questions in, priors out, by a fine-tuned backbone."""

    def __init__(self, card: PredictorCard, network: Any, tokenizer: Any, detector: Predictor) -> None:
        super().__init__(card, tokenizer)
        self.network = network
        self.detector = detector
        """Says whether training had questions like one, by states of layers that are not adapted."""

    @classmethod
    def fit(
        cls,
        train: Fold,
        tune: Fold,
        frozen: NDArray[np.float32],
        settings: PredictorSettings,
        *,
        directory: Path,
        log: Log = lambda step, values: None,
    ) -> Self:
        """Fit on train, and stop early on some of tune.

        Parameters
        ----------
        frozen : states of the train questions, as the backbone reads them before training: (questions, size),
            NaN for one too long; training starts from a regression on them.
        directory : takes the checkpoints; a run that finds one there goes on from it.
        """
        if settings.lora.processes > 1:
            one = settings.model_copy(update={"lora": settings.lora.model_copy(update={"processes": 1})})
            fit = partial(cls.fit, train, tune, frozen, one, directory=directory)
            return cls._fit_in_processes(fit, settings, log)
        population, family = fit_population(train.scores, settings.family), get_family(settings.family)
        card = PredictorCard(
            kind="lora", settings=settings, population=population, questions=len(train.questions)
        ).change(question.id for fold in (train, tune) for question in fold.questions)
        trunk, tokenizer = load_trunk(settings, dtype="float32")
        network = PriorNetwork(trunk, settings.depths, population)
        examples = []
        for fold in (train, tune):
            encoded = [encode(tokenizer, question, settings.max_length) for question in fold.questions]
            pairs = zip(encoded, make_labels(family, fold.scores), strict=True)
            examples.append([{"input_ids": ids, "labels": label} for ids, label in pairs if ids is not None])
            require_readable(examples[-1], card)
        labels = torch.stack([example["labels"] for example in examples[0]])
        readable = np.isfinite(frozen).all(axis=1)
        network.head.warm_start(torch.tensor(frozen[readable]), labels[:, :-1].numpy(), population)
        adapted = lora.attach(network, settings.lora, trained=["head"], layers=network.upper_layers)
        results = lora.fit(
            adapted,
            examples[0],
            examples[1][:: -(-len(examples[1]) // LOOKED_AT)],
            collate=Collator(tokenizer.pad_token_id),
            loss=EvidenceLoss(family),
            settings=settings.lora,
            directory=directory,
            log=log,
        )
        lower = frozen[:, network.lower_states]
        # Without states that training leaves as they are, text is all that questions can be compared by.
        detector = KernelPredictor.fit("states" if lower.shape[1] else "text", train, settings, lower)
        return cls(card.change(results=results), adapted, tokenizer, detector)

    @classmethod
    def _fit_in_processes(cls, fit: Callable[..., Self], settings: PredictorSettings, log: Log) -> Self:
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
        return predictor

    def predict_normals(
        self, questions: Sequence[Question], seen: NDArray[np.float32] | None = None
    ) -> Normals:
        """See `Predictor`."""
        if seen is None:
            seen = read_states(self.network.backbone, self.tokenizer, questions, self.card.settings)
        rows = np.flatnonzero(np.isfinite(seen).all(axis=1))
        if not len(rows):
            return NOTHING
        with torch.inference_mode():
            states = torch.tensor(seen[rows], device=self.network.backbone.device)
            output = self.network.head(states).double().cpu().numpy()
        asked = [questions[row] for row in rows.tolist()]
        share = self.detector.predict_normals(asked, seen[rows][:, self.network.lower_states]).share
        return Normals(rows, *to_normals(output), share)

    def write(self, directory: Path, merged: bool) -> None:
        """Adapter and head; ``merged``: the whole backbone, adapter folded in, and the head."""
        self.detector.save(directory / DETECTOR)
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
    def load(cls, path: Path, card: PredictorCard) -> Self:
        """A stored predictor whose card was read, in either form; see `store.load_predictor`."""
        trunk, tokenizer = load_trunk(card.settings, path / BACKBONE)
        network: Any = PriorNetwork(trunk, card.settings.depths, card.population)
        if (path / "head.safetensors").exists():
            network.head.load_state_dict(load_file(path / "head.safetensors"))
        else:
            network = lora.load_adapter(network, path)
        detector = KernelPredictor.load(path / DETECTOR, PredictorCard.open(path / DETECTOR), reads=False)
        return cls(card, network.to(trunk.device).eval(), tokenizer, detector)


@record
def _fit_and_save(fit: Callable[..., LoraPredictor], target: Path) -> list[tuple[int, dict[str, float]]]:
    """One of the processes of `LoraPredictor._fit_in_processes`; gives what was logged."""
    load_family(target)
    logged: list[tuple[int, dict[str, float]]] = []
    predictor = fit(log=lambda *step: logged.append(step))
    if os.environ["RANK"] == "0":
        predictor.save(target)
    return logged
