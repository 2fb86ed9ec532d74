"""What models refuse to take: known beforehand, or learned from the words that servers use."""

from __future__ import annotations

import asyncio
import itertools
import json
import traceback

import anthropic
import httpx
import httpx2
import openai
import pytest
from google import genai

from tollway import LLM, Limits, RateLimiter, RetryPolicy
from tollway.errors import AuthenticationError
from tollway.providers import ChatRequest, chat_provider
from tollway.providers.openai_models import Learned, Model
from tollway.types import JsonFormat, Message

KEY = "sk-0123456789abcdefghij"
numbers = itertools.count()


def asked(**options):
    return ChatRequest((Message("user", "hello"),), **options)


def learned():
    return Learned(Model(), max_tokens="max_tokens")


@pytest.mark.parametrize(
    "message",
    [
        # Anthropic from Opus 4.7 on, at Bedrock too; models of OpenAI that search; others.
        "400 invalid_request_error: `temperature` is deprecated for this model.",
        "400 invalid_request_error: Model incompatible request argument supplied: temperature",
        "400: Unsupported value: 'temperature' does not support 0.0 with this model.",
        "422: [{'type': 'extra_forbidden', 'loc': ['body', 'temperature']}]",
    ],
)
def test_a_default_that_is_refused_is_left_out_from_then_on(message):
    model = learned()
    request = asked(temperature=0.0, defaults={"temperature"})
    assert model.learn(message, request) == "takes no temperature"
    assert "temperature" not in model.capabilities.parameters
    untouched = learned()
    assert untouched.learn(message, asked(temperature=0.0)) is None
    assert "temperature" in untouched.capabilities.parameters


WORDS = {
    "max_tokens": "Unsupported parameter: 'max_tokens' is not supported with this model. "
    "Use 'max_completion_tokens' instead.",
    "temperature": "Unsupported value: 'temperature' does not support 0.0 with this model.",
    "developer": "Invalid role: developer is not supported",
    "response_format": "response_format is not supported",
}


def test_what_a_batch_is_refused_for_many_times_is_learned_once():
    model = learned()
    request = asked(max_tokens=9, defaults={"max_tokens"})
    for _ in range(3):
        assert (
            model.learn(WORDS["max_tokens"], request) == "wants max_completion_tokens by that name"
        )
        assert "max_tokens" in model.capabilities.parameters


@pytest.mark.parametrize("member", WORDS)
async def test_all_that_are_refused_at_once_are_sent_again(member):
    count = 4
    barrier, asked = asyncio.Barrier(count), []

    async def serve(request):
        body = json.loads(request.content)
        asked.append(body)
        if len(asked) <= count:
            await barrier.wait()
        if member in body or f'"role": "{member}"' in json.dumps(body):
            return httpx2.Response(400, json={"error": {"message": WORDS[member]}})
        choice = {"message": {"content": "{}"}, "finish_reason": "stop"}
        return httpx2.Response(200, json={"choices": [choice]})

    client = httpx2.AsyncClient(transport=httpx2.MockTransport(serve))
    llm = LLM(
        "openai/m",
        base_url=f"http://refusing-{next(numbers)}/v1",
        api_key=KEY,
        http_client=client,
        limits=RateLimiter(Limits()),
        retry=RetryPolicy(max_retries=1, base_delay=0.0, max_delay=0.0),
    )
    prompts = [[Message("developer", "Be brief."), Message("user", str(n))] for n in range(count)]
    options = {"response_format": "json"} if member == "response_format" else {}
    outcomes = await llm.map(prompts, **options)
    assert [outcome.error for outcome in outcomes] == [None] * count
    assert len(asked) == 2 * count
    # Nothing else is forgotten.
    last = asked[-1]
    assert ("max_completion_tokens" if member == "max_tokens" else "max_tokens") in last
    assert ("temperature" in last) is (member != "temperature")


@pytest.mark.parametrize(
    ("model", "takes_it"),
    [
        ("anthropic/claude-sonnet-4-5", True),
        ("anthropic/claude-opus-4-6", True),
        ("anthropic/claude-opus-4-7", False),
        ("anthropic/claude-opus-5-5", False),
        ("anthropic/claude-sonnet-5", False),
        ("anthropic/claude-haiku-5-5", False),
        ("anthropic/claude-mythos-preview", False),
        ("bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0", True),
        ("bedrock/us.anthropic.claude-opus-4-20250514-v1:0", True),
        ("bedrock/us.anthropic.claude-opus-4-7-v1:0", False),
        ("bedrock/anthropic.claude-sonnet-5-v1:0", False),
        ("bedrock/amazon.nova-lite-v1:0", True),
    ],
)
def test_newer_models_of_anthropic_sample_as_they_like(model, takes_it):
    options = {"api_key": KEY} if model.startswith("anthropic") else {"region": f"r{next(numbers)}"}
    parameters = chat_provider(model, **options).capabilities.parameters
    assert {name in parameters for name in ("temperature", "top_p")} == {takes_it}
    assert {"max_tokens", "stop"} <= parameters


def test_a_schema_with_a_mistake_says_nothing_of_other_schemas():
    message = (
        "400 invalid_request_error: Invalid schema for response_format 'answer': "
        "In context=('properties', 'it'), 'oneOf' is not permitted."
    )
    model = learned()
    wanted = JsonFormat({"type": "object"})
    assert model.learn(message, asked(response_format=wanted)) is None
    assert "json_schema" in model.capabilities.features
    message = "400: This model does not support response_format json_schema"
    assert model.learn(message, asked(response_format=wanted)) is None
    assert "json_schema" not in model.capabilities.features


# Keys


def echoing(module):
    """A client of httpx or httpx2 to a server that repeats the key which it refuses."""
    error = {"code": 401, "message": f"no such key {KEY}", "status": "UNAUTHENTICATED"}
    answer = module.Response(401, json={"error": error})
    return module.AsyncClient(transport=module.MockTransport(lambda _: answer))


def azure(**credential):
    return openai.AsyncAzureOpenAI(
        azure_endpoint="https://r.openai.azure.com",
        api_version="2025-01-01",
        http_client=echoing(httpx2),
        **credential,
    )


def gemini():
    options = genai.types.HttpOptions(base_url="http://echo", httpx_async_client=echoing(httpx))
    return genai.Client(api_key=KEY, http_options=options)


CLIENTS = {
    "azure/key": lambda: azure(api_key=KEY),
    "azure/token": lambda: azure(azure_ad_token=KEY),
    "openai/gpt-4o": lambda: openai.AsyncOpenAI(api_key=KEY, http_client=echoing(httpx2)),
    "anthropic/claude-opus-4-5": lambda: anthropic.AsyncAnthropic(
        api_key=KEY, http_client=echoing(httpx2)
    ),
    "gemini/gemini-2.5-echo": gemini,
}


@pytest.mark.parametrize("model", CLIENTS)
async def test_the_key_of_a_client_of_the_user_s_is_not_shown(model, monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", "of-somebody-else-0123")
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "of-somebody-else-0123")
    llm = LLM(model, client=CLIENTS[model](), limits=RateLimiter(Limits()))
    with pytest.raises(AuthenticationError, match="no such key") as caught:
        await llm.complete("hello")
    assert KEY not in "".join(traceback.format_exception(caught.value))
