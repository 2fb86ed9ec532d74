"""LiteLLM beside what the conformance suite runs: keys, prices, thoughts, embeddings."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from tollway import LLM, Embedder, Limits, Message, RateLimiter, RetryPolicy, Tool
from tollway.bridge import run_sync
from tollway.errors import (
    AuthenticationError,
    ConfigurationError,
    OverloadedError,
    RetriesExhaustedError,
)
from tollway.providers import chat_provider, embedding_provider
from tollway.simulator import Faults, Simulator, vector

KEY = "sk-simulated-0123456789"
ONCE = RetryPolicy(max_retries=0)
WEATHER = Tool("get_weather", "", {"type": "object", "properties": {"city": {"type": "string"}}})

needs_litellm = pytest.mark.skipif(
    importlib.util.find_spec("litellm") is None, reason="make test-litellm has it"
)
# What pydantic says of LiteLLM's own types.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(autouse=True)
async def _connections():
    """Close what LiteLLM keeps open for the process, which no provider of ours may close."""
    yield
    litellm = sys.modules.get("litellm")
    if litellm is not None:
        # In the loop of the synchronous calls, which sleeps otherwise; this one goes on anyway.
        run_sync(litellm.close_litellm_async_clients())
        litellm.in_memory_llm_clients_cache.flush_cache()
        await asyncio.sleep(0)


@pytest.fixture(scope="module")
def sim():
    with Simulator() as running:
        yield running


def make(sim, model="anthropic/claude-haiku-4-5", **options):
    address = sim.base_url if model.startswith("openai/") else sim.base_url.removesuffix("/v1")
    given = {"api_key": KEY, "limits": RateLimiter(Limits()), "retry": ONCE, **options}
    return LLM(f"litellm/{model}", base_url=address, **given)


async def test_without_litellm_the_extra_is_named(monkeypatch, sim):
    monkeypatch.setitem(sys.modules, "litellm", None)
    async with make(sim) as llm:
        with pytest.raises(ConfigurationError, match=r"tollway\[litellm\]"):
            await llm.complete("hello")


def test_no_repr_shows_the_key(monkeypatch, sim):
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    for llm in (make(sim), LLM("litellm/anthropic/claude-haiku-4-5")):
        for shown in (repr(llm), repr(llm.provider), repr(llm.provider.quota_key)):
            assert KEY not in shown


def test_what_shares_a_quota_is_provider_address_key_and_model(monkeypatch):
    monkeypatch.setenv("GROQ_API_KEY", KEY)
    from_environment = chat_provider("litellm/groq/llama-3.3-70b-versatile").quota_key
    given = chat_provider("litellm/groq/llama-3.3-70b-versatile", api_key=KEY).quota_key
    other = chat_provider("litellm/groq/llama-3.3-70b-versatile", api_key="another").quota_key
    assert from_environment == given != other


def test_accounts_without_a_key_have_a_quota_each():
    def quota_of(**options):
        return chat_provider("litellm/bedrock/anthropic.claude-haiku-4-5", **options).quota_key

    east, west = quota_of(aws_region_name="us-east-1"), quota_of(aws_region_name="us-west-2")
    assert east != west
    assert east == quota_of(aws_region_name="us-east-1", drop_params=False)
    assert "wJalr" not in str(quota_of(aws_secret_access_key="wJalr"))


def test_prices_are_those_of_the_provider_behind_it():
    listed = chat_provider("litellm/openai/gpt-4o", api_key=KEY).rules
    assert (listed.price, listed.price_provider, listed.price_model) == (
        "listed",
        "openai",
        "gpt-4o",
    )
    assert chat_provider("litellm/openai/gpt-4o", base_url="http://127.0.0.1:1/v1").rules.price == (
        "unknown"
    )
    assert Embedder("litellm/openai/text-embedding-3-small").cost(1_000_000) == 0.02
    deployed = Embedder("litellm/azure/mine", base_model="text-embedding-3-large")
    assert deployed.cost(1_000_000) == 0.13


@needs_litellm
def test_importing_it_fetches_nothing_and_prints_nothing():
    code = """
