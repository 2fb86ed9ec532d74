"""LightRAG itself, as released, over tollway and the simulator: `make test-lightrag`."""

from __future__ import annotations

import copy

import numpy as np
import pytest

pytest.importorskip("lightrag", reason="make test-lightrag installs it apart")

from lightrag import LightRAG, QueryParam
from lightrag.utils import EmbeddingFunc, TokenTracker, TruncatedResponse

from tollway import LLM, Embedder, Limits, RateLimiter, get_encoding
from tollway.integrations import lightrag as ours
from tollway.simulator import Simulator

# What the simulated model extracts: it says what a directive in the text tells it to.
ADA = """Ada Lovelace wrote notes on the engine of Charles Babbage. <|endoftext|>
[[say entity<|#|>Ada Lovelace<|#|>person<|#|>Wrote the notes on the engine.
entity<|#|>Charles Babbage<|#|>person<|#|>Designed the engine.
relation<|#|>Ada Lovelace<|#|>Charles Babbage<|#|>notes, engine<|#|>She wrote notes on his engine.
<|COMPLETE|>]]"""
SEOUL = """Seoul lies on the river Han.
[[say entity<|#|>Seoul<|#|>location<|#|>A city on the river Han.
<|COMPLETE|>]]"""
KEYWORDS = (
    '[[say ```json\n{"high_level_keywords": ["notes"], "low_level_keywords": ["Ada"],}\n```]]'
)
# The vectors of the simulator mean nothing: every row is near enough.
ALL = {"cosine_better_than_threshold": -1.0}


@pytest.fixture
async def sim():
    async with Simulator() as simulator:
        yield simulator


async def rag_of(tmp_path, **functions):
    rag = LightRAG(
        working_dir=str(tmp_path),
        # What LightRAG holds in the process is kept by this name.
        workspace=tmp_path.name,
        tokenizer=ours.tokenizer(),
        vector_db_storage_cls_kwargs=ALL,
        entity_extract_max_gleaning=0,
        **functions,
    )
    await rag.initialize_storages()
    return rag


async def index_and_ask(rag):
    await rag.ainsert([ADA, SEOUL])
    counts = await rag.doc_status.get_status_counts()
    assert (counts["processed"], counts["failed"]) == (2, 0)
    assert {"Ada Lovelace", "Charles Babbage", "Seoul"} <= set(await rag.get_graph_labels())

    context = await rag.aquery(
        f"Who wrote? {KEYWORDS}", param=QueryParam(mode="mix", only_need_context=True)
    )
    for told in ("Wrote the notes on the engine.", "She wrote notes on his engine.", "river Han"):
        assert told in context
    answer = await rag.aquery("Who wrote notes?", param=QueryParam(mode="naive"))
    assert answer.endswith("Who wrote notes?")
    pieces = await rag.aquery("And where?", param=QueryParam(mode="naive", stream=True))
    assert "".join([piece async for piece in pieces]).endswith("And where?")


async def test_a_graph_is_built_and_answers(tmp_path, sim):
    limiter = RateLimiter(Limits(rpd=100_000))
    where = {"base_url": sim.base_url, "api_key": "k", "limits": limiter}
    llm = LLM("openai/gpt-4o-mini", max_tokens=9000, **where)
    embedder = Embedder("openai/text-embedding-3-small", dimensions=64, **where)
    async with llm, embedder:
        rag = await rag_of(
            tmp_path,
            llm_model_func=ours.llm_model_func(llm),
            embedding_func=ours.embedding_func(embedder),
        )
        await index_and_ask(rag)
        await rag.finalize_storages()
    # Each request took its permit.
    assert [window.used for window in limiter.snapshot().windows] == [len(sim.ledger)]
    assert len(sim.ledger) > 6


async def test_only_the_import_changes(tmp_path, sim, monkeypatch):
    monkeypatch.setenv("OPENAI_API_BASE", sim.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    from tollway.integrations.lightrag import (  # noqa: PLC0415
        gpt_4o_mini_complete,
        openai_embed,
    )

    rag = await rag_of(tmp_path, llm_model_func=gpt_4o_mini_complete, embedding_func=openai_embed)
    await index_and_ask(rag)
    await rag.finalize_storages()
    await ours.aclose()


async def test_from_the_environment(tmp_path, sim, monkeypatch):
    for kind, model in (("LLM", "gpt-4o-mini"), ("EMBEDDING", "text-embedding-3-small")):
        monkeypatch.setenv(f"{kind}_BINDING", "openai")
        monkeypatch.setenv(f"{kind}_BINDING_HOST", sim.base_url)
        monkeypatch.setenv(f"{kind}_BINDING_API_KEY", "k")
        monkeypatch.setenv(f"{kind}_MODEL", model)
    given = ours.from_env()
    tokenizer = given.pop("tokenizer")
    assert tokenizer.model_name == "gpt-4o-mini"
    rag = await rag_of(tmp_path, **given)
    await rag.ainsert(SEOUL)
    assert "Seoul" in await rag.get_graph_labels()
    await rag.finalize_storages()
    await ours.aclose()


async def test_what_is_made_is_lightrags_own(sim):
    embedder = Embedder(
        "openai/text-embedding-3-small", dimensions=64, base_url=sim.base_url, api_key="k"
    )
    made = ours.embedding_func(embedder)
    assert isinstance(made, EmbeddingFunc)
    assert (made.embedding_dim, made.max_token_size) == (64, 8191)
    tracker = TokenTracker()
    async with embedder:
        vectors = await made(["a", "b"], token_tracker=tracker)
        assert np.array_equal(await made(["a", "b"], context="query"), vectors)
    assert vectors.shape == (2, 64)
    assert tracker.prompt_tokens == 2
    for name in ("openai_embed", "azure_openai_embed", "gemini_embed", "bedrock_embed"):
        assert isinstance(getattr(ours, name), EmbeddingFunc)


async def test_an_answer_that_is_cut_short_is_marked(sim):
    async with LLM("openai/gpt-4o-mini", base_url=sim.base_url, api_key="k") as llm:
        function = ours.llm_model_func(llm)
        cut = await function("[[words 50]]", max_tokens=5)
        whole = await function("[[words 5]]")
        half = await function('[[say {"a": "b b b b"}]]', max_tokens=3, entity_extraction=True)
    assert isinstance(cut, TruncatedResponse)
    assert not isinstance(whole, TruncatedResponse)
    assert isinstance(half, TruncatedResponse)


@pytest.mark.parametrize("text", ["", "plain", "한국어 " * 300, "<|endoftext|> and more 🎉" * 50])
def test_the_tokenizer_counts_cuts_and_comes_back(text):
    made, encoding = ours.tokenizer(), get_encoding("o200k_base")
    assert made.encode(text) == encoding.encode_ordinary(text)
    assert made.decode(made.encode(text)) == text
    copied = copy.deepcopy(made)
    assert copied.encode(text) == made.encode(text)
    spans = list(made.split_by_token_limit(text, 20, 0))
    assert "".join(text[span.start : span.end] for span in spans) == text
    assert all(len(made.encode(text[span.start : span.end])) <= 20 for span in spans)
