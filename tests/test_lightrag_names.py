"""LightRAG's own functions under their own names, and its environment variables."""

from __future__ import annotations

import inspect
import os

import numpy as np
import pytest

import lightrag_fakes
from lightrag_fakes import Config, Tracker
from tollway import errors
from tollway.integrations import lightrag
from tollway.integrations.lightrag import completions, embeddings
from tollway.integrations.lightrag.shared import shared_embedder, shared_llm
from tollway.simulator import Simulator
from tollway.simulator.answers import reply

KEY = "sk-simulated-0123456789"
SAID = reply(("system", "s"), ("user", "hello"))
CLAUDE = "us.anthropic.claude-opus-4-5-20251101-v1:0"
AWS = {"aws_region": "us-east-1", "aws_access_key_id": KEY, "aws_secret_access_key": "secret"}


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    words = ("OPENAI", "ANTHROPIC", "GEMINI", "GOOGLE", "OLLAMA", "AWS", "LLM_", "EMBEDDING_")
    for name in list(os.environ):
        if any(word in name for word in words):
            monkeypatch.delenv(name)


@pytest.fixture
async def sim():
    async with Simulator() as simulator:
        yield simulator
        await lightrag.aclose()


@pytest.fixture
def root(sim):
    return sim.base_url.removesuffix("/v1")


def calls(root):
    """Name of a function: its positional arguments before the prompt, and its options."""
    named = {"hashing_kv": Config("gpt-4o")}
    where = {"base_url": f"{root}/v1", "api_key": KEY}
    at_root = {"base_url": root, "api_key": KEY}
    bedrock = {"endpoint_url": root, **AWS}
    return {
        "openai_complete_if_cache": (("gpt-4o",), where),
        "openai_complete": ((), {**where, **named}),
        "gpt_4o_complete": ((), where),
        "gpt_4o_mini_complete": ((), where),
        "nvidia_openai_complete": ((), where),
        "azure_openai_complete_if_cache": (("my-gpt",), at_root),
        "azure_openai_complete": ((), at_root),
        "anthropic_complete_if_cache": (("claude-opus-4-5",), at_root),
        "anthropic_complete": ((), {**at_root, "hashing_kv": Config("claude-opus-4-5")}),
        "claude_3_opus_complete": ((), at_root),
        "claude_3_sonnet_complete": ((), at_root),
        "claude_3_haiku_complete": ((), at_root),
        "gemini_complete_if_cache": (("gemini-2.5-flash",), at_root),
        "gemini_model_complete": ((), {**at_root, "hashing_kv": Config("gemini-2.5-flash")}),
        "bedrock_complete_if_cache": ((CLAUDE,), {**bedrock, "api_key": "ignored"}),
        "bedrock_complete": ((), {**bedrock, "hashing_kv": Config(CLAUDE)}),
        "ollama_model_complete": ((), {"host": root, "hashing_kv": Config("llama3.2")}),
    }


NAMES = sorted(calls(""))


def test_every_name_is_tried():
    assert sorted(name for name in lightrag.__all__ if "_complete" in name) == NAMES


# The SDK says of the models that LightRAG names that they come to their end.
@pytest.mark.filterwarnings("ignore:The model:DeprecationWarning")
@pytest.mark.parametrize("name", NAMES)
async def test_every_completion(sim, root, name):
    before, options = calls(root)[name]
    function, tracker = getattr(lightrag, name), Tracker()
    said = await function(*before, "hello", "s", token_tracker=tracker, **options)
    assert said == SAID
    assert tracker.seen[0]["total_tokens"] > 0
    pieces = await function(*before, "hello", system_prompt="s", stream=True, **options)
    assert "".join([piece async for piece in pieces]) == SAID
    history = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    said = await function(*before, "hello", history_messages=history, **options)
    assert said == reply(("user", "a"), ("assistant", "b"), ("user", "hello"))
    json_object = {"type": "json_object"}
    answer = await function(*before, "json", response_format=json_object, **options)
    assert answer.startswith("{")


@pytest.mark.parametrize("name", completions.__all__)
def test_each_function_says_whom_it_asks(name):
    function = getattr(lightrag, name)
    assert inspect.iscoroutinefunction(function)
    assert function.__name__
    assert function.__doc__.startswith("Answer through ")


async def test_the_environment_of_azure_counts(sim, root, monkeypatch):
    for name, value in (
        ("AZURE_OPENAI_DEPLOYMENT", "deployed"),
        ("LLM_BINDING_HOST", root),
        ("LLM_BINDING_API_KEY", KEY),
        ("LLM_MODEL", "gpt-4o"),
    ):
        monkeypatch.setenv(name, value)
    assert await lightrag.azure_openai_complete("hello", "s") == SAID
    options = {"azure_endpoint": root, "api_key": KEY, "api_version": "2024-08-01-preview"}
    llm = shared_llm("azure/deployed", base_model="gpt-4o", **options)
    assert llm.limiter.snapshot()["rpm"].used == 1


