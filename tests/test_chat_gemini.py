"""Gemini: what its models do not take, what its SDK refuses, and the names of calls."""

from __future__ import annotations

import itertools
import json

import httpx
import pytest
from google import genai

from tollway import LLM, Limits, RateLimiter, RetryPolicy
from tollway.errors import (
    BadRequestError,
    BadResponseError,
    ConfigurationError,
    RetriesExhaustedError,
)
from tollway.providers import ChatRequest
from tollway.providers.gemini_client import GeminiClient
from tollway.providers.gemini_wire import contents_and_config
from tollway.providers.ollama_wire import chat_body
from tollway.types import Message, Tool, ToolCall

SYSTEM, HELLO = Message("system", "Be brief."), Message("user", "hello")
RETRY = RetryPolicy(max_retries=2, base_delay=0.0, max_delay=0.0)
numbers = itertools.count()
ANSWER = {
    "candidates": [
        {"content": {"role": "model", "parts": [{"text": "yes"}]}, "finishReason": "STOP"}
    ]
}


def refusal(message):
    return 400, {"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}


class Server:
    """Answers with what a test says, and keeps what it was asked."""

    def __init__(self, *answers):
        self._answers = list(answers)
        self.bodies = []

    def __call__(self, request):
        self.bodies.append(json.loads(request.content))
        status, body = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx.Response(status, content=content)

    def llm(self, model):
        client = httpx.AsyncClient(transport=httpx.MockTransport(self))
        options = genai.types.HttpOptions(
            base_url=f"http://gemini-{next(numbers)}", httpx_async_client=client
        )
        return LLM(
            f"gemini/{model}",
            client=genai.Client(api_key="k-0123456789", http_options=options),
            limits=RateLimiter(Limits()),
            retry=RETRY,
        )


# The quota of an injected client has no address: each test has a model of its own.


@pytest.mark.parametrize(
    "message",
    [
        "Thinking is not enabled for models/gemini-2.5-flash-image",
        "Thinking_config.include_thoughts is only enabled when thinking is enabled..",
        "Unable to submit request because thinking is not supported by this model.",
    ],
)
async def test_a_model_that_does_not_think_is_not_asked_to_show_it(message):
    server = Server(refusal(message), (200, ANSWER))
    llm = server.llm(f"gemini-2.5-image-{next(numbers)}")
    assert (await llm.complete("hello")).text == "yes"
    assert ["thinkingConfig" in body["generationConfig"] for body in server.bodies] == [True, False]
    assert "reasoning" not in llm.provider.capabilities.features


@pytest.mark.parametrize(
    "options",
    [
        {"reasoning_effort": "low"},
        {"extra_body": {"generationConfig": {"thinkingConfig": {"thinkingBudget": 0}}}},
    ],
)
async def test_an_effort_that_was_asked_for_is_refused_as_it_is(options):
    server = Server(refusal("Thinking level is not supported for this model."))
    llm = server.llm(f"gemini-2.5-image-{next(numbers)}")
    with pytest.raises(BadRequestError, match="Thinking level"):
        await llm.complete("hello", **options)
    assert len(server.bodies) == 1
    assert "reasoning" in llm.provider.capabilities.features


async def test_system_prompts_that_are_not_taken_stand_before_the_question():
    message = "Developer instruction is not enabled for models/gemma-9-27b-it"
    server = Server(refusal(message), (200, ANSWER))
    llm = server.llm(f"gemma-9-{next(numbers)}")
    assert (await llm.complete("hello", system_prompt="Be brief.")).text == "yes"
    first, second = server.bodies
    assert "systemInstruction" in first
    assert "systemInstruction" not in second
    (turn,) = second["contents"]
    assert [part["text"] for part in turn["parts"]] == ["Be brief.", "hello"]


async def test_gemma_3_has_neither_system_prompts_nor_tools():
    server = Server((200, ANSWER))
    llm = server.llm("gemma-3-27b-it")
    await llm.complete("hello", system_prompt="Be brief.")
    assert "systemInstruction" not in server.bodies[0]
    assert not {"tools", "json_mode", "json_schema"} & llm.provider.capabilities.features


def test_a_system_prompt_before_a_conversation_that_the_model_began():
    messages = (SYSTEM, Message("assistant", "Good day."), HELLO)
    contents, _ = contents_and_config("m", ChatRequest(messages), thoughts=False, has_system=False)
    assert [turn["role"] for turn in contents] == ["user", "model", "user"]


async def test_what_the_sdk_cannot_write_is_the_request_s_fault_and_not_sent():
    server = Server((200, ANSWER))
    llm = server.llm(f"gemini-2.5-pro-{next(numbers)}")
    part = {"type": "input_audio", "thinking": {}}
    with pytest.raises(BadRequestError, match="takes no such request"):
        await llm.complete([{"role": "user", "content": [part]}])
    assert not server.bodies
    assert "reasoning" in llm.provider.capabilities.features


@pytest.mark.parametrize("body", [b"<html>", {"candidates": "none"}, ["x"]])
async def test_an_answer_that_cannot_be_read_is_asked_for_again(body):
    server = Server((200, body))
    with pytest.raises(RetriesExhaustedError, match="BadResponseError"):
        await server.llm("gemini-2.5-pro").complete("hello")
    assert len(server.bodies) == 3


def test_an_answer_in_no_encoding_is_asked_for_again():
    broken = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    error = GeminiClient("m", api_key="k-0123456789").failure(broken, 1.0)
    assert type(error) is BadResponseError
    unwritten = UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")
    error = GeminiClient("m", api_key="k-0123456789").failure(unwritten, 1.0)
    assert type(error) is BadRequestError


# Calls


def calls(name, *ids, own=False):
    extra = {each: {"gemini": {"id": each}} if own else {} for each in ids}
    made = tuple(ToolCall(each, name, "{}", extra[each]) for each in ids)
    return Message("assistant", tool_calls=made)


def results(*ids):
    return [Message("tool", f"result {each}", tool_call_id=each) for each in ids]


def test_a_result_is_that_of_the_call_before_it():
    messages = (HELLO, calls("first", "call_0"), *results("call_0"),
                calls("second", "call_0"), *results("call_0"))  # fmt: skip
    contents, _ = contents_and_config("m", ChatRequest(messages), thoughts=False)
    names = [part["function_response"]["name"] for turn in contents for part in turn["parts"]
             if "function_response" in part]  # fmt: skip
    assert names == ["first", "second"]
    written = chat_body("m", ChatRequest(messages), {})["messages"]
    assert [each["tool_name"] for each in written if each["role"] == "tool"] == names


def test_results_of_one_tool_are_told_apart_by_the_ids_that_gemini_gave():
    messages = (HELLO, calls("look", "a", "b", own=True), *results("a", "b"))
    contents, _ = contents_and_config("m", ChatRequest(messages), thoughts=False)
    given = [part["function_response"] for part in contents[-1]["parts"]]
    assert [each.get("id") for each in given] == ["a", "b"]
    messages = (HELLO, calls("look", "call_0"), *results("call_0"))
    contents, _ = contents_and_config("m", ChatRequest(messages), thoughts=False)
    assert "id" not in contents[-1]["parts"][0]["function_response"]


def test_what_gemma_3_cannot_is_said_before_anything_is_sent():
    server = Server((200, ANSWER))
    with pytest.raises(ConfigurationError, match="calls no tools"):
        server.llm("gemma-3-27b-it").complete_sync("hello", tools=[Tool("look")])
    assert not server.bodies
