"""Where rows go: into the caller's array, each in its place; and how many requests at once."""

from __future__ import annotations

import asyncio
import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tollway import Embedder, Limits, RetryPolicy, _core
from tollway.embed import embed_job_async, embed_stream
from tollway.errors import (
    BadRequestError,
    ConfigurationError,
    ProviderError,
    RetriesExhaustedError,
)
from tollway.providers import EmbeddingAnswer, EmbeddingRules
from tollway.simulator import FAULTS, Faults, Simulator, vector
from tollway.simulator.faults import applies
from tollway.transport import HttpxTransport
from tollway.types import Usage

MODEL = "openai/text-embedding-3-small"
FAULTY = {name: 0.05 for name in FAULTS if name != "insufficient_quota" and applies(name, rows=2)}
QUICK = RetryPolicy(base_delay=0.001, max_delay=0.01, max_retries=50, seed=3, budget=None)


@pytest.fixture(scope="module")
def sim():
    with Simulator() as sim:
        yield sim


def right(texts, dimensions=8):
    return np.stack([vector(text, dimensions) for text in texts])


def embedder_of(sim, **options):
    return Embedder(MODEL, base_url=sim.base_url, **{"api_key": "any", "dimensions": 8, **options})


# Equal texts


@given(st.lists(st.text("aé한😀", max_size=3), max_size=30))
def test_equal_texts_are_found(texts):
    distinct, repeats = _core.distinct(texts)
    assert distinct == list(dict.fromkeys(texts))
    if repeats is None:
        assert len(distinct) == len(texts)
    else:
        firsts, kinds = repeats
        assert len(distinct) < len(texts)
        assert firsts.tolist() == [texts.index(text) for text in distinct]
        assert kinds.tolist() == [distinct.index(text) for text in texts]


def test_what_is_a_string_and_what_is_none():
    class Name(str):
        """Equal by its letters, whatever it says."""

        __slots__ = ()

        def __eq__(self, other):
            return False

        __hash__ = str.__hash__

    assert _core.distinct([Name("a"), "a"])[1] is not None
    for wrong in ([b"a"], "ab", [None]):
        with pytest.raises(TypeError, match="must be a"):
            _core.distinct(wrong)


# Rows in place


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kinds=st.lists(st.integers(0, 25), min_size=1, max_size=40),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 2**16),
)
async def test_rows_in_place_under_faults(kinds, batch_size, seed):
    texts = [f"a text of kind {kind}" for kind in kinds]
    out = np.full((len(texts), 8), 7.0, np.float32)
    faults = Faults(FAULTY, seed=seed, delay=0.001, retry_after=0.001)
    with Simulator(faults=faults) as sim:
        async with embedder_of(sim, batch_size=batch_size, retry=QUICK) as embedder:
            assert await embedder.embed(texts, out=out) is out
    assert out.tobytes() == right(texts).tobytes()


async def test_rows_are_decoded_where_they_are_wanted(sim):
    """Neither copied nor moved: what the provider is given is the caller's memory."""
    given, texts = [], [f"placed {i}" for i in range(20)]
    texts[13] = texts[2]
    out = np.zeros((20, 8), np.float32)
    async with embedder_of(sim, batch_size=4) as embedder:
        send = embedder.provider.embed_into

        async def noted(texts, place):
            answer = await send(texts, place)
            assert answer.vectors is place
            given.append((len(texts), np.shares_memory(place, out)))
            return answer

        embedder.provider.embed_into = noted
        await embedder.embed(texts, out=out)
    assert out.tobytes() == right(texts).tobytes()
    # Fifteen of the nineteen: those of one request lie on both sides of the text that is there
    # twice.
    assert given == [(4, True)] * 3 + [(3, True)]


@pytest.mark.parametrize("form", ["float16", "reversed", "columns", "normalized", "unaligned"])
async def test_arrays_that_rows_cannot_be_decoded_into(sim, form):
    texts = [f"shaped {i}" for i in range(10)]
    out = {
        "float16": np.zeros((10, 8), np.float16),
        "reversed": np.zeros((10, 8), np.float32)[::-1],
        "columns": np.zeros((10, 16), np.float32)[:, ::2],
        "normalized": np.zeros((10, 8), np.float32),
        "unaligned": np.zeros(10 * 8 * 4 + 1, np.uint8)[1:].view(np.float32).reshape(10, 8),
    }[form]
    async with embedder_of(sim, batch_size=3, normalize=form == "normalized") as embedder:
        await embedder.embed(texts, out=out)
    assert np.allclose(out, right(texts), atol=1e-3)
    assert form == "normalized" or (out == right(texts).astype(out.dtype)).all()


