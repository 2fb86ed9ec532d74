"""Schemas of what answers are to be: as strict modes take them, and checked here."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic
import pytest

from chat_fakes import llm_of, said
from tollway.chat.schemas import checker, is_strict, strict_schema


class Person(pydantic.BaseModel):
    name: str


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]
    owner: Person = pydantic.Field(description="whose it is")


class Tree(pydantic.BaseModel):
    value: int
    children: list[Tree]


class Loop(pydantic.BaseModel):
    again: Loop = pydantic.Field(description="never ends")


class Settings(pydantic.BaseModel):
    """Members are named as words of JSON schema are."""

    default: str
    properties: int
    items: list[str] = pydantic.Field(default_factory=list)
    discriminator: bool


class Pet(pydantic.BaseModel):
    pet: Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]


def keys_of(schema):
    if isinstance(schema, dict):
        for name, value in schema.items():
            yield name
            yield from keys_of(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from keys_of(value)


def references(schema):
    """Every part that holds a reference."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield schema
        for value in schema.values():
            yield from references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from references(value)


def test_members_may_be_named_as_words_of_schemas_are():
    schema = strict_schema(Settings.model_json_schema())
    names = ["default", "properties", "items", "discriminator"]
    assert list(schema["properties"]) == schema["required"] == names
    assert schema["properties"]["properties"]["type"] == "integer"
    assert is_strict(schema)


async def test_such_a_model_is_answered():
    llm, provider = llm_of(
        said('{"default": "a", "properties": 1, "items": [], "discriminator": true}')
    )
    answer = await llm.complete("x", response_format=Settings)
    assert (answer.parsed.default, answer.parsed.properties) == ("a", 1)
    assert provider.requests[0].response_format.schema["properties"]["default"]


@pytest.mark.parametrize("model", [Dog, Pet, Tree, Loop])
def test_nothing_stands_beside_a_reference(model):
    schema = strict_schema(model.model_json_schema())
    assert all(len(part) == 1 for part in references(schema))
    assert schema["type"] == "object"
    assert is_strict(schema)


def test_what_is_said_of_a_member_is_kept():
    schema = strict_schema(Dog.model_json_schema())
    owner = schema["properties"]["owner"]
    assert owner["description"] == "whose it is"
    assert owner["required"] == ["name"]


@pytest.mark.parametrize("kind", ["object", ["object", "null"], ["null", "object"]])
def test_every_object_has_to_be_strict_whatever_else_it_may_be(kind):
    inner = {"type": kind, "properties": {"x": {"type": "string"}}}
    whole = {"type": "object", "required": ["a"], "additionalProperties": False}
    assert not is_strict({**whole, "properties": {"a": inner}})
    inner |= {"required": ["x"], "additionalProperties": False}
    assert is_strict({**whole, "properties": {"a": inner}})


def test_unions_are_in_the_words_of_strict_modes():
    keys = set(keys_of(strict_schema(Pet.model_json_schema())))
    assert "anyOf" in keys
    assert not keys & {"oneOf", "discriminator"}


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        (
            {"type": "object", "properties": {"c": {"$ref": "#"}}, "required": []},
            {"c": {"c": {}}},
            {"c": {"c": 1}},
        ),
        ({"type": "object", "properties": {"c": True, "d": False}}, {"c": 1}, {"d": 1}),
        ({"type": "array", "items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"type": "string"}}},
         ["a"], [1]),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, {"a": 1}, {"a": "b"}),
        ({"allOf": [{"type": "string"}, {"enum": ["a"]}]}, "a", "b"),
        (
            {"type": "object", "properties": {"a": {"type": "integer"}},
             "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
            {"a": 1},
            {"a": "b"},
        ),
        ({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}],
          "items": False}, [1, "a"], [1, "a", 2]),
        ({"type": "array", "prefixItems": [{"type": "integer"}], "items": {"type": "string"}},
         [1, "a"], ["a", "b"]),
        # Patterns are not read: what they may be about is let pass.
        ({"type": "object", "patternProperties": {"^x": {"type": "integer"}},
          "additionalProperties": False}, {"xa": 1}, []),
        ({"type": "object", "patternProperties": {"^x": {"type": "integer"}},
          "additionalProperties": {"type": "string"}}, {"xa": 1}, []),
        # What stands elsewhere is not looked for.
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}}, {"a": 1}, []),
        ({"type": "object", "properties": {"a": {"$ref": "https://x.example/y"}}}, {"a": 1}, []),
    ],
)  # fmt: skip
def test_what_a_schema_says_is_checked(schema, right, wrong):
    check = checker(schema)
    assert check(right) == right
    with pytest.raises(ValueError, match="the answer"):
        check(wrong)
