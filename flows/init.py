"""A config for a user's own servers: asked for, tried, and written with comments."""

import sys
from pathlib import Path
from typing import Any

import openai
import typer

from data.contract import Sampling
from data.errors import ConfigError, ModelError
from data.question import Question
from flows.config import load_config
from flows.pages import render
from models.faults import explain_fault
from models.generator.http import AsyncHttpGenerator
from models.http_client import call, make_client
from models.reward.http import AsyncHttpRewardModel
from models.settings import HttpGeneratorSettings, HttpRewardSettings, HttpSettings

QUESTION = Question.ask("What is 2 + 3?")
SOLUTION = "2 + 3 = 5.\n\nThe answer is \\boxed{5}."
PATIENCE = {"timeout": 60.0, "retries": 0}
"""Of a try: one that hangs should be told soon."""
CAP = 32


def init(
    output: Path,
    generator: str | None = None,
    model: str | None = None,
    reward: str | None = None,
    reward_model: str | None = None,
    tokenizer: str | None = None,
) -> dict[str, Any]:
    """Try the servers and write a config that names them; asks on a terminal for what is not given.

    Parameters
    ----------
    generator, reward : URLs; without a reward model decisions go by answers.
    model, reward_model : their names; needed where a server lists none or several.
    tokenizer : of the reward model, a hub id or a directory; its name if None.

    Raises
    ------
    ConfigError
        If something is missing and nobody can be asked (names the flag), or ``output`` cannot be written.
    ModelError
        If a server does not do what it is asked; says why, in its own words. Nothing is written then.
    """
    if output.exists():
        raise ConfigError(f"--output: {output} is there already; name another file, or remove it")
    url = _url(_ask(generator, "--generator", "URL of the server that answers"))
    name = _choose(_served(url, "generator"), model, "--model", f"Name of the model at {url}")
    asked = HttpGeneratorSettings(base_url=url, model=name, **PATIENCE)
    told: dict[str, Any] = {"generator": {"url": url, "model": name, **_complete(asked)}, "reward": None}
    judge, where = None, _ask(reward, "--reward", "URL of a process reward model, empty for none", "")
    if where:
        where = _url(where)
        found = _served(where, "reward model")
        named = _choose(found, reward_model, "--reward-model", f"Name of the model at {where}")
        convention = "math-shepherd" if "shepherd" in named.lower() else "qwen"
        values = {"model": named, "tokenizer": tokenizer or named, "convention": convention, **PATIENCE}
        judge = HttpRewardSettings.model_validate({"base_url": where, **values})
        told["reward"] = {"url": where, "model": named, **_judge(judge)}
    _write(output, render("init.yaml.j2", generator=asked, reward=judge, cap=CAP))
    return {
        "file": str(output),
        **told,
        "next": f"optscale serve -c {output}; optscale pilot -c {output} --questions FILE --budget TOKENS",
    }


def _ask(given: str | None, flag: str, what: str, default: str | None = None) -> str:
    if given is not None:
        return given
    if sys.stdin.isatty():
        return str(typer.prompt(what, default=default, err=True))
    if default is None:
        raise ConfigError(f"{flag} is missing ({what}); give it, or run this on a terminal to be asked")
    return default


def _url(given: str) -> str:
    url = given.rstrip("/")
    return url if url.endswith("/v1") else f"{url}/v1"


def _served(url: str, what: str) -> list[str]:
    """Names that a server lists; none where it has no list."""
    settings = HttpSettings(base_url=url, model="", **PATIENCE)
    client = make_client(settings)

    async def ask() -> list[str]:
        async with client:
            return [model.id for model in (await client.models.list()).data]

    try:
        return call(ask)
    except (openai.NotFoundError, AttributeError, TypeError, ValueError):
        return []
    except openai.OpenAIError as error:
        raise ModelError(f"{what} at {url} lists no models: {explain_fault(error, settings)}") from error


def _choose(served: list[str], given: str | None, flag: str, what: str) -> str:
    if given is None and len(served) == 1:
        return served[0]
    name = _ask(given, flag, f"{what}, of {', '.join(served)}" if served else what)
    if served and name not in served:
        raise ModelError(f"{flag}: there is no {name!r}; the server has {', '.join(served)}")
    return name


def _complete(settings: HttpGeneratorSettings) -> dict[str, Any]:
    """One completion."""
    generator = AsyncHttpGenerator(settings)
    (found,) = call(generator.sample, QUESTION, 1, 0, Sampling(max_tokens=64))
    if found.status == "failed":
        raise ModelError(f"generator at {settings.base_url} gave no completion: {found.cause}")
    return {"completion": found.text, "tokens": found.tokens}


def _judge(settings: HttpRewardSettings) -> dict[str, Any]:
    """One score."""
    (found,) = call(AsyncHttpRewardModel(settings).score, [(QUESTION, SOLUTION)])
    if found.steps is None:
        raise ModelError(f"reward model at {settings.base_url} gave no score: {found.cause}")
    return {"step_scores": found.steps}


def _write(output: Path, text: str) -> None:
    """Write the config where `load_config` takes it."""
    aside = output.with_name(f".{output.name}.new")
    try:
        aside.write_text(text, encoding="utf-8")
        load_config(aside)
        aside.rename(output)
    except OSError as error:
        raise ConfigError(f"--output: {output} cannot be written: {error}") from error
    finally:
        aside.unlink(missing_ok=True)
