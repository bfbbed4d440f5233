"""Fit, store and use the LoRA predictor.

A stored predictor is a directory of plain files: ``predictor.json`` (what it is and what it was made
for), and either the adapter (``adapter_*``, a few MB, on a backbone named by reference) or the whole
network with the adapter folded in (``network.safetensors`` and ``backbone/``), as a bundle ships it.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoTokenizer

from models import backbone, lora
from models.lora import Log
from predictor.empirical import fit_empirical, load_family, save_family
from predictor.errors import ModelError
from predictor.families import EMPIRICAL, FAMILIES, get_family
from predictor.network.card import PredictorCard, PriorModel
from predictor.network.frozen import encode
from predictor.network.kernel_predictor import KernelPredictor
from predictor.network.model import (
    EvidenceLoss,
    PriorNetwork,
    QuestionCollator,
    make_labels,
    to_normals,
)
from predictor.network.processes import fit_in_processes
from predictor.network.regression import make_priors
from predictor.network.settings import PredictorSettings
from predictor.prior import Prior, fit_population, log_evidence
from predictor.question import Question

WORDS = "words"
"""Folder of a stored predictor with what tells a question unlike those of training."""
STRENGTHS = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)


class Predictor:
    """A fitted predictor: questions in, priors out."""

    def __init__(self, network: Any, tokenizer: Any, card: PredictorCard, words: KernelPredictor) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.card = card
        self.words = words
        """Tells by a question's words whether training had such, without a forward pass."""

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
    ) -> "Predictor":
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
        network = _build(settings, population)
        examples = []
        for questions, scores in (train, tune):
            labels = make_labels(family, scores)
            ids = [encode(tokenizer, q, settings.max_length) for q in questions]
            examples.append(
                [
                    {"input_ids": tokens, "labels": label}
                    for tokens, label in zip(ids, labels, strict=True)
                    if tokens is not None
                ]
            )
        collate = QuestionCollator(tokenizer.pad_token_id)
        labels = torch.stack([e["labels"] for e in examples[0]])
        features = _frozen_features(network, collate, examples[0], settings.batch_size)
        network.warm_start(features, labels[:, :-1].numpy(), population)
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
        )
        words = KernelPredictor.fit("words", *train, settings, contract=contract, data_digest=data_digest)
        predictor = cls(adapted, tokenizer, card, words)
        strength = calibrate(predictor.predict(tune[0]), tune[1])
        predictor.card = card.model_copy(update={"strength": strength})
        return predictor

    @classmethod
    def _fit_in_processes(
        cls, train: Any, tune: Any, settings: PredictorSettings, **more: Any
    ) -> "Predictor":
        with tempfile.TemporaryDirectory() as name:
            path = Path(name)
            fit_in_processes(train, tune, settings, target=path, **more)
            card = PredictorCard.model_validate_json((path / "predictor.json").read_bytes())
            network = PeftModel.from_pretrained(_build(card.settings, card.population), name)
            tokenizer = backbone.load_tokenizer(card.settings.backbone)
            words = _load_words(path)
        card = card.model_copy(update={"settings": settings})
        return cls(network.to(backbone.default_device()).eval(), tokenizer, card, words)

    @torch.inference_mode()
    def predict(self, questions: Sequence[Question]) -> list[Prior]:
        """A prior for each question, in order; the population's for one too long to read.

        Wider, the less the words of a question are like those of the training questions.
        """
        settings, population = self.card.settings, self.card.population
        encoded = [encode(self.tokenizer, q, settings.max_length) for q in questions]
        found = [population] * len(questions)
        order = [i for i, tokens in enumerate(encoded) if tokens is not None]
        order.sort(key=lambda i: len(encoded[i] or ()))
        collate = QuestionCollator(self.tokenizer.pad_token_id)
        device = next(self.network.parameters()).device
        for start in range(0, len(order), settings.batch_size):
            chosen = order[start : start + settings.batch_size]
            batch = collate([{"input_ids": encoded[i]} for i in chosen])
            output = self.network(**{k: v.to(device) for k, v in batch.items()})
            location, covariance = to_normals(output.double().cpu().numpy())
            _, share = self.words.tell([questions[i] for i in chosen])
            priors = make_priors(location, share, covariance, population, self.card.strength)
            for index, prior in zip(chosen, priors, strict=True):
                found[index] = prior
        return found

    def tokens_read(self, question: Question) -> int:
        """Tokens of a question as the network reads it."""
        return len(encode(self.tokenizer, question, self.card.settings.max_length) or ())

    def save(self, directory: Path) -> None:
        """Write adapter, head and card: a few MB, on the backbone named in the card."""
        lora.save_adapter(self.network, directory)
        self._write_rest(directory)

    def save_merged(self, directory: Path) -> None:
        """Write the whole network, adapter folded in: what a bundle ships."""
        merged = self.network
        if isinstance(merged, PeftModel):
            merged = merged.merge_and_unload()
        (directory / "backbone").mkdir(parents=True, exist_ok=True)
        weights = {k: v.contiguous() for k, v in merged.state_dict().items()}
        halved = {k: v.to(torch.bfloat16) if k.startswith("backbone.") else v for k, v in weights.items()}
        save_file(halved, directory / "network.safetensors")
        merged.backbone.config.save_pretrained(directory / "backbone")
        self.tokenizer.save_pretrained(directory / "backbone")
        self._write_rest(directory)

    def _write_rest(self, directory: Path) -> None:
        self.words.save(directory / WORDS)
        save_family(self.card.settings.family, directory)
        (directory / "predictor.json").write_text(self.card.model_dump_json(indent=1))

    @classmethod
    def load(cls, directory: str | Path, device: str | None = None, cache: Path | None = None) -> PriorModel:
        """A stored predictor of any kind, in either form.

        ``cache`` is a folder that keeps a backbone's frozen states between runs.

        Raises
        ------
        ModelError
            If the directory holds none, or its files do not fit together.
        """
        path = Path(directory)
        try:
            card = PredictorCard.model_validate_json((path / "predictor.json").read_bytes())
        except FileNotFoundError as error:
            raise ModelError(f"no predictor at {path}: predictor.json is missing") from error
        except ValidationError as error:
            raise ModelError(f"{path / 'predictor.json'} is not a predictor's card: {error}") from error
        load_family(path)
        if card.kind != "lora":
            return KernelPredictor.load(path, card, cache)
        settings = card.settings
        device = device or backbone.default_device()
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
        return cls(network.to(device).eval(), tokenizer, card, _load_words(path))


