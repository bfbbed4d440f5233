"""What is wrong with a document that pydantic refuses, in words that a user can act on."""

from collections.abc import Iterable, Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from data.errors import OptScaleError
from data.record import holds_secret, is_secret


def explain(errors: Iterable[Any], kind: Any, root: str = "") -> str:
    """What is wrong in a document: each field by its path as it was written, and what is allowed there.

    Parameters
    ----------
    errors : what ``ValidationError.errors()`` gives, or FastAPI's.
    kind : what the document should have been, a model or a union of models.
    root : path of the document itself.
    """
    told: dict[str, list[str]] = {}
    for found in errors:
        head, message = _describe(found, kind, root)
        told.setdefault(head, []).append(message)
    # One value may fail every branch of a union: what each says are alternatives.
    return "; ".join(head + " or ".join(dict.fromkeys(messages)) for head, messages in told.items())


def parse(document: Any, kind: Any, fault: type[OptScaleError], what: str, root: str = "") -> Any:
    """What a document is a model or a union of models of, ``kind``: JSON as text, or what YAML is read as.

    Raises
    ------
    OptScaleError
        Of the kind ``fault``: ``what`` is wrong, and where, from the path ``root`` on.
    """
    known: TypeAdapter[Any] = TypeAdapter(kind)
    try:
        is_text = isinstance(document, str | bytes)
        return known.validate_json(document) if is_text else known.validate_python(document)
    except ValidationError as error:
        raise fault(f"{what}: {explain(error.errors(), kind, root)}") from error


def place_of(loc: Iterable[str | int], kind: Any) -> str:
    """The path of one of pydantic's errors without the names of unions' branches."""
    return ".".join(_locate(tuple(loc), kind, False)[0])


def _describe(found: Any, kind: Any, root: str) -> tuple[str, str]:
    """Beginning of a sentence (a path, and what is there) and its end."""
    path, models = _locate(found["loc"], kind, found["type"] == "extra_forbidden")
    given, details = found["input"], found.get("ctx", {})
    message = found["msg"].removeprefix("Value error, ")
    if found["type"].startswith("union_tag"):
        path.append(details["discriminator"].strip("'"))
        given = details.get("tag")
        message = f"allowed: {', '.join(tag for model in models for tag in _tags(model))}"
    place = ".".join(part for part in (root, *path) if part)
    if found["type"] == "extra_forbidden":
        known = ", ".join(dict.fromkeys(name for model in models for name in model.model_fields))
        return f"{place} ", f"is unknown; allowed: {known}" if known else "is not allowed"
    if found["type"] in {"missing", "union_tag_not_found"}:
        return f"{place} is missing", "" if found["type"] == "missing" else f"; {message}"
    if given is None and place:
        return f"{place} is null: ", message
    # A whole document is no help, and an address may hold a password.
    shown = isinstance(given, bool | int | float) or (isinstance(given, str) and "://" not in given)
    if shown and not (is_secret(place) or holds_secret(str(given))):
        text = repr(given)
        return f"{place} is {text if len(text) <= 40 else text[:37] + '...'}: ".lstrip(), message
    return f"{place}: " if place else "", message


def _locate(loc: tuple[str | int, ...], kind: Any, extra: bool) -> tuple[list[str], list[type[BaseModel]]]:
    """The path without the names of unions' branches, and the models that its end may belong to."""
    path: list[str] = []
    here, owners = [kind], _models([kind])
    for number, part in enumerate(loc):
        owners = _models(here)
        if isinstance(part, int) or (extra and number == len(loc) - 1):
            path.append(str(part))
        elif len(owners) > 1 and (tagged := [model for model in owners if part in _tags(model)]):
            here = list(tagged)
        elif fields := [m.model_fields[part].annotation for m in owners if part in m.model_fields]:
            path.append(part)
            here = list(fields)
        elif not any(map(_branches, here)):
            path.append(part)
            here = []
    return path, owners if extra else _models(here)


def _models(kinds: Iterable[Any]) -> list[type[BaseModel]]:
    """Models among the members of types, however deep in unions and lists."""
    return [model for kind in kinds for model in _members(kind)]


def _members(kind: Any) -> Iterator[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    else:
        yield from _models(get_args(kind))


def _branches(kind: Any) -> bool:
    """Whether a type is a union of more than one kind and None."""
    if get_origin(kind) is Annotated:
        return _branches(get_args(kind)[0])
    return get_origin(kind) in (Union, UnionType) and sum(m is not type(None) for m in get_args(kind)) > 1


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    """Values of ``kind`` by which a model is told from others of its union."""
    return get_args(model.model_fields["kind"].annotation) if "kind" in model.model_fields else ()