async def test_options_of_ollama_and_gemini_are_those_of_a_call(sim, root):
    ollama = {"host": root, "hashing_kv": Config("llama3.2")}
    options = {"num_ctx": 4096, "num_predict": 3, "top_k": 5}
    said = await lightrag.ollama_model_complete("[[words 9]]", options=options, **ollama)
    assert said.startswith("word0")
    assert len(said) < len("word0 word1 word2")
    with pytest.raises(errors.ContextWindowError):
        await lightrag.ollama_model_complete("a " * 9000, options={"num_ctx": 2048}, **ollama)
    gemini = {"base_url": root, "api_key": KEY}
    said = await lightrag.gemini_complete_if_cache(
        "gemini-2.5-flash", "[[words 9]]", generation_config={"max_output_tokens": 3}, **gemini
    )
    assert len(said) < len("word0 word1 word2")
    with pytest.raises(errors.ConfigurationError, match="safety_settings"):
        await lightrag.gemini_complete_if_cache(
            "gemini-2.5-flash", "a", generation_config={"safety_settings": []}, **gemini
        )


async def test_one_client_and_one_limiter_for_all_calls(sim):
    where = {"base_url": sim.base_url, "api_key": KEY}
    for _ in range(3):
        await lightrag.gpt_4o_complete("hello", **where)
        await lightrag.openai_complete_if_cache("gpt-4o", "hello", **where)
    llm = shared_llm("openai/gpt-4o", **where)
    assert len(sim.ledger) == 6
    assert shared_llm("openai/gpt-4o", base_url=sim.base_url, api_key=KEY, headers=None) is llm
    assert shared_llm("openai/gpt-4o", headers={"a": "b"}, **where) is not llm
    assert shared_llm("openai/gpt-4o", headers={"a": "b"}, **where) is shared_llm(
        "openai/gpt-4o", headers={"a": "b"}, **where
    )


async def test_what_lightrag_gives_to_the_client(sim):
    where = {"base_url": sim.base_url, "api_key": KEY}
    configs = {"default_headers": {"x-simulator-fault": "content_filter"}, "max_retries": 5}
    with pytest.raises(errors.ContentFilterError):
        await lightrag.gpt_4o_complete("hello", openai_client_configs=configs, **where)
    with pytest.raises(errors.ConfigurationError, match="organization"):
        await lightrag.gpt_4o_complete("a", openai_client_configs={"organization": "o"}, **where)


async def test_the_model_that_lightrag_was_made_with_is_needed():
    for given in ({}, {"hashing_kv": Config("")}, {"hashing_kv": object()}):
        with pytest.raises(errors.ConfigurationError, match="llm_model_name"):
            await lightrag.openai_complete("hello", **given)


# Embeddings

TEXTS = ["one", "two", "one"]


def embeds(sim, root):
    at_root = {"base_url": root, "api_key": KEY}
    return {
        "openai_embed": {"base_url": sim.base_url, "api_key": KEY},
        "azure_openai_embed": at_root,
        "gemini_embed": at_root,
        "ollama_embed": {"host": root},
        "bedrock_embed": {"endpoint_url": root, **AWS},
    }


@pytest.mark.parametrize("name", sorted(embeddings.DECLARED))
async def test_every_embedding(sim, root, name, monkeypatch):
    utils = lightrag_fakes.install(monkeypatch)
    monkeypatch.delitem(vars(lightrag), name, raising=False)
    made = getattr(lightrag, name)
    assert isinstance(made, utils.EmbeddingFunc)
    said = (made.embedding_dim, made.max_token_size, made.model_name)
    assert said == embeddings.DECLARED[name]
    options = embeds(sim, root)[name]
    vectors = await made(TEXTS, **options)
    assert vectors.dtype == np.float32
    assert len(vectors) == 3
    assert np.array_equal(vectors[0], vectors[2])
    assert not np.array_equal(vectors[0], vectors[1])
    assert (await made.func(TEXTS[:2], context="query", **options)).shape == vectors[:2].shape
    monkeypatch.delitem(vars(lightrag), name)


async def test_what_embeddings_are_asked_for(sim, root):
    where = {"base_url": sim.base_url, "api_key": KEY}
    plain = await embeddings.openai_embed(["a b", "q: a", "d: a"], **where)
    prefixed = {"query_prefix": "q: ", "document_prefix": "d: ", **where}
    tracker = Tracker()
    asked = await embeddings.openai_embed(["a"], context="query", token_tracker=tracker, **prefixed)
    told = await embeddings.openai_embed(["a"], **prefixed)
    assert np.array_equal(np.concatenate([asked, told]), plain[1:])
    assert tracker.seen[0]["prompt_tokens"] == 1
    short = await embeddings.openai_embed(["a b c d e f"], max_token_size=2, **where)
    assert np.array_equal(short, plain[:1])
    assert (await embeddings.openai_embed(["a"], embedding_dim=4, **where)).shape == (1, 4)
    long = await embeddings.ollama_embed(["word " * 500], max_token_size=10, host=root)
    assert len(long) == 1