def _load_words(directory: Path) -> KernelPredictor:
    words = Predictor.load(directory / WORDS)
    if not isinstance(words, KernelPredictor):
        raise ModelError(f"{directory / WORDS} does not hold what the words of training questions were")
    return words


def _build(settings: PredictorSettings, population: Prior) -> PriorNetwork:
    trunk = backbone.load(settings.backbone, AutoModel)
    return PriorNetwork(trunk, trunk.config.hidden_size, population, settings.head)


@torch.inference_mode()
def _frozen_features(
    network: PriorNetwork, collate: QuestionCollator, examples: Sequence[lora.Example], batch_size: int
) -> torch.Tensor:
    """(questions, size) features of the backbone as it is, in the order of the examples."""
    order = sorted(range(len(examples)), key=lambda i: len(examples[i]["input_ids"]))
    found = []
    for start in range(0, len(order), batch_size):
        batch = collate([{"input_ids": examples[i]["input_ids"]} for i in order[start : start + batch_size]])
        found.append(network.features(**batch).float())
    return torch.cat(found)[np.argsort(order)]


def calibrate(priors: Sequence[Prior], scores: NDArray[Any]) -> float:
    """The strength under which scores (questions, n) that the fit has not seen are most likely."""
    likelihood = get_family(priors[0].family).log_likelihood(scores)
    evidence = [
        log_evidence([p.model_copy(update={"strength": s}) for p in priors], likelihood).mean()
        for s in STRENGTHS
    ]
    return STRENGTHS[int(np.argmax(evidence))]
