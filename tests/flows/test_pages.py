"""What the pages name is there: files and headings that they link to, commands, options, settings, tasks."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel

from flows import cli
from flows.config import Config
from tests.conftest import ROOT

PAGES = sorted(
    page
    for folder in (".", "data", "models", "predictor", "serving", "flows")
    for page in (ROOT / folder).glob("*.md" if folder == "." else "**/*.md")
)
COMMANDS = typer.main.get_command(cli.app).commands
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def headings(page: Path) -> set[str]:
    """Anchors that GitHub and the site give to a page's headings."""
    found = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in found}


@every_page
def test_links_lead_somewhere(page):
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", name):
            continue
        file = (page.parent / name) if name else page
        if not file.exists() or (anchor and anchor not in headings(file)):
            lost.append(target)
    assert lost == []


def commands(text: str) -> list[list[str]]:
    """Lines of ``optscale`` in a page, in blocks of code and in the text, as words."""
    joined = text.replace("\\\n", " ")
    lines = re.findall(r"^(?:\w+=\S+ )?optscale (\S.*)$", joined, re.MULTILINE) + re.findall(
        r"`optscale ([^`]*)`", joined
    )
    return [shlex.split(line, comments=True) for line in lines]


@every_page
def test_commands_and_their_options_exist(page):
    unknown = []
    for name, *words in commands(page.read_text()):
        options = [word.partition("=")[0] for word in words if re.match("--?[a-z]", word)]
        known = {o for p in COMMANDS[name].params for o in p.opts} if name in COMMANDS else {"--version"}
        if name not in COMMANDS and not name.startswith("-"):
            unknown.append(name)
        unknown += [f"{name} {option}" for option in options if option not in known]
    assert unknown == []


@every_page
def test_modules_and_tasks_exist(page):
    text = page.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z][a-z-]*)", text, re.MULTILINE))
    assert named <= targets
    modules = set(re.findall(r"python -m ((?:flows|tests|data|models|predictor|serving)[\w.]*)", text))
    assert [module for module in modules if importlib.util.find_spec(module) is None] == []


def models(kind: object) -> list[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return [model for part in getattr(kind, "__args__", ()) for model in models(part)]


def has(kinds: list[type[BaseModel]], path: list[str]) -> bool:
    """Whether a setting of this path is in one of these classes."""
    if not path:
        return True
    inner = [kind.model_fields[path[0]].annotation for kind in kinds if path[0] in kind.model_fields]
    return any(has(models(annotation), path[1:]) for annotation in inner)


@every_page
def test_settings_exist(page):
    named = set(re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)[=:`]", page.read_text()))
    named = {path for path in named if not path.endswith((".py", ".md", ".yaml", ".json"))}
    given = set(re.findall(r"(?:-s|--set) '?([a-z_]+(?:\.[a-z_]+)+)=", page.read_text()))
    paths = [path.split(".") for path in named | given if path.split(".")[0] in Config.model_fields]
    assert [".".join(path) for path in paths if not has([Config], path)] == []
