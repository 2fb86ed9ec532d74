"""Answers in JSON: what is mended, what is asked again, and when it is given up."""

from __future__ import annotations

import json
import pickle
import time

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_fakes import EVERYTHING, llm_of, said
from tollway import JsonFormat
from tollway.chat.repair import JsonError, read_json
from tollway.errors import ConfigurationError, StructuredOutputError
from tollway.providers import ChatCapabilities

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": ["integer", "null"]}},
    "required": ["name"],
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


class Person(pydantic.BaseModel):
    """Somebody."""

    name: str
    age: int = 0


def without(*features):
    return ChatCapabilities(EVERYTHING.features - set(features), EVERYTHING.parameters)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ("  [1, 2]\n", [1, 2]),
        ('```json\n{"a": 1}\n```', {"a": 1}),
        ('Here it is:\n```\n{"a": 1}\n```\nAnything else?', {"a": 1}),
        ('```json\n{"a": 1}', {"a": 1}),
        ('Sure! {"a": {"b": "}"}} is what you want.', {"a": {"b": "}"}}),
        ("{'a': 'it\\'s \"so\"'}", {"a": 'it\'s "so"'}),
        ('{"a": 1, "b": [1, 2,],}', {"a": 1, "b": [1, 2]}),
        ('{"a": True, "b": None, "c": False}', {"a": True, "b": None, "c": False}),
        ('{a: 1, b_c: "x"}', {"a": 1, "b_c": "x"}),
        ('{"a": 1 // why\n, /* and */ "b": "// no comment"}', {"a": 1, "b": "// no comment"}),
        ('{"a": 1e5, "b": -2.5E-3}', {"a": 1e5, "b": -2.5e-3}),
    ],
)
def test_json_is_found_and_mended(text, value):
    assert read_json(text) == value


@pytest.mark.parametrize(
    "text",
    [
        'As [1] and [the report] say, it\'s {"name": "Ada"}, isn\'t it?',
        '{"who": "Ada"}, or rather {"name": "Ada"}; not {"name": "Bob"}',
        "[{maybe}] {'name': 'Ada',}",
        '[1, 2] {"name": "Bob"',
    ],
)
async def test_what_fits_is_found_among_what_does_not(text):
    llm, provider = llm_of(said(text), said('{"name": "Ada"}'))
    assert (await llm.complete("who?", response_format=PERSON)).parsed == {"name": "Ada"}
    # One that is cut short is not completed, but asked for again.
    assert len(provider.requests) == 1 + ("Bob" in text and "rather" not in text)


async def test_lines_in_a_text_are_no_reason_to_ask_again():
    llm, provider = llm_of(said('{"name": "Ada\nLovelace\t"}'))
    answer = await llm.complete("who?", response_format=Person)
    assert answer.parsed == Person(name="Ada\nLovelace\t")
    assert len(provider.requests) == 1


async def test_an_answer_deeper_than_can_be_checked_is_asked_for_again():
    tree = {"type": "object", "additionalProperties": {"$ref": "#"}}
    deep = '{"a": ' * 400 + "{}" + "}" * 400
    llm, provider = llm_of(said(deep), said('{"a": {}}'))
    assert (await llm.complete("go", response_format=tree)).parsed == {"a": {}}
    assert "too deeply" in provider.requests[1].messages[-1].content


@pytest.mark.parametrize(
    "text", ["", "no json", "{", '{"a": 1', '{"a": [1, 2', "[" * 100_000, "```json\n```", "{'"]
)
def test_what_is_no_json_or_cut_short_is_not_guessed(text):
    with pytest.raises(JsonError):
        read_json(text)


@pytest.mark.parametrize("piece", ["{/*", "[/*] ", '{\\"', '[\\"] ', "{\\'", "[\\'] "])
def test_what_is_never_closed_is_not_looked_for_again_and_again(piece):
    def seconds(text):
        began = time.process_time()
        with pytest.raises(JsonError):
            read_json(text)
        return time.process_time() - began

    # The square would be several hundred times as much.
    assert seconds(piece * 16_000) < 30 * max(seconds("{ a b " * 16_000), 0.01)


@given(JSON, st.sampled_from(["{}", "```json\n{}\n```", "Here:\n\n```\n{}\n```\nDone."]))
def test_proper_json_is_never_changed(value, around):
    text = around.replace("{}", json.dumps(value, indent=1), 1)
    assert read_json(text) == value


@given(st.text(alphabet="{}[]\",:'\\ntrue1. \n/*`", max_size=40))
def test_no_text_breaks_the_reader(text):
    try:
        read_json(text)
    except JsonError as error:
        assert str(error)  # noqa: PT017 - either is right


async def test_a_native_schema_is_asked_of_the_provider():
    llm, provider = llm_of(said('{"name": "Ada"}'))
    answer = await llm.complete("who, in json?", response_format=PERSON)
    assert answer.parsed == {"name": "Ada"}
    (request,) = provider.requests
    assert request.response_format == JsonFormat(PERSON, strict=False)
    assert len(request.messages) == 1


