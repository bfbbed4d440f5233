"""A generator in a process of its own: vLLM's engine, in an environment that has vLLM."""

import json
import logging
import os
import signal
import subprocess
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from data.errors import ModelError
from data.home import state_home
from data.question import Question
from models import backbone, lora
from models.generator import vllm_process
from models.generator.base import STATUS, Candidate
from models.generator.local import encode_prompt, identify
from models.settings import DTYPE, VllmGeneratorSettings

logger = logging.getLogger(__name__)
TOO_LONG = (None, 0, "the question is too long for the engine")


class VllmGenerator:
    """Samples all questions of a call at once; see `Generator`. Its process ends with it."""

    def __init__(self, settings: VllmGeneratorSettings) -> None:
        self.settings, self.sampling = settings, settings.sampling
        self.tokenizer = backbone.load_tokenizer(settings.backbone, settings.adapter)
        self.identity = identify(settings, self.tokenizer)
        self._lock = threading.Lock()
        self._process = self._start()

    def sample(self, questions: Sequence[Question], n: int, seed: int) -> list[list[Candidate]]:
        """See `Generator`. Candidate k of question q has the seed ``seed`` + q n + k.

        A question too long for the engine has candidates that failed.
        """
        prompts = [encode_prompt(self.tokenizer, question) for question in questions]
        # vLLM refuses to draw one and the same several times.
        alike = n if self.sampling.temperature == 0 else 1
        sampling = self.sampling.model_dump(exclude={"stop"})
        sampling |= {"n": n // alike, "stop": list(self.sampling.stop)}
        with self._lock:
            if self._process.poll() is not None:  # it has failed at what was asked before
                self._process = self._start()
            short = [place for place, ids in enumerate(prompts) if len(ids) < self._positions]
            seeds = [seed + place * n if self.settings.seeds else None for place in short]
            asked = {"prompts": [prompts[place] for place in short], "seeds": seeds, "sampling": sampling}
            found = self._ask(self._process, asked) if short else []
        answers = {place: one * alike for place, one in zip(short, found, strict=True)}
        for place in range(len(questions)):
            if place not in answers:
                logger.warning("question %s is too long for the engine", questions[place].id)
        return [
            [
                Candidate(
                    *(text, tokens, len(ids), STATUS.get(end, "failed"), seed + place * n + number),
                    cause=None if end in STATUS else end,
                )
                for number, (text, tokens, end) in enumerate(answers.get(place, [TOO_LONG] * n))
            ]
            for place, ids in enumerate(prompts)
        ]

    def _start(self) -> subprocess.Popen[str]:
        """The process, once its engine is loaded."""
        settings, log = self.settings, state_home() / "vllm-offline.log"
        dtype = os.environ.get(DTYPE, "auto") if settings.dtype == "auto" else settings.dtype
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with log.open("w") as file:
                process = subprocess.Popen(
                    [settings.python, vllm_process.__file__],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=file,
                    text=True,
                    start_new_session=True,
                    env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
                )
        except OSError as error:
            raise ModelError(
                f"generator.python {settings.python!r} cannot be started: {error}. Name the Python of an "
                "environment that has vLLM"
            ) from error
        weakref.finalize(self, _end, process)
        engine = {"model": _weights(settings), "dtype": dtype, "generation_config": "vllm"}
        self._positions = int(self._ask(process, engine | settings.options))
        return process

    def _ask(self, process: subprocess.Popen[str], question: Any) -> Any:
        assert process.stdin is not None
        assert process.stdout is not None
        log = state_home() / "vllm-offline.log"
        try:
            print(json.dumps(question), file=process.stdin, flush=True)
            found = json.loads(process.stdout.readline())
        except (OSError, ValueError):
            found = " ".join(log.read_text(errors="replace").strip().splitlines()[-1:])
        if isinstance(found, str):
            status = process.wait()
            raise ModelError(
                f"vLLM in {self.settings.python} ended with status {status}: {found} (log: {log})"
            )
        return found


def _weights(settings: VllmGeneratorSettings) -> str:
    """What vLLM loads: the backbone, or a copy with the adapter folded in, made once in the state folder."""
    if settings.adapter is None:
        return backbone.locate(settings.backbone)
    adapter = backbone.find_adapter(settings.adapter)

    def merge(folder: Path) -> None:
        whole = lora.merge_adapter(backbone.load(settings.backbone, AutoModelForCausalLM), adapter)
        whole.to(torch.bfloat16).save_pretrained(folder)
        backbone.load_tokenizer(settings.backbone, adapter).save_pretrained(folder)

    revision = backbone.revision(settings.backbone, adapter)
    return str(backbone.make_once(state_home() / "merged" / revision, merge))


def _end(process: subprocess.Popen[str]) -> None:
    """Close its input, by which it knows to end; kill it, and what it has started, where it does not."""
    try:
        process.communicate(timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
