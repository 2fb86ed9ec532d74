"""What servers say that speak OpenAI's format with an accent."""

from __future__ import annotations

import itertools
import json

import httpx2
import openai
import pytest

from tollway import LLM, Limits, RateLimiter, RetryPolicy
from tollway.chat.stream import Assembly
from tollway.errors import (
    BadRequestError,
    ConfigurationError,
    ContextWindowError,
    ContextWindowExceededError,
    StructuredOutputError,
)
from tollway.providers import chat_provider
from tollway.providers.openai_wire import ChunkReader, completion_of, usage_of
from tollway.types import Message

KEY = "sk-0123456789abcdefghij"
CALL = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
numbers = itertools.count()


@pytest.fixture(autouse=True)
def without_keys(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE", "DEEPSEEK_API_KEY"):
        monkeypatch.delenv(name, raising=False)


class Server:
    """Answers with what a test says, and keeps what it was asked."""

    def __init__(self, *answers, host=None):
        self._answers = list(answers)
        self.bodies = []
        self.headers = []
        self.base_url = f"http://{host or f'dialect-{next(numbers)}'}/v1"

    def __call__(self, request):
        self.bodies.append(json.loads(request.content or b"null"))
        self.headers.append(request.headers)
        status, body = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx2.Response(status, content=content)

    def llm(self, **options):
        client = httpx2.AsyncClient(transport=httpx2.MockTransport(self))
        given = {"api_key": KEY, "base_url": self.base_url, **options}
        return LLM(
            "openai/m",
            http_client=client,
            limits=RateLimiter(Limits()),
            retry=RetryPolicy(max_retries=2, base_delay=0.0, max_delay=0.0),
            **given,
        )


def answer(finish="stop", usage=None, **message):
    said = {"role": "assistant", "content": "yes", **message}
    return {"choices": [{"message": said, "finish_reason": finish}], "usage": usage}


def read(given):
    return completion_of(given, {}, "openai", model="m", split=True)


# Why an answer ended


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("insufficient_system_resource", "error"),
        ("abort", "error"),
        ("model_length", "context_window"),
        ("eos_token", "stop"),
    ],
)
def test_an_answer_that_was_broken_off_is_not_taken_for_whole(word, reason):
    assert read(answer(word)).finish_reason == reason
    piece = {"choices": [{"delta": {}, "finish_reason": word}]}
    assert ChunkReader(split=True).read(piece).finish_reason == reason


async def test_json_that_was_broken_off_is_not_read():
    llm = Server((200, answer("insufficient_system_resource", content='{"a": 1}'))).llm()
    with pytest.raises(StructuredOutputError, match="ended with error"):
        await llm.complete("json", response_format="json")


# What it took


@pytest.mark.parametrize(("completion", "total"), [(2, 331), (319, 331)])
def test_reasoning_is_within_the_output_wherever_it_is_counted(completion, total):
    usage = usage_of(
        {
            "prompt_tokens": 12,
            "completion_tokens": completion,
            "total_tokens": total,
            "completion_tokens_details": {"reasoning_tokens": 317},
        }
    )
    assert (usage.output_tokens, usage.reasoning_tokens, usage.total_tokens) == (319, 317, 331)


# Thoughts that go back


def look() -> str:
    """Look."""
    return "seen"


def streamed(given):
    """An answer as the events of a stream."""
    choice = given["choices"][0]
    said = dict(choice["message"])
    calls = [{"index": 0, **call} for call in said.pop("tool_calls", ())]
    pieces = [
        {"reasoning_content": said.pop("reasoning_content", None)},
        {"tool_calls": calls} if calls else {"content": said["content"]},
    ]
    events = [{"choices": [{"delta": piece}]} for piece in pieces]
    events.append({"choices": [{"delta": {}, "finish_reason": choice["finish_reason"]}]})
    written = [f"data: {json.dumps(event)}\n\n" for event in events]
    return "".join([*written, "data: [DONE]\n\n"]).encode()


CALLING = answer("tool_calls", content=None, tool_calls=[CALL], reasoning_content="I must look")


async def test_deepseek_gets_its_thoughts_back_with_the_calls_of_tools():
    server = Server(
        (200, CALLING), (200, answer(reasoning_content="done")), host="api.deepseek.com"
    )
    run = await server.llm().run_tools("what is there?", tools=[look])
    assert run.completion.text == "yes"
    asked = server.bodies[1]["messages"][1]
    assert asked["reasoning_content"] == "I must look"
    # Without calls they would be ignored: they are left out.
    assert "openai_compatible" not in run.completion.extra


async def test_thoughts_of_a_stream_go_back_too():
    server = Server((200, streamed(CALLING)), (200, answer()), host="api.deepseek.com")
    llm = server.llm()
    *_, last = [chunk async for chunk in llm.stream("what?", tools=[look])]
    said = [Message("user", "what?"), last.completion.message]
    await llm.complete([*said, Message("tool", "seen", tool_call_id="1")], tools=[look])
    assert server.bodies[1]["messages"][1]["reasoning_content"] == "I must look"


async def test_elsewhere_they_go_back_once_the_server_has_asked_for_them():
    missing = {"error": {"message": "Missing `reasoning_content` field in the assistant message"}}
    server = Server((200, CALLING), (400, missing), (200, answer()))
    run = await server.llm().run_tools("what is there?", tools=[look])
    assert run.completion.text == "yes"
    messages = [body["messages"][1] for body in server.bodies[1:]]
    assert ["reasoning_content" in message for message in messages] == [False, True]


