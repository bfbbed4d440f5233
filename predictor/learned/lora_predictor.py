"""Fit, store and use the LoRA predictor.

A stored predictor is a directory of plain files: ``predictor.json`` (what it is and what it was made
for), and either the adapter (``adapter_*``, a few MB, on a backbone named by reference) or the whole
network with the adapter folded in (``network.safetensors`` and ``backbone/``), as a bundle ships it.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoTokenizer

from data.question import Question
from models import backbone, lora
from models.lora import Log
from predictor.empirical import fit_empirical, save_family
from predictor.families import EMPIRICAL, FAMILIES, get_family
from predictor.learned.card import PredictorCard, clear
from predictor.learned.features import encode, require_read
from predictor.learned.kernel_predictor import KernelPredictor
from predictor.learned.network import (
    EvidenceLoss,
    PriorNetwork,
    QuestionCollator,
    make_labels,
)
from predictor.learned.processes import fit_in_processes
from predictor.learned.regression import make_priors, to_normals
from predictor.learned.settings import PredictorSettings
from predictor.prior import Prior, fit_population, log_evidence

GUARD = "guard"
"""Folder of a stored predictor with what tells a question unlike those of training."""
STRENGTHS = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)


class LoraPredictor:
    """A fitted predictor: questions in, priors out."""

    def __init__(self, network: Any, tokenizer: Any, card: PredictorCard, guard: KernelPredictor) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.card = card
        self.guard = guard
        """Tells whether training had questions like one, by what the head reads of it."""

    @classmethod
    def fit(
        cls,
        train: tuple[Sequence[Question], NDArray[Any]],
        tune: tuple[Sequence[Question], NDArray[Any]],
        settings: PredictorSettings,
        *,
        contract: str,
        data_digest: str,
        directory: Path,
        log: Log = lambda step, values: None,
    ) -> "LoraPredictor":
        """Fit on (questions, scores (questions, n)); stop early and set the strength on ``tune``.

        ``directory`` takes the checkpoints; a run that finds one there goes on from it.
        """
        if settings.family == "auto":  # whoever knows the target has chosen before
            settings = settings.model_copy(update={"family": FAMILIES[0]})
        if settings.family == EMPIRICAL:
            settings = settings.model_copy(update={"family": fit_empirical(train[1]).name})
        if settings.lora.processes > 1:
            return cls._fit_in_processes(
                train,
                tune,
                settings,
                contract=contract,
                data_digest=data_digest,
                directory=directory,
                log=log,
            )
        family = get_family(settings.family)
        population = fit_population(train[1], settings.family)
        tokenizer = backbone.load_tokenizer(settings.backbone)
        torch.manual_seed(settings.lora.seed)  # a hidden layer of the head starts at random
        network = _build(settings, population)
        encoded = [[encode(tokenizer, q, settings.max_length) for q in fold[0]] for fold in (train, tune)]
        examples = [
            [
                {"input_ids": tokens, "labels": label}
                for tokens, label in zip(ids, make_labels(family, scores), strict=True)
                if tokens is not None
            ]
            for ids, (_, scores) in zip(encoded, (train, tune), strict=True)
        ]
        for fold in examples:
            require_read(len(fold), "lora", settings)
        collate = QuestionCollator(tokenizer.pad_token_id)
        labels = torch.stack([e["labels"] for e in examples[0]])
        frozen = _read_all(network, collate, encoded[0], settings.batch_size)
        network.warm_start(frozen[~frozen.isnan().any(1)], labels[:, :-1].numpy(), population)
        adapted = lora.attach(network, settings.lora, trained=["head"])
        results = lora.fit(
            adapted,
            *examples,
            collate=collate,
            loss=EvidenceLoss(family),
            settings=settings.lora,
            directory=directory,
            log=log,
        )
        card = PredictorCard(
            settings=settings,
            population=population,
            strength=1.0,
            contract=contract,
            data_digest=data_digest,
            results=results,
            questions=len(examples[0]),
        ).having_read(q.id for q in (*train[0], *tune[0]))
        read = _read_all(adapted, collate, encoded[0], settings.batch_size).numpy()
        guard = KernelPredictor.fit(
            "states", *train, settings, contract=contract, data_digest=data_digest, features=read
        )
        predictor = cls(adapted, tokenizer, card, guard)
        strength = calibrate(predictor.predict(tune[0]), tune[1], card.population)
        predictor.card = card.model_copy(update={"strength": strength})
        return predictor

    @classmethod
    def _fit_in_processes(
        cls, train: Any, tune: Any, settings: PredictorSettings, **more: Any
    ) -> "LoraPredictor":
        with tempfile.TemporaryDirectory() as name:
            path = Path(name)
            fit_in_processes(train, tune, settings, target=path, **more)
            card = PredictorCard.open(path)
            network = PeftModel.from_pretrained(_build(card.settings, card.population), name)
            tokenizer = backbone.load_tokenizer(card.settings.backbone)
            guard = _load_guard(path)
        card = card.model_copy(update={"settings": settings})
        return cls(network.to(backbone.default_device()).eval(), tokenizer, card, guard)

    @torch.inference_mode()
    def predict(self, questions: Sequence[Question]) -> list[Prior]:
        """A prior for each question, in order; the population's for one too long to read.

        Wider, the less a question is like those of training.
        """
        settings, population = self.card.settings, self.card.population
        encoded = [encode(self.tokenizer, q, settings.max_length) for q in questions]
        found = [population] * len(questions)
        collate = QuestionCollator(self.tokenizer.pad_token_id)
        for chosen, features in _read(self.network, collate, encoded, settings.batch_size):
            output = self.network.give(features).double().cpu().numpy()
            location, covariance = to_normals(output)
            _, share = self.guard.tell([questions[i] for i in chosen], features.float().cpu().numpy())
            priors = make_priors(location, share, covariance, population, self.card.strength)
            for index, prior in zip(chosen, priors, strict=True):
                found[index] = prior
        return found

    def tokens_read(self, question: Question) -> int:
        """Tokens of a question as the network reads it."""
        return len(encode(self.tokenizer, question, self.card.settings.max_length) or ())

    def save(self, directory: Path) -> None:
        """Write adapter, head and card: a few MB, on the backbone named in the card."""
        clear(directory)
        lora.save_adapter(self.network, directory)
        self._write_rest(directory)

    def save_merged(self, directory: Path) -> None:
        """Write the whole network, adapter folded in: what a bundle ships."""
        merged = self.network
        if isinstance(merged, PeftModel):
            merged = merged.merge_and_unload()
        clear(directory)
        (directory / "backbone").mkdir(exist_ok=True)
        weights = {k: v.contiguous() for k, v in merged.state_dict().items()}
        halved = {k: v.to(torch.bfloat16) if k.startswith("backbone.") else v for k, v in weights.items()}
        save_file(halved, directory / "network.safetensors")
        merged.backbone.config.save_pretrained(directory / "backbone")
        self.tokenizer.save_pretrained(directory / "backbone")
        self._write_rest(directory)

    def _write_rest(self, directory: Path) -> None:
        self.guard.save(directory / GUARD)
        save_family(self.card.settings.family, directory)
        self.card.write(directory)

    @classmethod
    def load(cls, path: Path, card: PredictorCard, device: str | None = None) -> "LoraPredictor":
        """A stored predictor whose card was read, in either form; see `store.load_predictor`."""
        device = device or backbone.default_device()
        settings, guard = card.settings, _load_guard(path)
        if (path / "network.safetensors").exists():
            config = AutoConfig.from_pretrained(path / "backbone")
            trunk = AutoModel.from_config(config)
            network = PriorNetwork(trunk, config.hidden_size, card.population, settings.head)
            weights = load_file(path / "network.safetensors")
            network.load_state_dict({k: v.float() for k, v in weights.items()})
            tokenizer = AutoTokenizer.from_pretrained(path / "backbone")
        else:
            network = lora.merge_adapter(_build(settings, card.population), path)
            tokenizer = backbone.load_tokenizer(settings.backbone)
        network.backbone.to(backbone.resolve_dtype(settings.dtype, device))
        return cls(network.to(device).eval(), tokenizer, card, guard)


def _load_guard(directory: Path) -> KernelPredictor:
    path = directory / GUARD
    card = PredictorCard.open(path)
    if card.kind != "states":
        raise ValueError(f"the guard is of kind {card.kind}")
    return KernelPredictor.load(path, card, reads=False)


def _build(settings: PredictorSettings, population: Prior) -> PriorNetwork:
    trunk = backbone.load(settings.backbone, AutoModel)
    return PriorNetwork(trunk, trunk.config.hidden_size, population, settings.head)


@torch.inference_mode()
def _read(
    network: Any, collate: QuestionCollator, encoded: Sequence[list[int] | None], batch_size: int
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Rows and what the head reads of them (rows, size), shortest questions first, batch by batch."""
    order = [row for row, ids in enumerate(encoded) if ids is not None]
    order.sort(key=lambda row: len(encoded[row] or ()))
    device = next(network.parameters()).device
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = collate([{"input_ids": encoded[row]} for row in chosen])
        yield chosen, network.features(**{k: v.to(device) for k, v in batch.items()})


def _read_all(network: Any, collate: QuestionCollator, encoded: Any, batch_size: int) -> torch.Tensor:
    """(questions, size) of all, NaN for a question that is None."""
    parts = list(_read(network, collate, encoded, batch_size))
    found = torch.full((len(encoded), parts[0][1].shape[1]), torch.nan)
    for rows, features in parts:
        found[rows] = features.float().cpu()
    return found


def calibrate(priors: Sequence[Prior], scores: NDArray[Any], population: Prior) -> float:
    """The strength under which scores (questions, n) that no weight was fitted on are most likely.

    Only of priors that were told of a question: the population's is fitted as it is, and stays at 1.
    """
    rows = [row for row, prior in enumerate(priors) if prior is not population]
    if not rows:
        return 1.0
    likelihood = get_family(population.family).log_likelihood(scores[rows])
    evidence = [
        log_evidence([priors[row].model_copy(update={"strength": s}) for row in rows], likelihood).mean()
        for s in STRENGTHS
    ]
    return STRENGTHS[int(np.argmax(evidence))]