async def test_an_array_of_another_shape_is_left_alone(sim):
    out, before = np.full((3, 9), 7.0, np.float32), len(sim.ledger)
    async with embedder_of(sim) as embedder:
        with pytest.raises(ConfigurationError, match=r"out must be of shape \(3, 8\)"):
            await embedder.embed(["a", "b", "c"], out=out)
    assert (out == 7.0).all()
    assert len(sim.ledger) == before


async def test_what_rows_cannot_be_put_into_is_said_before_anything_is_sent(sim):
    readonly, before = np.zeros((2, 8), np.float32), len(sim.ledger)
    readonly.flags.writeable = False
    async with embedder_of(sim) as embedder:
        for wrong in (readonly, np.zeros((2, 8), np.int64), [[0.0] * 8] * 2):
            with pytest.raises(ConfigurationError, match="out must"):
                await embedder.embed(["a", "b"], out=wrong)
    assert len(sim.ledger) == before


class Numbers:
    """Answers in this process: row i is text i's number; some texts are refused."""

    name, model, priced_as = "numbers", "in-process", "in-process"
    rules = EmbeddingRules(max_texts=2048, dimensions=2, price="free")
    limits = Limits(max_in_flight=6)

    def __init__(self, bad=()):
        self.quota_key = (id(self),)
        self.bad = set(bad)
        self.under_way = self.most = 0
        self.tasks = []

    async def open(self):
        pass

    async def embed(self, texts):
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        self.tasks.append(len(asyncio.all_tasks()))
        # Whoever is to be under way together is so by then.
        for _ in range(100):
            await asyncio.sleep(0)
        self.under_way -= 1
        if self.bad.intersection(texts):
            raise BadRequestError("400: one of them", status=400)
        numbers = np.array([int(text) for text in texts], np.float32)
        return EmbeddingAnswer(np.stack([numbers, -numbers], axis=1), (), Usage(requests=1))

    async def embed_into(self, texts, out):
        # As after an answer that was of no use to its end.
        out[:] = -1.0
        answer = await self.embed(texts)
        out[:] = answer.vectors
        return dataclasses.replace(answer, vectors=out)

    async def aclose(self):
        pass


async def test_rows_without_a_vector_are_nan():
    texts = [str(i % 30) for i in range(40)]
    out = np.full((40, 2), 7.0, np.float32)
    embedder = Embedder(Numbers(bad=["3", "17", "29"]), batch_size=8)
    await embedder.embed(texts, out=out, on_error="nan")
    expected = np.array([int(text) for text in texts], np.float32)
    expected[np.isin(expected, [3, 17, 29])] = np.nan
    assert np.array_equal(out, np.stack([expected, -expected], axis=1), equal_nan=True)


class SecondThoughts(Numbers):
    """Leaves one text without a row first, and refuses it when it is asked for again."""

    async def embed(self, texts):
        assert texts
        if texts == ["3"]:
            raise BadRequestError("400: this one", status=400)
        answer = await super().embed(texts)
        answer.vectors[3] = np.nan
        return dataclasses.replace(answer, bad_rows=[(3, "null")])


async def test_a_text_that_is_refused_when_it_is_asked_for_again_is_the_one():
    embedder = Embedder(SecondThoughts(), retry=QUICK)
    rows = await embedder.embed([str(i) for i in range(8)], on_error="nan")
    assert np.isnan(rows[:, 0]).tolist() == [i == 3 for i in range(8)]


async def test_a_good_text_among_many_that_are_refused_has_its_vector(tmp_path):
    """Nothing succeeds before it: in a call that allows failures, and in a job that goes on."""
    texts, output = [str(i) for i in range(16)], tmp_path / "vectors.npy"
    bad = set(texts) - {"15"}
    rows = await Embedder(Numbers(bad)).embed(texts, on_error="nan")
    assert rows[:, 0].tolist()[15] == 15.0
    assert np.isnan(rows[:15]).all()
    await embed_job_async(["77"], output, Embedder(Numbers()))
    report = await embed_job_async(["77", *texts], output, Embedder(Numbers(bad)))
    assert len(report.errors) == 15
    assert np.load(output)[[0, 16], 0].tolist() == [77.0, 15.0]


