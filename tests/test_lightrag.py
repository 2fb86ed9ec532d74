"""LightRAG's constructor's arguments over tollway, without LightRAG (that: test_lightrag_real)."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import subprocess
import sys

import numpy as np
import pytest

import lightrag_fakes
from chat_fakes import EVERYTHING, llm_of, said
from lightrag_fakes import Config, Tracker
from tollway import Embedder, ImagePart, Message, TextPart, Usage, errors, get_encoding
from tollway.integrations import lightrag
from tollway.integrations.lightrag import Keywords, embedding_func, llm_model_func, tokenizer
from tollway.types import Chunk

PNG = b"\x89PNG\r\n\x1a\nand more"
USED = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


def function_of(*script, **options):
    llm, provider = llm_of(*script, **options)
    return llm_model_func(llm), provider


# Completions


async def test_a_call_as_lightrag_makes_it():
    function, provider = function_of(said("fine"))
    history = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    tracker = Tracker()
    answer = await function(
        "c",
        system_prompt="s",
        history_messages=history,
        hashing_kv=Config("x"),
        enable_cot=True,
        keyword_extraction=False,
        stream=False,
        token_tracker=tracker,
        temperature=0.5,
        max_completion_tokens=9,
        timeout=0,
        top_logprobs=3,
        extra_body={"n": 1},
    )
    assert (answer, tracker.seen) == ("fine", [USED])
    [request] = provider.requests
    assert [(each.role, each.content) for each in request.messages] == [
        ("system", "s"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
    ]
    assert (request.temperature, request.max_tokens, request.timeout) == (0.5, 9, 600.0)
    assert request.extra_body == {"top_logprobs": 3, "n": 1}


async def test_a_timeout_and_messages_of_the_callers_own():
    function, provider = function_of(said("fine"))
    await function("c", "s", messages=[{"role": "user", "content": "own"}], timeout=7)
    [request] = provider.requests
    assert (request.messages, request.timeout) == ((Message("user", "own"),), 7)


async def test_lower_priorities_of_lightrag_go_first(monkeypatch):
    llm, _ = llm_of(said("fine"))
    seen = []
    complete = llm._path.complete
    monkeypatch.setattr(
        llm._path, "complete", lambda *a, **k: (seen.append(k["priority"]), complete(*a, **k))[1]
    )
    function = llm_model_func(llm)
    for priority in (5, 10):
        await function("a", _priority=priority)
    await function("a")
    assert seen == [-5, -10, 0]


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}


@pytest.mark.parametrize(
    ("asked", "schema"),
    [
        ({"response_format": {"type": "json_object"}}, None),
        ({"entity_extraction": True}, None),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": SCHEMA, "strict": True},
                }
            },
            SCHEMA,
        ),
        ({"response_format": SCHEMA}, SCHEMA),
    ],
)
async def test_json_is_mended_and_asked_for_again(asked, schema):
    function, provider = function_of(said("no"), said("```json\n{'a': 'é',}\n```"))
    tracker = Tracker()
    answer = await function("json please", token_tracker=tracker, **asked)
    assert answer == '{"a": "é"}'
    assert [each.response_format.schema for each in provider.requests] == [schema] * 2
    assert tracker.seen[0]["prompt_tokens"] == 14


async def test_text_is_no_format():
    function, provider = function_of(said("fine"))
    assert await function("a", response_format={"type": "text"}) == "fine"
    assert provider.requests[0].response_format is None


async def test_the_keywords_of_a_query():
    told = {"high_level_keywords": ["x"], "low_level_keywords": []}
    function, provider = function_of(said('{"high_level_keywords": []}'), said(json.dumps(told)))
    assert json.loads(await function("q", keyword_extraction=True)) == told
    assert provider.requests[0].response_format.schema["required"] == list(told)


async def test_json_that_never_comes_is_an_error_that_lightrag_can_copy():
    function, _ = function_of(said("no json"))
    tracker = Tracker()
    with pytest.raises(errors.BadResponseError) as caught:
        await function("a", response_format={"type": "json_object"}, token_tracker=tracker)
    assert isinstance(caught.value.__cause__, errors.StructuredOutputError)
    assert str(type(caught.value)(f"[LLM func] {caught.value}")).startswith("[LLM func]")
    assert tracker.seen[0]["prompt_tokens"] == 28


async def test_an_answer_that_is_cut_short_is_marked_so_that_it_is_not_cached(monkeypatch):
    function, _ = function_of(said("half an", finish_reason="length"))
    for asked in ({}, {"entity_extraction": True}):
        assert type(await function("a", **asked)) is str
    utils = lightrag_fakes.install(monkeypatch)
    for asked in ({}, {"entity_extraction": True}):
        answer = await function("a", **asked)
        assert isinstance(answer, utils.TruncatedResponse)
        assert answer == "half an"


@pytest.mark.parametrize(
    ("finish", "kind"),
    [
        ("stop", errors.BadResponseError),
        ("length", errors.BadResponseError),
        ("content_filter", errors.ContentFilterError),
        ("refusal", errors.ContentFilterError),
    ],
)
async def test_an_answer_is_never_empty(finish, kind):
    function, _ = function_of(said(" ", finish_reason=finish))
    with pytest.raises(kind, match=finish):
        await function("a")


async def test_thoughts_are_apart_and_shown_where_they_are_all_there_is():
    function, _ = function_of(said("fine", reasoning="hm"))
    assert await function("a", enable_cot=True) == "fine"
    function, _ = function_of(said("", reasoning="hm"))
    assert await function("a", enable_cot=True) == "<think>hm</think>"
    with pytest.raises(errors.BadResponseError):
        await function("a")


USAGE = Usage(7, 1, output_tokens=5)
STREAM = [Chunk(reasoning="h"), Chunk(reasoning="m"), "one ", "two", Chunk(finish_reason="stop")]
STREAM.append(Chunk(usage=USAGE))


@pytest.mark.parametrize(
    ("shown", "expected"),
    [(False, ["one ", "two"]), (True, ["<think>h", "m", "</think>one ", "two"])],
)
async def test_streams(shown, expected):
    function, provider = function_of(STREAM)
    tracker = Tracker()
    pieces = await function("a", stream=True, enable_cot=shown, token_tracker=tracker)
    assert [piece async for piece in pieces] == expected
    assert tracker.seen == [USED]
    assert provider.closed == 1


async def test_a_stream_of_thoughts_alone_closes_its_tag_and_one_that_is_left_its_request():
    only = [Chunk(reasoning="hm"), Chunk(finish_reason="stop")]
    function, _ = function_of(only)
    pieces = await function("a", stream=True, enable_cot=True)
    assert [piece async for piece in pieces] == ["<think>hm", "</think>"]
    function, provider = function_of(STREAM)
    pieces = await function("a", stream=True)
    assert await anext(pieces) == "one "
    await pieces.aclose()
    assert provider.closed == 1


async def test_images():
    function, provider = function_of(said("a cat"), capabilities=EVERYTHING)
    encoded = base64.b64encode(PNG).decode()
    url = f"data:image/png;base64,{encoded}"
    given = [encoded, url, {"base64": encoded, "mime_type": "image/webp"}]
    assert await function("what?", image_inputs=given) == "a cat"
    assert provider.requests[0].messages[0].content == (
        TextPart("what?"),
        ImagePart(data=PNG, media_type="image/png"),
        ImagePart(url),
        ImagePart(data=PNG, media_type="image/webp"),
    )
    for wrong in (3, "not base64!", {}):
        with pytest.raises(errors.ConfigurationError, match="image"):
            await function("what?", image_inputs=[wrong])


def test_lightrag_can_copy_the_function():
    function, _ = function_of(said("fine"))
    assert copy.deepcopy(function) is function


# Keywords


async def test_keywords_alone():
    answer = {
        "high_level_keywords": [" notes ", "notes", ""],
        "low_level_keywords": ["Ada", "Babbage"],
    }
    llm, provider = llm_of(said(json.dumps(answer)))
    expected = Keywords(("notes",), ("Ada", "Babbage"))
    assert await lightrag.extract_keywords(llm, "Who wrote the notes?") == expected
    assert lightrag.extract_keywords_sync(llm, "q", language="French") == expected
    first, second = (each.messages[0].content for each in provider.requests)
    assert "language of the question" in first
    assert "in French" in second


# Embeddings


async def test_lightrags_embedding_func(monkeypatch):
    utils = lightrag_fakes.install(monkeypatch)
    embedder = Embedder(
        "openai/text-embedding-3-small",
        embedding_func=lambda texts: np.array([[len(text), 0.5] for text in texts]),
        dimensions=2,
        max_text_tokens=100,
    )
    made, tracker = embedding_func(embedder), Tracker()
    assert isinstance(made, utils.EmbeddingFunc)
    assert (made.embedding_dim, made.max_token_size) == (2, 100)
    assert (made.model_name, made.supports_asymmetric) == ("text-embedding-3-small", True)
    vectors = await made(["a", "bb"], token_tracker=tracker)
    assert vectors.tolist() == [[1.0, 0.5], [2.0, 0.5]]
    assert (await made(["a"], context="query")).tolist() == [[1.0, 0.5]]
    assert (await made([], context="query")).shape == (0, 2)
    assert tracker.seen == [{"prompt_tokens": 2, "completion_tokens": 0, "total_tokens": 2}]
    assert copy.deepcopy(made.func) is made.func


async def test_queries_are_embedded_as_queries(monkeypatch):
    lightrag_fakes.install(monkeypatch)

    def function(texts, context):
        return [[len(text), float(context == "query")] for text in texts]

    made = embedding_func(Embedder(embedding_func=function), embedding_dim=2)
    assert (await made(["a", "bb"])).tolist() == [[1.0, 0.0], [2.0, 0.0]]
    assert (await made(["a", "bb"], context="query")).tolist() == [[1.0, 1.0], [2.0, 1.0]]


def test_vectors_of_unknown_length_are_to_be_told(monkeypatch):
    lightrag_fakes.install(monkeypatch)
    embedder = Embedder(embedding_func=lambda texts: [[1.0]] * len(texts))
    with pytest.raises(errors.ConfigurationError, match="embedding_dim"):
        embedding_func(embedder)
    made = embedding_func(embedder, embedding_dim=1, max_token_size=5)
    assert (made.embedding_dim, made.max_token_size) == (1, 5)


def test_an_older_lightrag_says_less(monkeypatch):
    from dataclasses import make_dataclass  # noqa: PLC0415

    utils = lightrag_fakes.install(monkeypatch)
    names = ["embedding_dim", "max_token_size", "func"]
    monkeypatch.setattr(utils, "EmbeddingFunc", make_dataclass("EmbeddingFunc", names))
    embedder = Embedder(embedding_func=lambda texts: [[1.0]] * len(texts), dimensions=1)
    assert embedding_func(embedder).embedding_dim == 1


# The tokenizer


def test_the_tokenizer_is_a_built_in_encoding(monkeypatch):
    lightrag_fakes.install(monkeypatch)
    made, encoding = tokenizer(), get_encoding("o200k_base")
    assert made.model_name == "gpt-4o-mini"
    text = "a <|endoftext|> in a document 한국어"
    assert made.encode(text) == encoding.encode_ordinary(text)
    assert made.decode(made.encode(text)) == text
    assert copy.deepcopy(made).encode(text) == made.encode(text)
    assert tokenizer("gpt-4").encode(text) == get_encoding("cl100k_base").encode_ordinary(text)
    with pytest.raises(errors.ConfigurationError, match="llama"):
        tokenizer("llama3")


def test_lightrag_is_asked_for_only_where_it_is_needed(monkeypatch):
    code = "import sys; from tollway.integrations import lightrag; print('lightrag' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"
    monkeypatch.setitem(sys.modules, "lightrag", None)
    monkeypatch.setitem(sys.modules, "lightrag.utils", None)
    monkeypatch.delitem(vars(lightrag), "openai_embed", raising=False)
    for make in (tokenizer, lambda: lightrag.openai_embed):
        with pytest.raises(errors.ConfigurationError, match="pip install lightrag-hku"):
            make()
    with pytest.raises(AttributeError, match="jina_embed"):
        _ = lightrag.jina_embed
    assert "openai_embed" in dir(lightrag)


async def test_a_query_that_fails_ends_the_others_and_is_not_counted(monkeypatch):
    lightrag_fakes.install(monkeypatch)
    ended, tracker = [], Tracker()

    async def vectors(texts, context):
        if texts == ["bad"]:
            raise ValueError("a mistake")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(texts)

    made = embedding_func(Embedder(embedding_func=vectors), embedding_dim=2)
    with pytest.raises(errors.ProviderError, match="a mistake"):
        await made(["a", "bad"], context="query", token_tracker=tracker)
    assert ended == [["a"]]
    assert tracker.seen == []
