"""OpenAI's chat provider: addresses, keys, clients, and what an endpoint's refusals teach it."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import pathlib
import sys
import time
import traceback
import typing

import azure.core.credentials
import httpx2
import openai
import pytest

from tollway import LLM, Limits, Message, RateLimiter, RetryPolicy
from tollway.errors import (
    AuthenticationError,
    BadRequestError,
    BadResponseError,
    ConfigurationError,
    RetriesExhaustedError,
)
from tollway.providers import ChatRequest, chat_provider
from tollway.providers.openai_models import Learned, Model, model_of
from tollway.providers.openai_wire import ChunkReader
from tollway.simulator import Simulator, reply
from tollway.types import Usage
from tollway.usage import cost_of

KEY = "sk-proj-0123456789abcdefghij"
FILES = pathlib.Path("/proc/self/fd")
FAST = RetryPolicy(max_retries=3, base_delay=0.001, max_delay=0.002)


@pytest.fixture(autouse=True)
def without_keys(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "AZURE_")):
            monkeypatch.delenv(name)


numbers = itertools.count()


def scripted(handler):
    """A client whose server is a function, at an address that no other test has."""
    return openai.AsyncOpenAI(
        base_url=f"http://host-{next(numbers)}/v1",
        api_key=KEY,
        http_client=httpx2.AsyncClient(transport=httpx2.MockTransport(handler)),
    )


def of(sim, model="some-model", **options):
    given = {"base_url": sim.base_url, "api_key": KEY, "limits": RateLimiter(Limits())}
    return LLM(f"openai/{model}", **{**given, "retry": FAST, **options})


# Keys, addresses, clients


def test_a_key_is_needed_at_openai_and_an_address_at_azure(monkeypatch):
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY"):
        LLM("openai/gpt-4o")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    llm = LLM("openai/gpt-4o")
    assert (llm.provider.base_url, llm.limiter.limits.rpm) == ("https://api.openai.com/v1", 500)
    monkeypatch.setenv("OPENAI_API_BASE", "http://127.0.0.1:1/v1/")
    assert LLM("openai/gpt-4o").provider.base_url == "http://127.0.0.1:1/v1"
    with pytest.raises(ConfigurationError, match="AZURE_OPENAI_ENDPOINT"):
        LLM("azure/deployed")
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://r.openai.azure.com/")
    with pytest.raises(ConfigurationError, match="AZURE_OPENAI_API_KEY"):
        LLM("azure/deployed")
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", KEY)
    llm = LLM("azure/deployed", base_model="gpt-4o")
    assert (llm.provider.rules.token_model, llm.provider.model) == ("gpt-4o", "deployed")
    with pytest.raises(ConfigurationError, match="not several"):
        LLM("azure/deployed", api_key=KEY, azure_ad_token="token")


@pytest.mark.parametrize("key", ["x1\nx2", "x1 x2", "éé"])
def test_a_key_that_no_header_may_hold_is_refused_unseen(key):
    with pytest.raises(ConfigurationError) as caught:
        LLM("openai/gpt-4o", api_key=key)
    assert key not in str(caught.value)


async def test_a_server_without_keys_and_one_that_changes_them():
    with Simulator() as sim:
        async with of(sim, api_key=None) as llm:
            with pytest.raises(AuthenticationError, match="OPENAI_API_KEY"):
                await llm.complete("hello")
    keys = ["first", "second"]

    async def key():
        return keys[0]

    with Simulator(api_keys={"second"}) as sim:
        async with of(sim, api_key=key) as llm:
            with pytest.raises(AuthenticationError):
                await llm.complete("hello")
            keys.pop(0)
            llm._path.breaker.reset()
            assert (await llm.complete("hello")).text


@pytest.mark.parametrize("is_async", [True, False])
async def test_azure_takes_tokens_from_a_provider(is_async):
    asked = []

    def token():
        asked.append(1)
        return "managed"

    async def token_async():
        return token()

    with Simulator(api_keys={"managed"}) as sim:
        given = {"azure_endpoint": sim.base_url.removesuffix("/v1"), "api_version": "2025-01-01"}
        provider = token_async if is_async else token
        async with LLM(
            "azure/d", base_model="gpt-4o", azure_ad_token_provider=provider, **given
        ) as llm:
            assert (await llm.complete("hello")).text == reply(("user", "hello"))
        assert asked

    def failing():
        raise OSError("no identity here")

    async with LLM("azure/d", azure_ad_token_provider=failing, **given) as llm:
        with pytest.raises(AuthenticationError, match="OSError"):
            await llm.complete("hello")


class Identity:
    """A credential as `azure.identity.aio` has them."""

    made: typing.ClassVar[list[Identity]] = []

    def __init__(self):
        self.is_closed = False
        self.scopes = []
        self.made.append(self)

    async def get_token(self, *scopes, **_):
        self.scopes += scopes
        return azure.core.credentials.AccessToken("managed", int(time.time()) + 3600)

    async def close(self):
        self.is_closed = True


async def test_azure_takes_a_managed_identity_and_closes_its_own(monkeypatch):
    import azure.identity.aio  # noqa: PLC0415 - imported on first use, as tollway does

    monkeypatch.setattr(azure.identity.aio, "DefaultAzureCredential", Identity)
    monkeypatch.setattr(Identity, "made", [])
    with Simulator(api_keys={"managed"}) as sim:
        given = {"azure_endpoint": sim.base_url.removesuffix("/v1"), "base_model": "gpt-4o"}
        for version in ("2025-01-01", None):
            async with LLM("azure/d", credential="default", api_version=version, **given) as llm:
                assert (await llm.complete("hello")).text == reply(("user", "hello"))
            (own,) = Identity.made
            assert own.is_closed
            assert set(own.scopes) == {"https://cognitiveservices.azure.com/.default"}
            Identity.made.clear()
        injected = Identity()
        async with LLM("azure/d", credential=injected, **given) as llm:
            assert (await llm.complete("hello")).text
        assert injected.scopes
        assert not injected.is_closed
    with pytest.raises(ConfigurationError, match="not several"):
        LLM("azure/d", credential="default", api_key=KEY, **given)
    monkeypatch.setitem(sys.modules, "azure.identity.aio", None)
    async with LLM("azure/d", credential="default", **given) as llm:
        with pytest.raises(ConfigurationError, match=r"tollway\[azure\]"):
            await llm.complete("hello")


@pytest.mark.parametrize(
    ("host", "variable", "lacks"),
    [
        ("api.deepseek.com", "DEEPSEEK_API_KEY", {"json_schema", "seed"}),
        ("api.upstage.ai/v1", "UPSTAGE_API_KEY", set()),
        ("api.groq.com/openai/v1", "GROQ_API_KEY", set()),
        ("elsewhere.example/v1", "OPENAI_API_KEY", set()),
    ],
)
def test_what_is_published_of_an_endpoint_is_known(monkeypatch, host, variable, lacks):
    monkeypatch.setenv("OPENAI_API_KEY", "another-key")
    monkeypatch.setenv(variable, KEY)
    named = chat_provider("openai/m", base_url=f"https://{host}")
    given = chat_provider("openai/m", base_url=f"https://{host}", api_key=KEY)
    assert named.quota_key == given.quota_key
    assert not lacks & (named.capabilities.features | named.capabilities.parameters)
    everything = {"images", "json_schema", "seed"}
    assert everything - lacks <= named.capabilities.features | named.capabilities.parameters


def test_prices_of_endpoints_that_are_listed():
    priced = LLM("openai/deepseek-chat", base_url="https://api.deepseek.com", api_key=KEY)
    assert priced.provider.rules.price == "listed"
    assert cost_of("deepseek", "deepseek-chat", Usage(1_000_000, 1)) > 0


def test_usage_of_a_stream_in_groq_s_older_place():
    reader = ChunkReader(split=True)
    piece = {
        "choices": [{"delta": {}, "finish_reason": "stop"}],
        "x_groq": {"usage": {"prompt_tokens": 3, "completion_tokens": 2}},
    }
    assert reader.read(piece).usage == Usage(3, 1, output_tokens=2)


async def test_an_injected_client_is_used_and_left_open():
    with Simulator() as sim:
        async with openai.AsyncOpenAI(base_url=sim.base_url, api_key=KEY, max_retries=7) as client:
            async with LLM("openai/m", client=client, limits=RateLimiter(Limits())) as llm:
                assert (await llm.complete("hello")).text
            assert not client.is_closed()
            assert client.max_retries == 7
        async with httpx2.AsyncClient() as client, of(sim, http_client=client) as llm:
            assert (await llm.complete("hello")).text
            assert not client.is_closed
    with pytest.raises(ConfigurationError, match="client"):
        LLM("openai/m", client=client, api_key=KEY)


async def test_no_secret_is_in_an_error_or_a_repr():
    with Simulator(api_keys={"right"}) as sim:
        async with of(sim) as llm:
            with pytest.raises(AuthenticationError) as caught:
                await llm.complete("hello")
            shown = "".join(traceback.format_exception(caught.value))
            assert KEY not in shown + repr(llm) + repr(llm.provider) + repr(llm.provider.quota_key)


async def test_a_server_that_repeats_the_key_is_not_repeated():
    def answer(request):
        said = {"error": {"message": f"bad key {request.headers['authorization']}"}}
        return httpx2.Response(401, json=said)

    client = scripted(answer)
    with pytest.raises(AuthenticationError) as caught:
        await LLM("openai/m", client=client).complete("hello")
    assert KEY not in "".join(traceback.format_exception(caught.value))
    await client.close()


@pytest.mark.parametrize(
    ("model", "credential", "variable"),
    [
        ("openai/m", {"base_url": "https://box/v1"}, "OPENAI_API_KEY"),
        ("openai/m", {"base_url": "https://api.groq.com/openai/v1"}, "GROQ_API_KEY"),
        ("openai/m", {"base_url": "https://box/v1", "api_key": KEY}, None),
        (
            "azure/d",
            {"azure_endpoint": "https://box", "azure_ad_token_provider": lambda: "token"},
            None,
        ),
    ],
)
async def test_a_key_is_asked_for_where_none_was_given(monkeypatch, model, credential, variable):
    for name in ("OPENAI_API_KEY", "GROQ_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    transport = httpx2.MockTransport(lambda _: httpx2.Response(401, json={"error": "no"}))
    async with (
        httpx2.AsyncClient(transport=transport) as client,
        LLM(model, http_client=client, **credential) as llm,
    ):
        with pytest.raises(AuthenticationError) as caught:
            await llm.complete("hello")
    message = str(caught.value)
    assert f" {variable}, or give api_key" in message if variable else "_KEY" not in message


async def test_a_key_that_an_error_in_a_stream_repeats_is_not_shown():
    said = json.dumps({"error": {"message": f"Incorrect API key: {KEY}", "code": "invalid"}})

    def handler(request):
        headers = {"content-type": "text/event-stream"}
        return httpx2.Response(200, headers=headers, content=f"data: {said}\n\n".encode())

    client = scripted(handler)
    stream = LLM("openai/m", client=client, retry=RetryPolicy(max_retries=0)).stream("hello")
    with pytest.raises(RetriesExhaustedError, match="Incorrect API key") as caught:
        async for _ in stream:
            pass
    assert KEY not in "".join(traceback.format_exception(caught.value))
    await client.close()


@pytest.mark.parametrize(
    ("body", "kind"),
    [(b"<html>busy</html>", "text/html"), (b"{", "application/json"), (b"[]", "application/json")],
)
async def test_what_is_no_answer_is_retried(body, kind):
    sent = []

    def answer(request):
        sent.append(request)
        return httpx2.Response(200, content=body, headers={"content-type": kind})

    client = scripted(answer)
    llm = LLM("openai/m", client=client, retry=FAST, limits=RateLimiter(Limits()))
    with pytest.raises(RetriesExhaustedError) as caught:
        await llm.complete("hello")
    assert isinstance(caught.value.__cause__, BadResponseError)
    assert len(sent) == 4
    await client.close()


# What endpoints teach


@pytest.mark.parametrize(
    "refused",
    ["stream_options", "max_tokens", "temperature", "developer"],
)
async def test_what_nobody_asked_for_is_left_out_from_the_first_refusal_on(refused):
    messages = [Message("developer", "s"), Message("user", "hello")]
    with Simulator(refuses={refused}) as sim:
        async with of(sim) as llm:
            (*_, last) = [chunk async for chunk in llm.stream(messages)]
            assert last.completion.text == reply(("system", "s"), ("user", "hello"))
            assert [record.status for record in sim.ledger] == [400, 200]
            await llm.complete(messages)
        async with of(sim) as another:
            await another.complete(messages)
        assert [record.status for record in sim.ledger] == [400, 200, 200, 200]


async def test_what_the_user_asked_for_is_refused_as_it_is():
    with Simulator(refuses={"temperature", "seed"}) as sim:
        async with of(sim) as llm:
            for option in ({"temperature": 0.0}, {"seed": 3, "temperature": None}):
                with pytest.raises(BadRequestError):
                    await llm.complete("hello", **option)
        assert len(sim.ledger) == 2


async def test_a_schema_that_is_refused_is_told_in_words():
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    with Simulator(refuses={"json_schema"}) as sim:
        async with of(sim) as llm:
            answer = await llm.complete("x", response_format=schema)
            assert answer.parsed == {"a": "x"}
            assert [record.status for record in sim.ledger] == [400, 200]
            await llm.complete("y", response_format=schema)
            assert len(sim.ledger) == 3


@pytest.mark.parametrize("reasoning", ["apart", "tags", "headless"])
async def test_reasoning_is_apart_wherever_it_stands(reasoning):
    with Simulator(reasoning=reasoning) as sim:
        async with of(sim) as llm:
            answer = await llm.complete("[[think this </b> way]] [[say so <think> not]]")
    assert (answer.reasoning, answer.text) == ("this </b> way", "so <think> not")


def test_models_of_openai():
    assert "temperature" not in model_of("gpt-5-mini").parameters
    assert "temperature" not in model_of("gpt-5.1").parameters
    assert "temperature" in model_of("gpt-5-chat-latest").parameters
    assert "images" not in model_of("o3-mini-2025-01-31").features
    assert model_of("gpt-4.1-nano").context_window == 1_047_576
    assert model_of("gpt-4-0613").context_window == 8_192
    assert model_of("gpt-5.4-2026-03-05").context_window == 1_050_000
    assert model_of("gpt-5.4-mini").context_window == 400_000
    assert model_of("gpt-5.99").context_window is None  # never that of an elder sister
    assert model_of("ft:gpt-4o-mini:me::x").context_window == 128_000
    assert model_of("something-new").parameters


REQUEST = ChatRequest([Message("user", "x")], max_tokens=5, defaults=frozenset({"max_tokens"}))


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ("'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
         "max_completion_tokens"),
        ("max_tokens is too large: 5", "max_tokens"),
        ("Unrecognized request argument supplied: max_completion_tokens", "max_completion_tokens"),
    ],
)  # fmt: skip
def test_the_name_of_max_tokens_is_learned_once(message, name):
    learned = Learned(Model(), max_tokens="max_tokens")
    learned.learn(message, REQUEST)
    assert learned.max_tokens == name
    learned.learn("Unrecognized request argument supplied: max_completion_tokens", REQUEST)
    learned.learn("unsupported 'max_tokens': Use 'max_completion_tokens'", REQUEST)
    assert learned.max_tokens in {name, "max_completion_tokens"}


# Nothing is left behind


def open_files():
    return len(list(FILES.iterdir()))


@pytest.mark.skipif(not FILES.is_dir(), reason="counts by /proc")
async def test_nothing_leaks_from_calls_streams_left_and_failures():
    async with Simulator(piece_delay=0.0) as sim:
        # One of each first, so that what is made once is made.
        async def some(count):
            async with of(sim) as llm:
                for number in range(count):
                    await llm.complete("hello")
                    async with llm.stream("[[words 200]]") as stream:
                        await anext(stream)
                    call = asyncio.create_task(llm.complete(f"hello {number}"))
                    await asyncio.sleep(0)
                    call.cancel()
                    await asyncio.gather(call, return_exceptions=True)
                    with pytest.raises(BadRequestError):
                        await llm.complete("hello", extra_body={"unknown": number})
            gc.collect()
            await asyncio.sleep(0.05)

        await some(3)
        files, tasks = open_files(), len(asyncio.all_tasks())
        await some(60)
        # The server may still be closing its side of the last connections.
        for _ in range(100):
            if open_files() <= files and len(asyncio.all_tasks()) <= tasks:
                break
            await asyncio.sleep(0.05)
        assert open_files() <= files
        assert len(asyncio.all_tasks()) <= tasks


async def test_answers_teach_the_limiter():
    with Simulator(rpm=120, sub_window=0) as sim:
        async with of(sim, limits=Limits(rpm=6000, sub_window=0)) as llm:
            await llm.complete("hello")
            assert llm.limiter.current_limits.rpm == 120
            json.dumps([record.as_dict() for record in sim.ledger])