async def test_what_waits_for_a_search_that_finds_nothing_is_searched_too():
    """Three requests at once: what the third brings shows that the texts are what is wrong."""
    texts, bad = [str(i) for i in range(6)], ["0", "1", "3"]
    with pytest.raises(BadRequestError, match=r"^text 0 \(and 2 more\)") as caught:
        await Embedder(Numbers(bad), batch_size=2).embed(texts)
    assert np.isnan(caught.value.finished[:, 0]).nonzero()[0].tolist() == [0, 1, 3]


class Choosy(Numbers):
    """Refuses some texts, and has no vector for others."""

    async def embed(self, texts):
        answer = await super().embed(texts)
        lost = [(i, "null") for i, text in enumerate(texts) if text in {"5", "6"}]
        answer.vectors[[i for i, _ in lost]] = np.nan
        return dataclasses.replace(answer, bad_rows=lost)


async def test_each_text_without_a_vector_is_named_with_its_own_reason(tmp_path):
    texts = ["0", "0", "1", "2", "3", "4", "5", "6", "7"]
    provider, twice = Choosy(bad=["3"]), dataclasses.replace(QUICK, max_retries=1)
    with pytest.raises(BadRequestError) as caught:
        await Embedder(provider, retry=twice).embed(texts)
    assert str(caught.value) == "text 4 (and 2 more) has no vector: 400: one of them"
    assert np.isnan(caught.value.finished[:, 0]).nonzero()[0].tolist() == [4, 6, 7]
    with pytest.raises(RetriesExhaustedError, match=r"^text 1 has no vector: .* attempts failed"):
        await Embedder(provider, retry=twice).embed(["1", "5"])
    handed = []
    report = await embed_job_async(texts, tmp_path / "v.npy", Embedder(provider, retry=twice))
    streamed = await embed_stream(
        texts, lambda documents, _: handed.extend(documents), Embedder(provider, retry=twice)
    )
    for errors in (report.errors, streamed.errors):
        told = {error.id: error.error for error in errors}
        assert told.keys() == {"4", "6", "7"}
        assert told["4"] == "BadRequestError: 400: one of them"
        assert all("RetriesExhaustedError: " in told[i] and "null" in told[i] for i in "67")


async def test_where_every_text_is_refused_the_search_ends():
    texts = [str(i) for i in range(2000)]
    provider = Numbers(bad=texts)
    rows = await Embedder(provider, batch_size=100).embed(texts, on_error="nan")
    assert np.isnan(rows).all()
    assert 20 < len(provider.tasks) < 20 + 1000


@pytest.mark.parametrize("transport", [None, HttpxTransport])
@pytest.mark.parametrize("given", [{}, {"normalize": True}], ids=str)
async def test_vectors_of_another_length_are_not_asked_for_again(given, transport, tmp_path):
    options = {"dimensions": None, **given} | ({"transport": transport()} if transport else {})
    with Simulator(dimensions=16) as server:
        async with embedder_of(server, **options) as embedder:
            with pytest.raises(ProviderError, match="of dimension 16 instead of 1536"):
                await embedder.embed(["a", "b"])
            with pytest.raises(ProviderError, match="of dimension 16 instead of 1536"):
                await embed_job_async(["a", "b"], tmp_path / "vectors.npy", embedder)
    assert server.ledger.statuses() == {200: 2}


# How many at once


@pytest.mark.parametrize(("batches", "most"), [(1, 1), (4, 4), (6, 6), (60, 6)])
async def test_as_many_at_once_as_there_is_work_for_and_no_more(batches, most):
    provider = Numbers()
    texts = [str(i) for i in range(2 * batches)]
    rows = await Embedder(provider, batch_size=2).embed(texts)
    assert rows[:, 0].tolist() == [float(text) for text in texts]
    assert provider.most == most
    # A small call does not pay for the many that could be: the test, its workers, and one that
    # found that there was no more.
    assert max(provider.tasks) <= 2 + most
