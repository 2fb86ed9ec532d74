"""Counting and fitting conversations. The counts of the cookbook are those of OpenAI's API."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tollway.errors import ContextWindowError
from tollway.tokens import (
    TokenEstimator,
    count_messages,
    fit_messages,
    get_encoding,
    tokenizer_for_model,
)

Message = dict[str, Any]

# https://github.com/openai/openai-cookbook examples/How_to_count_tokens_with_tiktoken.ipynb: the
# example conversations of sections 6 and 7, with the counts that the API gave for them.
JARGON: list[Message] = [
    {
        "role": "system",
        "content": "You are a helpful, pattern-following assistant that translates corporate "
        "jargon into plain English.",
    },
    {
        "role": "system",
        "name": "example_user",
        "content": "New synergies will help drive top-line growth.",
    },
    {
        "role": "system",
        "name": "example_assistant",
        "content": "Things working well together will increase revenue.",
    },
    {
        "role": "system",
        "name": "example_user",
        "content": "Let's circle back when we have more bandwidth to touch base on opportunities "
        "for increased leverage.",
    },
    {
        "role": "system",
        "name": "example_assistant",
        "content": "Let's talk later when we're less busy about how to do better.",
    },
    {
        "role": "user",
        "content": "This late pivot means we don't have time to boil the ocean for the client "
        "deliverable.",
    },
]
WEATHER: list[Message] = [
    {
        "role": "system",
        "content": "You are a helpful assistant that can answer to questions about the weather.",
    },
    {"role": "user", "content": "What's the weather like in San Francisco?"},
]
FUNCTION: Message = {
    "name": "get_current_weather",
    "description": "Get the current weather in a given location",
    "parameters": {
        "type": "object",
        "properties": {
            "location": {
                "type": "string",
                "description": "The city and state, e.g. San Francisco, CA",
            },
            "unit": {
                "type": "string",
                "description": "The unit of temperature to return",
                "enum": ["celsius", "fahrenheit"],
            },
        },
        "required": ["location"],
    },
}
TOOLS: list[Message] = [{"type": "function", "function": FUNCTION}]


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("gpt-3.5-turbo-0301", 127),
        ("gpt-3.5-turbo", 129),
        ("gpt-3.5-turbo-0613", 129),
        ("gpt-4-0314", 129),
        ("gpt-4-0613", 129),
        ("gpt-4", 129),
        ("gpt-4o", 124),
        ("gpt-4o-mini", 124),
        ("openai/gpt-4o-2024-08-06", 124),
    ],
)
def test_messages_count_as_the_api_counts_them(model: str, tokens: int) -> None:
    count = count_messages(JARGON, model)
    assert (count, count.estimated) == (tokens, False)


@pytest.mark.parametrize(
    ("model", "tokens"),
    [("gpt-3.5-turbo", 105), ("gpt-4", 105), ("gpt-4o", 101), ("gpt-4o-mini", 101)],
)
def test_tools_count_as_the_api_counts_them(model: str, tokens: int) -> None:
    count = count_messages(WEATHER, model, TOOLS)
    assert (count, count.estimated) == (tokens, False)
    assert count_messages(WEATHER, model, [FUNCTION]) == tokens
    schema = {**FUNCTION, "input_schema": FUNCTION["parameters"]}
    del schema["parameters"]
    assert count_messages(WEATHER, model, [schema]) == tokens


def test_what_no_rule_covers_is_estimated() -> None:
    assert count_messages(JARGON, "gpt-5").estimated
    nested = copy.deepcopy(TOOLS)
    nested[0]["function"]["parameters"]["properties"]["at"] = {
        "type": "object",
        "description": "When",
        "properties": {"day": {"type": "string", "description": "Day of the week"}},
    }
    plain, deep = (count_messages(WEATHER, "gpt-4o", tools) for tools in (TOOLS, nested))
    assert deep.estimated
    assert plain + 10 < deep < plain + 60
    odd = count_messages(WEATHER, "gpt-4o", [{"type": "web_search", "place": "Seoul"}])
    assert odd.estimated
    assert odd > count_messages(WEATHER, "gpt-4o")
    bare = count_messages(WEATHER, "gpt-4o", [{"name": "now"}])
    assert bare == count_messages(WEATHER, "gpt-4o") + 7 + 12 + 2  # "now:" is two tokens


def test_no_tools_and_no_messages_cost_what_they_should() -> None:
    for model in ("gpt-4o", "gpt-4"):
        assert count_messages([], model) == count_messages([], model, []) == 3
        assert count_messages([{"role": "user", "content": None}], model) == 3 + 3 + 1


@pytest.mark.parametrize("wrong", ["hello", [None], ["hello"]])
def test_what_is_no_conversation_is_refused(wrong: Any) -> None:
    for use in (count_messages, fit_messages):
        with pytest.raises(TypeError, match="a message must be a mapping"):
            use(wrong, model="gpt-4o")


def test_content_parts_count_as_their_text() -> None:
    text = "한국어 and some words. "
    whole = count_messages([{"role": "user", "content": text}], "gpt-4o")
    for kind in ("text", "input_text", "output_text"):
        part = {"type": kind, "text": text}
        assert count_messages([{"role": "user", "content": [part]}], "gpt-4o") == whole
        twice = count_messages([{"role": "user", "content": [part, part]}], "gpt-4o")
        assert twice == whole + get_encoding("o200k_base").count(text)
        assert not twice.estimated
    refusal = [{"role": "user", "content": [{"type": "refusal", "refusal": text}]}]
    assert count_messages(refusal, "gpt-4o") == whole
    blob = {"type": "input_audio", "input_audio": {"data": "A" * 10**6, "format": "wav"}}
    audio = count_messages([{"role": "user", "content": [blob]}], "gpt-4o")
    assert audio < 20
    assert audio.estimated


CALL: Message = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "get_weather", "arguments": '{"location":"Seoul"}'},
        }
    ],
}
RESULT: Message = {"role": "tool", "tool_call_id": "call_1", "content": "Sunny, 21 degrees"}


def test_tool_calls_and_their_results_are_counted() -> None:
    count = get_encoding("o200k_base").count
    call = count_messages([CALL], "gpt-4o")
    assert call.estimated
    function = CALL["tool_calls"][0]["function"]
    body = count(function["name"]) + count(function["arguments"])
    assert call == 3 + 3 + count("assistant") + 3 + body
    legacy = {"role": "assistant", "content": None, "function_call": function}
    assert count_messages([legacy], "gpt-4o") == call
    use = {"type": "tool_use", "id": "1", "name": "get_weather", "input": {"location": "Seoul"}}
    assert count_messages([{"role": "assistant", "content": [use]}], "gpt-4o") == call
    result = count_messages([RESULT], "gpt-4o")
    assert result == 3 + 3 + count("tool") + count(RESULT["content"])
    block = {"type": "tool_result", "tool_use_id": "1", "content": RESULT["content"]}
    nested = {"type": "tool_result", "content": [{"type": "text", "text": RESULT["content"]}]}
    for part in (block, nested):
        found = count_messages([{"role": "tool", "content": [part]}], "gpt-4o")
        assert found == result


def test_other_models_are_estimated_and_can_be_learned_from() -> None:
    model = "anthropic/claude-test-messages"
    count = count_messages(JARGON, model)
    estimator = tokenizer_for_model(model)
    assert isinstance(estimator, TokenEstimator)
    assert count.estimated
    assert count.basis == 124
    assert count == estimator.scale(124)
    estimator.learn(count.basis, 150)
    assert count_messages(JARGON, model) < count
    url = "https://example.com/a.png"
    # What providers add to tools and images is not in the text: nothing is learned from those.
    assert count_messages(WEATHER, model, TOOLS).basis == 0
    part = {"type": "image_url", "image_url": url}
    assert count_messages([{"role": "user", "content": [part]}], model).basis == 0


def test_a_tokenizer_can_be_given() -> None:
    other = get_encoding("r50k_base")
    count = count_messages(JARGON, "gpt-4o", tokenizer=other)
    assert count.estimated
    texts = [message[key] for message in JARGON for key in message]
    assert count == 3 + sum(other.count(text) for text in texts) + 3 * 6 + 4
    assert count_messages(JARGON, "gpt-4o", tokenizer=get_encoding("o200k_base")) == 124


TURNS: list[Message] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is the weather in Seoul?"},
    CALL,
    RESULT,
    {"role": "assistant", "content": "Sunny."},
    {"role": "user", "content": "And in Busan?"},
    {"role": "developer", "content": "Answer in Korean."},
    {"role": "assistant", "content": "부산은 흐립니다."},
    {"role": "user", "content": "Thanks!"},
]


def test_the_oldest_turns_are_dropped_whole() -> None:
    before = copy.deepcopy(TURNS)
    total = count_messages(TURNS, "gpt-4o")
    assert fit_messages(TURNS, total) == TURNS
    assert fit_messages(TURNS, total) is not TURNS
    expected = [TURNS[0], *TURNS[5:]]
    assert fit_messages(TURNS, total - 1) == expected
    assert all(a is b for a, b in zip(fit_messages(TURNS, total - 1), expected, strict=True))
    least = [TURNS[0], TURNS[6], TURNS[8]]
    needed = count_messages(least, "gpt-4o")
    assert fit_messages(TURNS, needed) == least
    with pytest.raises(ContextWindowError, match=rf"have {needed} tokens.*max_tokens={needed - 1}"):
        fit_messages(TURNS, needed - 1)
    assert before == TURNS


def test_results_that_anthropic_takes_as_the_users_stay_with_their_call() -> None:
    use = {"type": "tool_use", "id": "1", "name": "now", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "1", "content": "noon"}
    messages = [
        {"role": "user", "content": "What time is it?"},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]},
        {"role": "assistant", "content": "Noon."},
        {"role": "user", "content": "Thanks!"},
    ]
    for max_tokens in range(10, 80):
        try:
            kept = fit_messages(messages, max_tokens, model="claude-x")
        except ContextWindowError:
            continue
        assert kept in (messages, messages[4:])


def test_fitting_has_a_default_and_counts_tools() -> None:
    long = [{"role": "user", "content": "word " * 3000}, {"role": "user", "content": "word " * 900}]
    assert fit_messages(long) == long
    assert fit_messages([*long, *long]) == [*long[1:], *long][-2:]
    total = count_messages(WEATHER, "gpt-4o")
    assert fit_messages(WEATHER, total) == WEATHER
    with pytest.raises(ContextWindowError):
        fit_messages(WEATHER, total, tools=TOOLS)
    assert fit_messages([], 3) == []
    with pytest.raises(ContextWindowError):
        fit_messages([], 2)
    with pytest.raises(ContextWindowError, match="by estimate"):
        fit_messages(WEATHER, 5, model="claude-x")


message = st.one_of(
    st.builds(
        lambda role, text: {"role": role, "content": text},
        st.sampled_from(["system", "user", "assistant", "developer"]),
        st.text(max_size=30),
    ),
    st.sampled_from([CALL, RESULT]),
)


@settings(max_examples=300)
@given(
    messages=st.lists(message, max_size=12),
    max_tokens=st.integers(3, 150),
    model=st.sampled_from(["gpt-4o", "gpt-4", "gpt-3.5-turbo-0301", "claude-x"]),
)
def test_what_is_fitted_fits_and_is_what_was_given(
    messages: list[Message], max_tokens: int, model: str
) -> None:
    before = json.dumps(messages)
    try:
        kept = fit_messages(messages, max_tokens, model=model)
    except ContextWindowError:
        assert count_messages(messages, model) > max_tokens
        return
    finally:
        assert json.dumps(messages) == before
    assert count_messages(kept, model) <= max_tokens
    system = ("system", "developer")
    assert [m for m in kept if m["role"] in system] == [m for m in messages if m["role"] in system]
    rest = [m for m in messages if m["role"] not in system]
    ours = [m for m in kept if m["role"] not in system]
    assert ours == rest[len(rest) - len(ours) :]
    if len(ours) < len(rest):
        assert count_messages(messages, model) > max_tokens
        assert ours[0]["role"] == "user"