async def test_without_one_the_schema_is_told():
    llm, provider = llm_of(said("{'name': 'Ada'}"), capabilities=without("json_schema"))
    answer = await llm.complete("who?", response_format=PERSON, system_prompt="be brief")
    assert answer.parsed == {"name": "Ada"}
    (request,) = provider.requests
    assert request.response_format == JsonFormat()
    system = request.messages[0]
    assert system.role == "system"
    assert system.content.startswith("be brief\n\n")
    assert json.dumps(PERSON) in system.content
    llm, provider = llm_of(said("[1]"), capabilities=without("json_schema", "json_mode"))
    assert (await llm.complete("who?", response_format={"type": "array"})).parsed == [1]
    assert provider.requests[0].response_format is None
    assert provider.requests[0].messages[0].role == "system"


async def test_the_form_of_openai_is_understood():
    named = {"name": "person", "schema": PERSON, "strict": True}
    for form, wanted in (
        ({"type": "json_object"}, JsonFormat()),
        ({"type": "json_schema", "json_schema": named}, JsonFormat(PERSON, "person", strict=True)),
        (
            {"type": "json_schema", "json_schema": {"schema": PERSON}},
            JsonFormat(PERSON, strict=False),
        ),
    ):
        llm, provider = llm_of(said('{"name": "Ada"}'))
        answer = await llm.complete("who, in json?", response_format=form)
        assert answer.parsed == {"name": "Ada"}
        assert provider.requests[0].response_format == wanted


async def test_its_form_of_any_text_asks_for_nothing():
    llm, provider = llm_of(said("hello"), response_format="json")
    answer = await llm.complete("go", response_format={"type": "text"})
    assert (answer.text, answer.parsed) == ("hello", None)
    (outcome,) = await llm.map(["go"], response_format={"type": "text"})
    assert outcome.text == "hello"
    assert [request.response_format for request in provider.requests] == [None, None]


async def test_pydantic_models():
    llm, provider = llm_of(said('{"name": "Ada", "age": "36"}'))
    answer = await llm.complete("who?", response_format=Person)
    assert answer.parsed == Person(name="Ada", age=36)
    wanted = provider.requests[0].response_format
    assert wanted.strict
    assert wanted.name == "Person"
    assert wanted.schema["required"] == ["name", "age"]
    assert wanted.schema["additionalProperties"] is False


@pytest.mark.parametrize(
    "wrong",
    ["no", "{}", '{"name": 3}', '{"name": "x", "age": "old"}', '{"name": "x", "age": true}', "[]"],
)
async def test_a_wrong_answer_is_asked_again_with_the_reason(wrong):
    llm, provider = llm_of(said(wrong), said('{"name": "Ada"}'))
    answer = await llm.complete("who?", response_format=PERSON)
    assert answer.parsed == {"name": "Ada"}
    assert (answer.usage.requests, answer.usage.input_tokens) == (2, 14)
    *_, assistant, user = provider.requests[1].messages
    assert (assistant.role, assistant.content) == ("assistant", wrong)
    assert user.role == "user"
    assert "cannot be used" in user.content


async def test_after_three_more_tries_it_is_given_up_with_the_text():
    llm, provider = llm_of(said("no json"))
    with pytest.raises(StructuredOutputError, match="after 4 tries") as caught:
        await llm.complete("who?", response_format="json")
    assert caught.value.completion.text == "no json"
    assert caught.value.completion.usage.requests == 4
    assert len(provider.requests) == 4
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (str(copied), copied.completion) == (str(caught.value), caught.value.completion)


@pytest.mark.parametrize("reason", ["length", "content_filter", "refusal"])
async def test_an_answer_that_was_cut_is_not_asked_again(reason):
    llm, provider = llm_of(said('{"name": "A', finish_reason=reason))
    with pytest.raises(StructuredOutputError, match=reason):
        await llm.complete("who?", response_format=PERSON)
    assert len(provider.requests) == 1


async def test_schemas_with_references_choices_and_lists():
    schema = {
        "$defs": {"item": {"type": "object", "properties": {"n": {"type": "number"}}}},
        "type": "object",
        "properties": {
            "items": {"type": "array", "items": {"$ref": "#/$defs/item"}},
            "kind": {"enum": ["a", "b"]},
            "one": {"const": 1},
            "any": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
        "additionalProperties": False,
    }
    llm, _ = llm_of(said('{"items": [{"n": 1}, {"n": 2.5}], "kind": "b", "one": 1, "any": null}'))
    assert (await llm.complete("x", response_format=schema)).parsed["kind"] == "b"
    for wrong in (
        '{"items": [{"n": 1}, {"n": "2"}]}',
        '{"kind": "c"}',
        '{"one": 2}',
        '{"any": 3}',
        '{"other": 1}',
    ):
        llm, _ = llm_of(said(wrong))
        with pytest.raises(StructuredOutputError):
            await llm.complete("x", response_format=schema)


async def test_what_is_no_format_is_refused():
    llm, provider = llm_of(said("{}"))
    for wrong in ("xml", 3, dict):
        with pytest.raises(ConfigurationError, match="response_format"):
            await llm.complete("x", response_format=wrong)
    assert provider.requests == []