import socket
def refuse(*_, **__): raise AssertionError("the network was asked for")
socket.socket.connect = socket.getaddrinfo = refuse
from tollway import LLM
LLM("litellm/anthropic/claude-haiku-4-5", api_key="k").provider.capabilities
"""
    names = ("LITELLM_LOCAL_MODEL_COST_MAP", "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@needs_litellm
@pytest.mark.parametrize("is_stream", [False, True])
async def test_what_is_signed_goes_back_with_the_message(sim, is_stream):
    # The simulator refuses a signature that is not its own.
    asked = Message("user", '[[think first look]] [[call get_weather {"city": "Oslo"}]]')
    async with make(sim) as llm:
        if is_stream:
            async with llm.stream([asked], tools=[WEATHER]) as stream:
                (*_, last) = [chunk async for chunk in stream]
            answer = last.completion
        else:
            answer = await llm.complete([asked], tools=[WEATHER])
        assert answer.reasoning == "first look"
        assert answer.extra["litellm"]["thinking_blocks"]
        (call,) = answer.tool_calls
        assert json.loads(call.arguments) == {"city": "Oslo"}
        result = Message("tool", "rain", tool_call_id=call.id)
        answer = await llm.complete([asked, answer.message, result], tools=[WEATHER])
        assert answer.text == "results: rain"


@needs_litellm
async def test_a_default_that_it_does_not_take_is_left_out_and_what_is_named_is_refused(sim):
    async with make(sim) as llm:
        assert (await llm.complete("hello")).text
        sent = len(sim.ledger)
        with pytest.raises(ConfigurationError, match="seed"):
            await llm.complete("hello", seed=1)
        assert len(sim.ledger) == sent


@needs_litellm
async def test_errors_are_told_apart_by_what_the_provider_said():
    with Simulator(faults=Faults({"503": 1.0})) as sim:
        async with make(sim) as llm:
            with pytest.raises(RetriesExhaustedError) as caught:
                await llm.complete("hello")
        assert isinstance(caught.value.__cause__, OverloadedError)
    with Simulator(faults=Faults({"429": 1.0}, retry_after=7.5)) as sim:
        for model in ("anthropic/claude-haiku-4-5", "openai/gpt-4o"):
            async with make(sim, model) as llm:
                with pytest.raises(RetriesExhaustedError) as caught:
                    await llm.complete("hello")
            assert caught.value.__cause__.retry_after == 7.5


@needs_litellm
async def test_cached_tokens_are_within_the_input(sim):
    async with make(sim) as llm:
        counted = (await llm.complete("hello " * 3000)).usage
    assert 1024 <= counted.cached_tokens < counted.input_tokens


@needs_litellm
@pytest.mark.parametrize(("dimensions", "size"), [(None, 1536), (64, 64)])
async def test_each_text_has_its_vector(sim, dimensions, size):
    texts = ["one", "둘", "three\nlines", "one"]
    embedder = Embedder(
        "litellm/openai/text-embedding-3-small",
        base_url=sim.base_url,
        api_key=KEY,
        dimensions=dimensions,
        limits=Limits(),
        retry=ONCE,
    )
    async with embedder:
        vectors = await embedder.embed(texts)
    assert (vectors.shape, vectors.dtype) == ((4, size), np.float32)
    for text, row in zip(texts, vectors, strict=True):
        assert row == pytest.approx(vector(text, size), abs=1e-6)


@needs_litellm
async def test_embeddings_report_usage_and_bad_rows():
    with Simulator(faults=Faults({"nan_row": 1.0})) as sim:
        provider = embedding_provider(
            "litellm/openai/text-embedding-3-small", base_url=sim.base_url, api_key=KEY
        )
        await provider.open()
        answer = await provider.embed(["one", "two", "three"])
        await provider.aclose()
    assert len(answer.bad_rows) == 1
    assert not answer.usage.estimated
    assert answer.usage.input_tokens == 3


class Answering:
    """In LiteLLM's place: answers of the script, one a call."""

    def __init__(self, *rows):
        self.rows = list(rows)

    async def aembedding(self, **arguments):
        headers = {"llm_provider-x-ratelimit-limit-requests": "77"}
        return SimpleNamespace(
            data=self.rows.pop(0),
            usage={"prompt_tokens": 2},
            _hidden_params={"additional_headers": headers},
        )


async def test_embeddings_whatever_litellm_makes_of_them(monkeypatch):
    """Too many rows, none, or one without a vector: asked for again, never an error of ours."""
    good = [{"index": 1, "embedding": [3.0, 4.0]}, {"index": 0, "embedding": [1.0, 2.0]}]
    fake = Answering(
        [*good, {"index": 2, "embedding": [5.0, 6.0]}], None, [good[0], {"index": 0}], good[1:]
    )
    for module in ("litellm", "litellm_client"):
        monkeypatch.setattr(f"tollway.providers.{module}.sdk", lambda: fake)
    monkeypatch.setattr("tollway.providers.litellm.caught", lambda: ())
    embedder = Embedder(
        "litellm/voyage/any", limits="auto", api_key=KEY, retry=RetryPolicy(base_delay=0.0)
    )
    assert (await embedder.embed(["a", "b"])).tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert not fake.rows
    assert embedder.limiter.current_limits.rpm == 77


@needs_litellm
async def test_a_wrong_key_is_refused_and_not_shown():
    with Simulator(api_keys={"right"}) as sim:
        for model in ("openai/gpt-4o", "anthropic/claude-haiku-4-5"):
            async with make(sim, model) as llm:
                with pytest.raises(AuthenticationError) as caught:
                    await llm.complete("hello")
                assert KEY not in str(caught.value)
        embedder = Embedder(
            "litellm/openai/text-embedding-3-small", base_url=sim.base_url, api_key=KEY
        )
        async with embedder:
            with pytest.raises(AuthenticationError) as caught:
                await embedder.embed(["one"])
        assert KEY not in str(caught.value)


@needs_litellm
def test_a_model_that_is_named_alone_is_its_provider_s():
    alone = chat_provider("litellm/gpt-4o", api_key=KEY)
    whole = chat_provider("litellm/openai/gpt-4o", api_key=KEY)
    assert alone.capabilities == whole.capabilities
    assert "temperature" in alone.capabilities.parameters
    assert alone.rules == whole.rules
    with pytest.raises(ConfigurationError, match="litellm/PROVIDER/no-such-model"):
        chat_provider("litellm/no-such-model", api_key=KEY)