async def test_a_server_that_refuses_them_is_not_taken_for_one_that_wants_them():
    refusal = {"error": {"message": "Extra inputs are not permitted: reasoning_content"}}
    server = Server((400, refusal), (200, CALLING), (200, answer()))
    llm = server.llm()
    own = {"role": "assistant", "content": "a", "reasoning_content": "of the user's own"}
    with pytest.raises(BadRequestError, match="not permitted"):
        await llm.complete([own, {"role": "user", "content": "b"}])
    await llm.run_tools("what is there?", tools=[look])
    assert len(server.bodies) == 3
    assert "reasoning_content" not in server.bodies[2]["messages"][1]


# Lists of models


@pytest.mark.parametrize(
    ("body", "models"),
    [
        ({"data": [{"id": "m"}, {"id": "n"}]}, ("m", "n")),
        ([{"id": "m"}], ("m",)),
        ({"data": [{"name": "m"}, "n"]}, ()),
    ],
)
async def test_lists_of_models_in_any_form(body, models):
    found = await Server((200, body)).llm().available()
    assert found
    assert tuple(found.models) == models


@pytest.mark.parametrize("body", [{"object": "list"}, {"data": None}, {"models": ["m"]}, "m", None])
async def test_an_answer_without_a_list_says_that_the_server_is_there(body):
    found = await Server((200, body)).llm().available()
    assert found
    assert "does not have" in found.reason


# Keys


async def test_a_client_that_asks_for_its_key_is_used_as_it_is(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else")

    async def key():
        return KEY

    server = Server((200, answer()))
    client = openai.AsyncOpenAI(
        api_key=key,
        base_url=server.base_url,
        http_client=httpx2.AsyncClient(transport=httpx2.MockTransport(server)),
    )
    llm = LLM("openai/m", client=client, limits=RateLimiter(Limits()))
    assert (await llm.complete("hello")).text == "yes"
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    another = LLM("openai/m", base_url=server.base_url, limits=RateLimiter(Limits()))
    assert another.provider.quota_key != llm.provider.quota_key
    await client.close()


def test_such_a_client_of_openai_needs_no_key_beside_it():
    async def key():
        return KEY

    provider = chat_provider("openai/gpt-4o", client=openai.AsyncOpenAI(api_key=key))
    assert provider.rules.price == "listed"


# Calls of tools


def pieces(*calls):
    reader = ChunkReader(split=True)
    assembly = Assembly("openai", "m")
    for call in calls:
        assembly.add(reader.read({"choices": [{"delta": {"tool_calls": [call]}}]}))
    return [(call.id, call.name, call.arguments) for call in assembly.completion().tool_calls]


def piece(index, id_, name, arguments):
    return {"index": index, "id": id_, "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize(
    "given",
    [
        # By the book; the same index for all; no index; id and name with every piece;
        # another id with every piece.
        [piece(0, "a", "x", "{"), piece(0, None, None, "}"), piece(1, "b", "y", "{}")],
        [piece(0, "a", "x", "{}"), piece(0, "b", "y", "{}")],
        [piece(None, "a", "x", "{"), piece(None, None, None, "}"), piece(None, "b", "y", "{}")],
        [piece(0, "a", "x", "{"), piece(0, "a", "x", "}"), piece(1, "b", "y", "{}")],
        [piece(0, "a", "x", "{"), piece(0, "c", None, "}"), piece(1, "b", "y", "{}")],
        [piece(0, "", "x", "{"), piece(0, "a", None, "}"), piece(1, "b", "y", "{}")],
        # Arguments that are no text.
        [piece(0, "a", "x", {}), piece(1, "b", "y", {})],
    ],
)
def test_calls_in_pieces_are_told_apart(given):
    assert pieces(*given) == [("a", "x", "{}"), ("b", "y", "{}")]


def test_calls_without_ids_get_some():
    calls = [{"function": {"name": name, "arguments": {"city": "서울"}}} for name in "xy"]
    found = read(answer("tool_calls", content=None, tool_calls=calls)).tool_calls
    assert [(call.id, call.name) for call in found] == [("call_0", "x"), ("call_1", "y")]
    assert found[0].arguments == '{"city": "서울"}'


def test_of_several_answers_the_first_counts():
    reader = ChunkReader(split=False)
    chunks = [
        reader.read({"choices": [{"index": index, "delta": {"content": text}}]})
        for index, text in ((0, "one"), (1, "eins"), (0, " two"))
    ]
    assert "".join(chunk.text for chunk in chunks if chunk is not None) == "one two"


def test_azure_s_own_client_has_what_is_its_own():
    own = {"azure_endpoint": "https://r.openai.azure.com", "api_version": "2025-01-01"}
    client = openai.AsyncAzureOpenAI(api_key=KEY, **own)
    for name, value in {**own, "api_key": KEY, "azure_ad_token": "t"}.items():
        with pytest.raises(ConfigurationError, match="those of the client"):
            chat_provider("azure/d", client=client, **{name: value})
    assert chat_provider("azure/d", client=client).base_url.startswith("https://r.openai")


# Windows


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"code": "context_length_exceeded", "message": "too long"}),
        (400, {"message": "This model's maximum context length is 4096 tokens. You requested 9"}),
        (400, {"message": "This model's maximum prompt length is 131072"}),
        (400, {"code": 400, "type": "exceed_context_size_error", "message": "exceeds"}),
        (500, {"code": 500, "type": "exceed_context_size_error", "message": "exceeds"}),
    ],
)
async def test_a_window_that_the_server_names_is_both_kinds_of_error(status, error):
    server = Server((status, {"error": error}))
    with pytest.raises(ContextWindowExceededError) as caught:
        await server.llm().complete("hello")
    assert isinstance(caught.value, BadRequestError)
    assert isinstance(caught.value, ContextWindowError)
    assert len(server.bodies) == 1
