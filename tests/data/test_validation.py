from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter, ValidationError

from data.record import Record
from data.validation import explain, place_of


class Leaf(Record):
    size: int = Field(1, ge=1)


class Red(Record):
    kind: Literal["red"] = "red"
    size: int = Field(1, ge=1)
    leaves: tuple[Leaf, ...] = ()


class Blue(Record):
    kind: Literal["blue"] = "blue"
    red: Leaf = Leaf()
    """A field that has the name of another kind."""


class Tree(Record):
    colour: Annotated[Red | Blue, Field(discriminator="kind")] = Red()
    text: str | list[Leaf] | None = None
    shares: dict[str, float] | None = None
    branch: Leaf | None = None


def told(document, kind=Tree, root=""):
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(document)
    return explain(caught.value.errors(), kind, root)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"colour": {"kind": "green"}}, "colour.kind is 'green': allowed: red, blue"),
        ({"colour": {}}, "colour.kind is missing; allowed: red, blue"),
        (
            {"colour": {"kind": "red", "size": 0}},
            "colour.size is 0: Input should be greater than or equal to 1",
        ),
        ({"colour": {"kind": "red", "red": 0}}, "colour.red is unknown; allowed: kind, size, leaves"),
        (
            {"colour": {"kind": "red", "leaves": [{"size": 2}, {"size": 0}]}},
            "colour.leaves.1.size is 0: Input",
        ),
        ({"colour": {"kind": "blue", "red": {"size": 0}}}, "colour.red.size is 0: Input should be"),
        ({"text": 5}, "text is 5: Input should be a valid string or Input should be a valid list"),
        ({"text": [{"size": 0}]}, "text: Input should be a valid string; text.0.size is 0: Input should be"),
        ({"shares": {"size": "x"}}, "shares.size is 'x': Input should be a valid number"),
        ({"branch": {"size": "x" * 99}}, "branch.size is 'xxx"),
        (
            {"branch": {"sise": 1}, "leaf": 1},
            "branch.sise is unknown; allowed: size; leaf is unknown; allowed: c",
        ),
        (7, "Input should be a valid dictionary"),
    ],
)
def test_a_field_is_named_by_its_path_and_what_is_allowed(document, message):
    assert told(document).startswith(message) or message in told(document)


def test_what_may_hold_a_secret_is_not_repeated():
    assert "secret" not in told({"branch": {"size": "postgres://user:secret@host"}})
    assert "secret" not in told({"password": "secret"})


def test_the_root_of_a_document_is_named():
    assert told({"kind": "red", "size": 0}, Red | Blue, "policy").startswith("policy.size is 0: ")


@given(st.lists(st.integers(0, 5), min_size=1))
def test_paths_are_those_of_the_document(sizes):
    bad = [place for place, size in enumerate(sizes) if size < 1]
    document = {"colour": {"kind": "red", "leaves": [{"size": size} for size in sizes]}}
    if not bad:
        assert Tree.model_validate(document)
        return
    with pytest.raises(ValidationError) as caught:
        Tree.model_validate(document)
    found = [place_of(error["loc"], Tree) for error in caught.value.errors()]
    assert found == [f"colour.leaves.{place}.size" for place in bad]
