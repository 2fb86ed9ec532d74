"""Anthropic, Gemini, Bedrock and Ollama: what only one of them has, and what they are told."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from botocore import exceptions
from google.oauth2.credentials import Credentials

from tollway import LLM, Embedder, Limits, Message, RateLimiter, RetryPolicy, Tool
from tollway.errors import (
    APIConnectionError,
    AuthenticationError,
    ConfigurationError,
    ContextWindowExceededError,
    InsufficientQuotaError,
    NotFoundError,
    OverloadedError,
    RetriesExhaustedError,
)
from tollway.providers import ChatRequest, chat_provider, embedding_provider
from tollway.providers.anthropic_wire import messages_body
from tollway.providers.bedrock_wire import converse_arguments
from tollway.providers.gemini_wire import contents_and_config
from tollway.providers.ollama import address_of
from tollway.providers.tool_text import calls_in
from tollway.simulator import Faults, Simulator, reply, vector

KEY = "sk-simulated-0123456789"
AWS = {"region": "us-east-1", "aws_access_key_id": KEY, "aws_secret_access_key": "secret"}
ONCE = RetryPolicy(max_retries=0)
TEXTS = ["one", "둘", "three\nlines", "four"]
WEATHER = Tool("get_weather", "", {"type": "object", "properties": {"city": {"type": "string"}}})
MODELS = {
    "anthropic": ("anthropic/claude-haiku-4-5", {"api_key": KEY}),
    "gemini": ("gemini/gemini-3-pro", {"api_key": KEY}),
    "bedrock": ("bedrock/anthropic.claude-haiku-4-5-20251001-v1:0", AWS),
    "ollama": ("ollama/llama3.2", {}),
}


@pytest.fixture(scope="module")
def sim():
    with Simulator() as running:
        yield running


def address(sim):
    return sim.base_url.removesuffix("/v1")


def make(name, sim, **options):
    model, own = MODELS[name]
    limits = RateLimiter(Limits())
    return LLM(model, base_url=address(sim), limits=limits, **{**own, "retry": ONCE, **options})


# Keys and addresses


@pytest.mark.parametrize(
    ("model", "variable"),
    [
        ("anthropic/claude-haiku-4-5", "ANTHROPIC_API_KEY"),
        ("gemini/gemini-2.5-flash", "GEMINI_API_KEY"),
    ],
)
def test_a_missing_key_names_its_variable(monkeypatch, model, variable):
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "GOOGLE_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigurationError, match=variable):
        chat_provider(model)


def test_google_api_key_wins(monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", "second")
    monkeypatch.setenv("GOOGLE_API_KEY", "first")
    first = chat_provider("gemini/gemini-2.5-flash", api_key="first")
    assert chat_provider("gemini/gemini-2.5-flash").quota_key == first.quota_key


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("anthropic", "anthropic", "anthropic"),
        ("gemini", "google", "gemini"),
        ("bedrock", "boto3", "bedrock"),
    ],
)
async def test_a_missing_sdk_names_what_to_install(monkeypatch, sim, name, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    async with make(name, sim) as llm:
        with pytest.raises(ConfigurationError, match=rf"tollway\[{extra}\]"):
            await llm.complete("hello")


@pytest.mark.parametrize("name", MODELS)
def test_no_repr_shows_a_key(sim, name):
    llm = make(name, sim)
    for shown in (repr(llm), repr(llm.provider), repr(llm.provider.quota_key)):
        assert KEY not in shown or name == "bedrock"
        assert "secret" not in shown


def test_models_of_a_family_share_a_quota_at_anthropic():
    keys = {
        chat_provider(f"anthropic/{model}", api_key=KEY).quota_key
        for model in ("claude-sonnet-4-5", "claude-sonnet-4-6")
    }
    assert len(keys) == 1
    assert chat_provider("anthropic/claude-opus-4-5", api_key=KEY).quota_key not in keys


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        (":8080", "http://127.0.0.1:8080"),
        ("gpu.local", "http://gpu.local:11434"),
        ("gpu.local:1/ollama/", "http://gpu.local:1/ollama"),
        ("https://ollama.com", "https://ollama.com:443"),
        ("http://[::1]:5", "http://[::1]:5"),
    ],
)
def test_what_ollama_host_names(host, expected):
    assert address_of(host) == expected


# What goes back as it came


@pytest.mark.parametrize("name", ["anthropic", "bedrock", "gemini"])
async def test_an_answer_that_said_nothing_is_no_turn(sim, name):
    # As Claude's are at times, after the result of a tool; the simulator refuses an empty turn.
    said = [Message("user", "one"), Message("assistant", ""), Message("user", "two")]
    async with make(name, sim) as llm:
        assert (await llm.complete([*said, Message("assistant", " \n")])).text
        assert (await llm.complete(said)).text == (await llm.complete([said[0], said[2]])).text


@pytest.mark.parametrize(
    "extra",
    [
        {},
        # A dump of OpenAI's SDK; what another model has signed; an answer that was changed since.
        {"openai": {"refusal": None, "annotations": []}},
        {"other": {"content": [{"type": "thinking", "thinking": "x", "signature": "y"}]}},
        {"anthropic": {"content": [{"type": "text", "text": "a", "citations": []}]}},
        {"gemini": {"thought_signature": "eA=="}},
    ],
)
def test_nor_is_it_sent(extra):
    request = ChatRequest(
        (Message("user", "a"), Message("assistant", "", extra=extra), Message("user", "b"))
    )
    contents, _ = contents_and_config("gemini-3-pro", request, thoughts=False)
    assert contents == [{"role": "user", "parts": [{"text": "a"}, {"text": "b"}]}]
    (turn,) = converse_arguments("m", request)["messages"]
    assert turn == {"role": "user", "content": [{"text": "a"}, {"text": "b"}]}
    (turn,) = messages_body("m", request, 9, set())["messages"]
    assert [block["text"] for block in turn["content"]] == ["a", "b"]


def test_a_thought_alone_is_an_answer():
    thought = {"type": "thinking", "thinking": "x", "signature": "y"}
    said = Message("assistant", "", extra={"anthropic": {"content": [thought]}})
    request = ChatRequest((Message("user", "a"), said, Message("user", "b")))
    assert messages_body("m", request, 9, set())["messages"][1]["content"] == [thought]


@pytest.mark.parametrize("name", ["anthropic", "bedrock", "gemini"])
@pytest.mark.parametrize("is_stream", [False, True])
async def test_what_is_signed_goes_back_with_the_message(sim, name, is_stream):
    # The simulator refuses a signature that is not its own, and a call of gemini-3 without one.
    asked = Message("user", '[[think first look]] [[call get_weather {"city": "Oslo"}]]')
    async with make(name, sim) as llm:
        if is_stream:
            async with llm.stream([asked], tools=[WEATHER]) as stream:
                (*_, last) = [chunk async for chunk in stream]
            answer = last.completion
        else:
            answer = await llm.complete([asked], tools=[WEATHER])
        assert answer.reasoning == "first look"
        (call,) = answer.tool_calls
        assert json.loads(call.arguments) == {"city": "Oslo"}
        assert answer.extra or call.extra
        result = Message("tool", "rain", tool_call_id=call.id)
        answer = await llm.complete([asked, answer.message, result], tools=[WEATHER])
        assert answer.text == "results: rain"


async def test_a_conversation_goes_on_with_another_provider(sim):
    messages = [Message("user", '[[think a]] [[call get_weather {"city": "Oslo"}]]')]
    async with make("anthropic", sim) as llm:
        answer = await llm.complete(messages, tools=[WEATHER])
    result = Message("tool", "rain", tool_call_id=answer.tool_calls[0].id)
    for name in ("bedrock", "ollama"):
        async with make(name, sim) as llm:
            told = await llm.complete([*messages, answer.message, result], tools=[WEATHER])
            assert told.text == "results: rain"


@pytest.mark.parametrize("name", ["bedrock", "ollama"])
async def test_reasoning_stands_apart(sim, name):
    async with make(name, sim) as llm:
        answer = await llm.complete("[[think step by step]] [[say so]]")
    assert (answer.reasoning, answer.text) == ("step by step", "so")


def marked(name, mark):
    system = Message("system", "be brief", extra={name: mark})
    return ChatRequest([system, Message("user", "one", extra={name: mark}), Message("user", "two")])


async def test_the_conversation_is_cached_up_to_where_it_is_marked(sim):
    mark = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    body = messages_body("m", marked("anthropic", mark), 10, frozenset())
    assert body["system"] == [{"type": "text", "text": "be brief", **mark}]
    assert [block.get("cache_control") for block in body["messages"][0]["content"]] == [
        mark["cache_control"],
        None,
    ]
    point = {"cachePoint": {"type": "default"}}
    arguments = converse_arguments("m", marked("bedrock", point))
    assert arguments["system"] == [{"text": "be brief"}, point]
    assert arguments["messages"][0]["content"] == [{"text": "one"}, point, {"text": "two"}]
    for name, given in (("anthropic", mark), ("bedrock", point)):
        async with make(name, sim) as llm:
            answer = await llm.complete(marked(name, given).messages)
            assert answer.text == reply(("system", "be brief"), ("user", "one\n\ntwo"))


# Anthropic


async def test_a_refused_default_is_left_out_from_then_on():
    with Simulator(refuses={"temperature"}) as sim:
        async with make("anthropic", sim, retry=RetryPolicy(max_retries=1)) as llm:
            assert (await llm.complete("hello")).text
            assert (await llm.complete("hello")).text
            assert [record.status for record in sim.ledger] == [400, 200, 200]
            with pytest.raises(ConfigurationError, match="temperature"):
                await llm.complete("hello", temperature=0.5)


async def test_overload_is_not_a_rate_limit():
    with Simulator(faults=Faults({"503": 1.0})) as sim:
        async with make("anthropic", sim) as llm:
            with pytest.raises(RetriesExhaustedError) as caught:
                await llm.complete("hello")
    assert isinstance(caught.value.__cause__, OverloadedError)
    assert caught.value.__cause__.status == 529


async def test_cached_tokens_are_within_the_input(sim):
    for name in ("anthropic", "bedrock", "gemini"):
        async with make(name, sim) as llm:
            counted = (await llm.complete("hello " * 3000)).usage
        assert 1024 <= counted.cached_tokens < counted.input_tokens


@pytest.mark.parametrize("name", ["anthropic", "bedrock", "gemini"])
async def test_tokens_by_the_provider_s_own_count(sim, name):
    async with make(name, sim) as llm:
        answer = await llm.complete("hello there")
        request = ChatRequest([Message("user", "hello there")])
        counted = await llm.provider.count_tokens(request)
        assert counted == answer.usage.input_tokens
        local = await llm.count_tokens("hello there")
        assert local.estimated
        asked = await llm.count_tokens("hello there", ask_provider=True)
        assert (asked, asked.estimated) == (counted, False)
        # A longer one: with system prompt and tools, as it would be sent.
        long = {"system_prompt": "be brief", "tools": [WEATHER]}
        assert await llm.count_tokens("hello there", **long) > local


async def test_a_count_is_retried_and_never_asked_for_where_nobody_counts(sim):
    # Nobody listens there.
    nowhere = LLM(
        "anthropic/claude-haiku-4-5",
        api_key=KEY,
        base_url="http://127.0.0.1:1",
        retry=RetryPolicy(max_retries=2, base_delay=0.001),
    )
    async with nowhere as llm:
        with pytest.raises(RetriesExhaustedError) as caught:
            await llm.count_tokens("hello", ask_provider=True)
    assert len(caught.value.attempts) == 3
    sent = len(sim.ledger)
    async with make("ollama", sim) as llm:
        assert await llm.count_tokens("hello") > 0
        with pytest.raises(ConfigurationError, match="no endpoint that counts"):
            await llm.count_tokens("hello", ask_provider=True)
    assert len(sim.ledger) == sent


# Gemini


async def test_a_day_s_quota_is_not_waited_for():
    with Simulator(faults=Faults({"insufficient_quota": 1.0})) as sim:
        async with make("gemini", sim, retry=RetryPolicy(max_retries=3)) as llm:
            with pytest.raises(InsufficientQuotaError):
                await llm.complete("hello")
        assert len(sim.ledger) == 1


async def test_the_wait_that_gemini_asks_for_is_in_the_body():
    with Simulator(faults=Faults({"429": 1.0}, retry_after=7.5)) as sim:
        async with make("gemini", sim) as llm:
            with pytest.raises(RetriesExhaustedError) as caught:
                await llm.complete("hello")
    assert caught.value.__cause__.retry_after == 7.5


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (exceptions.EndpointConnectionError(endpoint_url="x"), APIConnectionError),
        (exceptions.SSLError(endpoint_url="x", error="y"), APIConnectionError),
        (exceptions.UnauthorizedSSOTokenError(), AuthenticationError),
        (exceptions.LoginRefreshRequired(), AuthenticationError),
        (exceptions.PartialCredentialsError(provider="x", cred_var="y"), AuthenticationError),
        (exceptions.InvalidConfigError(error_msg="x"), ConfigurationError),
    ],
)
async def test_what_boto3_raises_is_an_error_of_ours(error, kind):
    def converse(**_):
        raise error

    client = SimpleNamespace(converse=converse, converse_stream=converse)
    provider = chat_provider("bedrock/m", client=client)
    request = ChatRequest((Message("user", "hello"),))
    for call in (provider.complete(request), anext(provider.stream(request))):
        with pytest.raises(kind, match="bedrock/m"):
            await call


# Ollama


async def test_a_prompt_over_the_window_is_an_error_and_not_sent(sim):
    sent = len(sim.ledger)
    async with make("ollama", sim, num_ctx=100) as llm:
        with pytest.raises(ContextWindowExceededError, match="num_ctx=100"):
            await llm.complete("many words " * 200)
    assert len(sim.ledger) == sent


async def test_a_prompt_that_an_old_server_cut_in_silence_is_an_error():
    with Simulator(refuses={"truncate"}) as sim:
        async with make("ollama", sim, num_ctx=100) as llm:
            with pytest.raises(ContextWindowExceededError, match="was cut by the server"):
                await llm.complete("word " * 105)
        assert [record.status for record in sim.ledger] == [200]


async def test_health_and_models(sim):
    async with make("ollama", sim) as llm:
        health = await llm.provider.health()
    assert health.has_model
    assert "nomic-embed-text:latest" in health.models
    missing = chat_provider("ollama/missing-model", base_url=address(sim))
    assert not (await missing.health()).has_model
    async with LLM(missing, retry=ONCE) as llm:
        with pytest.raises(NotFoundError, match="ollama pull missing-model"):
            await llm.complete("hello")


async def test_ollama_has_no_choice_of_tools(sim):
    async with make("ollama", sim) as llm:
        with pytest.raises(ConfigurationError, match="tool_choice"):
            await llm.complete("hello", tools=[WEATHER], tool_choice="required")


# Embeddings


EMBEDDERS = [
    ("gemini/gemini-embedding-001", {"api_key": KEY}, 3072),
    ("gemini/gemini-embedding-001", {"api_key": KEY, "dimensions": 64}, 64),
    ("ollama/nomic-embed-text", {}, 768),
    ("bedrock/amazon.titan-embed-text-v2:0", AWS, 1024),
    ("bedrock/amazon.titan-embed-text-v2:0", {**AWS, "dimensions": 256}, 256),
    ("bedrock/cohere.embed-multilingual-v3", AWS, 1024),
]


@pytest.mark.parametrize(("model", "options", "size"), EMBEDDERS)
async def test_each_text_has_its_vector_of_unit_length(sim, model, options, size):
    embedder = Embedder(model, base_url=address(sim), limits=Limits(), retry=ONCE, **options)
    async with embedder:
        vectors = await embedder.embed(TEXTS)
    assert (vectors.shape, vectors.dtype) == ((4, size), np.float32)
    for text, row in zip(TEXTS, vectors, strict=True):
        assert row == pytest.approx(vector(text, size), abs=1e-6)
        assert np.linalg.norm(row) == pytest.approx(1, abs=1e-5)


async def test_vertex_embeds_one_text_a_request(sim):
    provider = embedding_provider(
        "gemini/gemini-embedding-001",
        vertexai=True,
        project="p",
        location="l",
        credentials=Credentials(KEY),
        base_url=address(sim),
        task_type="RETRIEVAL_QUERY",
        dimensions=32,
    )
    assert provider.rules.max_texts == 1
    await provider.open()
    answer = await provider.embed(["one"])
    assert answer.vectors[0] == pytest.approx(vector("one", 32), abs=1e-6)
    assert not answer.usage.estimated
    await provider.aclose()


@pytest.mark.parametrize(("model", "options", "size"), EMBEDDERS)
@pytest.mark.parametrize("fault", ["nan_row", "null_row"])
async def test_a_row_of_no_use_is_named(model, options, size, fault):
    with Simulator(faults=Faults({fault: 1.0})) as sim:
        provider = embedding_provider(model, base_url=address(sim), **options)
        await provider.open()
        texts = TEXTS[: provider.rules.max_texts]
        if provider.rules.max_texts > 1 or fault == "nan_row":
            answer = await provider.embed(texts)
            assert len(answer.bad_rows) == 1
            bad = answer.bad_rows[0][0]
            assert np.isnan(answer.vectors[bad]).all()
            assert np.isfinite(np.delete(answer.vectors, bad, 0)).all()
        else:
            answer = await provider.embed(texts)
            assert [number for number, _ in answer.bad_rows] == [0]
        await provider.aclose()


async def test_a_wrong_key_for_embeddings():
    with Simulator(api_keys={"right"}) as sim:
        for model, options in {model: options for model, options, _ in EMBEDDERS}.items():
            given = options or {"api_key": KEY}
            embedder = Embedder(model, base_url=address(sim), limits=Limits(), **given)
            async with embedder:
                with pytest.raises(AuthenticationError) as caught:
                    await embedder.embed(["one"])
            assert KEY not in str(caught.value)


# Hugging Face: the rest is in tests/huggingface


def test_a_model_on_this_machine_without_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'tollway\[huggingface\]'"):
        LLM("huggingface/some/model")


@pytest.mark.parametrize(
    ("text", "rest", "called"),
    [
        ('a <tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call> b', "a  b", ['{"x": 1}']),
        ('[TOOL_CALLS] [{"name": "f", "arguments": {}}]', "", ["{}"]),
        ('<|python_tag|>{"name": "f", "parameters": {"x": "}"}}', "", ['{"x": "}"}']),
        ('{"name": "f", "parameters": {}}', "", ["{}"]),
        ('say {"name": "f", "parameters": {}}', 'say {"name": "f", "parameters": {}}', []),
        (
            '<tool_call>{"name": "g", "arguments": {}}',
            '<tool_call>{"name": "g", "arguments": {}}',
            [],
        ),
        ('<tool_call>{"name": "f", "argu', '<tool_call>{"name": "f", "argu', []),
        ("[1, 2]", "[1, 2]", []),
        ("<tool_call>" * 3 + "[" * 9999, "<tool_call>" * 3 + "[" * 9999, []),
    ],
)
def test_calls_of_tools_in_a_text(text, rest, called):
    kept, calls = calls_in(text, {"f"})
    assert kept == rest
    assert [call.arguments for call in calls] == called
    assert len({call.id for call in calls}) == len(calls)