async def test_a_named_task_of_gemini_holds_for_queries_too(root, monkeypatch):
    seen = []

    async def spy(embedder, texts, context, tracker=None):
        seen.append((context, embedder.provider.rules.input_type))

    monkeypatch.setattr(embeddings, "vectors_of", spy)
    gemini = {"base_url": root, "api_key": KEY}
    for given in ({}, {"context": "query"}, {"context": "query", "task_type": "CLUSTERING"}):
        await embeddings.gemini_embed(["a"], **given, **gemini)
    assert [context for context, _ in seen] == ["document", "query", "document"]
    assert seen[2][1] == "CLUSTERING"


# The environment


def set_all(monkeypatch, **variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


async def test_from_the_environment(sim, root, monkeypatch):
    lightrag_fakes.install(monkeypatch)
    set_all(
        monkeypatch,
        LLM_BINDING="openai",
        LLM_BINDING_HOST=sim.base_url,
        LLM_BINDING_API_KEY=KEY,
        LLM_MODEL="gpt-4o",
        EMBEDDING_BINDING="ollama",
        EMBEDDING_BINDING_HOST=root,
        EMBEDDING_MODEL="nomic-embed-text",
        EMBEDDING_DIM="768",
        EMBEDDING_TOKEN_LIMIT="2048",
    )
    given = lightrag.from_env()
    assert given["llm_model_name"] == "gpt-4o"
    assert await given["llm_model_func"]("hello", "s") == SAID
    made = given["embedding_func"]
    assert (made.embedding_dim, made.max_token_size) == (768, 2048)
    assert (await made(["a"])).shape == (1, 768)
    assert given["tokenizer"].encode("a b")


async def test_from_the_environment_of_azure(sim, root, monkeypatch):
    lightrag_fakes.install(monkeypatch)
    for kind, deployment in (("LLM", "AZURE_OPENAI"), ("EMBEDDING", "AZURE_EMBEDDING")):
        set_all(
            monkeypatch,
            **{
                f"{kind}_BINDING": "azure_openai",
                f"{kind}_BINDING_HOST": root,
                f"{kind}_BINDING_API_KEY": KEY,
                f"{deployment}_DEPLOYMENT": "deployed",
            },
        )
    set_all(monkeypatch, LLM_MODEL="gpt-4o", EMBEDDING_DIM="4", EMBEDDING_SEND_DIM="true")
    given = lightrag.from_env()
    assert await given["llm_model_func"]("hello", "s") == SAID
    assert (await given["embedding_func"](["a"])).shape == (1, 4)


def test_nothing_set_is_ollama_as_in_lightrags_server(monkeypatch):
    lightrag_fakes.install(monkeypatch)
    given = lightrag.from_env()
    assert given["llm_model_name"] == "mistral-nemo:latest"
    assert given["embedding_func"].model_name == "bge-m3:latest"
    assert given["embedding_func"].embedding_dim == 1024


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"LLM_BINDING": "lollms"}, "LLM_BINDING=lollms"),
        ({"EMBEDDING_BINDING": "jina"}, "EMBEDDING_BINDING=jina"),
        ({"EMBEDDING_BINDING": "anthropic"}, "no embeddings"),
        ({"EMBEDDING_DIM": "many"}, "EMBEDDING_DIM=many"),
        ({"EMBEDDING_MODEL": "mxbai"}, "set EMBEDDING_DIM"),
        ({"LLM_BINDING": "anthropic", "LLM_MODEL": "claude"}, "ANTHROPIC_API_KEY"),
    ],
)
def test_what_the_environment_cannot_say(monkeypatch, variables, told):
    lightrag_fakes.install(monkeypatch)
    set_all(monkeypatch, **variables)
    with pytest.raises(errors.ConfigurationError, match=told):
        lightrag.from_env()


def test_no_key_is_shown(monkeypatch):
    lightrag_fakes.install(monkeypatch)
    set_all(monkeypatch, LLM_BINDING="openai", LLM_MODEL="gpt-4o", LLM_BINDING_API_KEY=KEY)
    given = lightrag.from_env()
    llm = shared_llm("openai/gpt-4o", api_key=KEY)
    embedder = shared_embedder("openai/text-embedding-3-small", api_key=KEY)
    assert KEY not in repr([given, llm, embedder])
