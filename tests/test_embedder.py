"""Embedder: shapes, packing, what is refused before anything is sent; loops, threads, forks."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading

import httpx
import httpx2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from passing import arrivals
from tollway import Embedder, Limits, RateLimiter, RetryPolicy
from tollway.errors import (
    ConfigurationError,
    ContextWindowError,
    InputError,
    RequestTooLargeError,
)
from tollway.simulator import Simulator, digest, vector

MODEL = "openai/text-embedding-3-small"


@pytest.fixture(scope="module")
def sim():
    with Simulator() as sim:
        yield sim


def embedder_of(sim, **options):
    return Embedder(MODEL, base_url=sim.base_url, **{"api_key": "any", **options})


def right(texts, dimensions=1536):
    return np.stack([vector(text, dimensions) for text in texts]).tobytes()


# Rows


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=40),
    batch_size=st.none() | st.integers(1, 9),
)
async def test_row_i_is_of_text_i(sim, texts, batch_size):
    async with embedder_of(sim, batch_size=batch_size, dimensions=8) as embedder:
        before = len(sim.ledger)
        vectors = await embedder.embed(texts)
        asked = [text for record in sim.ledger[before:] for text in record.digests]
    assert vectors.shape == (len(texts), 8)
    assert vectors.dtype == np.float32
    assert vectors.flags.c_contiguous
    assert vectors.tobytes() == right(texts, 8)
    # Equal texts are sent once. A lone surrogate and U+FFFD are one text to the simulator.
    assert sorted(asked) == sorted(digest(text) for text in set(texts))


async def test_no_texts_are_no_request(sim):
    before = len(sim.ledger)
    async with embedder_of(sim) as embedder:
        assert (await embedder.embed([])).shape == (0, 1536)
    async with Embedder("openai/x", base_url=sim.base_url, api_key="any") as embedder:
        assert (await embedder.embed([])).shape == (0, 0)
    assert len(sim.ledger) == before


async def test_requests_hold_every_cap(sim):
    long = "word " * 5_000
    texts = [f"{long} {i}" for i in range(100)]
    before = len(sim.ledger)
    async with embedder_of(sim, batch_size=2048, dimensions=8) as embedder:
        assert (await embedder.embed(texts)).tobytes() == right(texts, 8)
    records = sim.ledger[before:]
    assert max(record.tokens for record in records) <= 300_000
    assert [record.status for record in records] == [200, 200]


async def test_the_number_of_texts_a_request(sim):
    async with embedder_of(sim, batch_size=3, dimensions=8) as embedder:
        before = len(sim.ledger)
        await embedder.embed([f"t{i}" for i in range(10)])
        assert sorted(record.inputs for record in sim.ledger[before:]) == [1, 3, 3, 3]
    for wrong in (0, 2049):
        with pytest.raises(ConfigurationError, match="batch_size must be 1 to 2048"):
            embedder_of(sim, batch_size=wrong)


async def test_at_most_max_in_flight_at_once():
    with Simulator(latency=0.05) as sim:
        limits = Limits(max_in_flight=3)
        async with embedder_of(sim, batch_size=1, limits=limits) as embedder:
            texts = [f"t{i}" for i in range(12)]
            await embedder.embed(texts)
        arrivals = sorted(record.arrival for record in sim.ledger)
    # The fourth after a one comes when that one was answered.
    assert all(later - first >= 0.05 for first, later in zip(arrivals, arrivals[3:], strict=False))


# What is refused before anything is sent


@pytest.mark.parametrize(
    ("texts", "error", "what"),
    [
        ("one text", TypeError, "not one str: each letter"),
        (["a", 3], TypeError, r"texts\[1\] must be a str, not int"),
        (["a", None], TypeError, r"texts\[1\]"),
        (["a", "b", ""], InputError, "text 2 is empty"),
        (["a", "a", "b", ""], InputError, "text 3 is empty"),
    ],
)
async def test_texts_that_are_none(sim, texts, error, what):
    before = len(sim.ledger)
    async with embedder_of(sim) as embedder:
        with pytest.raises(error, match=what):
            await embedder.embed(texts)
        with pytest.raises(ConfigurationError, match="raise or nan, not 'ignore'"):
            await embedder.embed(["a"], on_error="ignore")
    assert len(sim.ledger) == before


async def test_a_text_over_the_window_is_named_or_cut(sim):
    long = "word " * 9_000
    before = len(sim.ledger)
    async with embedder_of(sim, too_long="error") as embedder:
        with pytest.raises(
            ContextWindowError, match=r"^text 2 has 9\d{3} tokens, and .* takes 8191"
        ):
            await embedder.embed(["short", "short", long])
    assert len(sim.ledger) == before
    async with embedder_of(sim) as embedder:
        vectors = await embedder.embed(["short", long])
        cut = embedder.encoding.truncate(long, 8191)
    assert vectors.tobytes() == right(["short", cut])
    assert max(record.tokens for record in sim.ledger[before:]) <= 8_191 + 1
    with pytest.raises(ConfigurationError, match="too_long must be truncate, error or average"):
        embedder_of(sim, too_long="cut")


async def test_a_text_over_the_whole_quota_is_an_error_at_once(sim):
    before = len(sim.ledger)
    async with embedder_of(sim, limits=Limits(tpm=50)) as embedder:
        with pytest.raises(RequestTooLargeError, match=r"text 1 has \d+ tokens, more than .* 50"):
            await embedder.embed(["short", "word " * 100])
    assert len(sim.ledger) == before


@pytest.mark.parametrize(
    ("model", "options", "what"),
    [
        ("gpt-4", {}, "named provider/model"),
        ("openai/", {}, "named provider/model"),
        ("opanai/x", {}, "did you mean openai/x?"),
        (
            "zzz/x",
            {},
            "no provider of embeddings 'zzz'. Known: azure, bedrock, gemini, huggingface, litellm",
        ),
        ("openai/x", {"colour": 1}, "colour"),
        (MODEL, {"limits": 5}, "limits must be Limits, a RateLimiter or auto"),
        (MODEL, {"limits": Limits(rpm=1), "http_client": object()}, "http_client must be"),
        (MODEL, {"dimensions": 0}, "dimensions must be at least 1, not 0"),
        (MODEL, {"max_cost": float("nan")}, "max_cost must be 0 US dollars or more, not nan"),
    ],
)
def test_what_cannot_work_is_named(model, options, what):
    with pytest.raises(ConfigurationError) as caught:
        Embedder(model, **{"base_url": "http://127.0.0.1:1/v1", **options})
    assert what in str(caught.value)


# Limits


def test_limits_that_the_user_leaves_open():
    def limits(given, **options):
        return Embedder(MODEL, api_key="sk", limits=given, **options).limiter.limits

    auto = Limits(rpm=500, tpm=100_000, sub_window=1.0, max_in_flight=25, auto=True)
    assert limits(None) == limits("auto") == auto
    assert limits(Limits(rpm=60)) == Limits(rpm=60, sub_window=1.0, max_in_flight=25)
    # How many at once says nothing about how many a minute.
    assert limits(Limits(max_in_flight=4)) == Limits(
        rpm=500, tpm=100_000, sub_window=1.0, max_in_flight=4, auto=True
    )
    own = RateLimiter(Limits(tpm=5))
    assert Embedder(MODEL, api_key="sk", limits=own).limiter is own
    first = Embedder(MODEL, api_key="sk", limits=Limits(rpm=7))
    assert Embedder(MODEL, api_key="sk", limits=Limits(rpm=7)).limiter is first.limiter
    with pytest.raises(ConfigurationError, match="share one quota"):
        Embedder(MODEL, api_key="sk", limits=Limits(rpm=8))


async def test_requests_wait_for_their_permits():
    with Simulator(rpm=600) as sim:
        async with embedder_of(sim, batch_size=1, limits=Limits(rpm=600), dimensions=8) as embedder:
            texts = [f"t{i}" for i in range(30)]
            assert (await embedder.embed(texts)).tobytes() == right(texts, 8)
    # Twenty would be refused without waiting; one or two where the machine stood still for longer
    # than the margin.
    assert sim.ledger.statuses()[200] == 30
    assert sim.ledger.statuses()[429] <= 3


# Clients, loops, threads, forks


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_a_client_of_either_library(sim, library):
    async with library.AsyncClient() as client:
        async with embedder_of(sim, http_client=client) as embedder:
            assert (await embedder.embed(["a", "b"])).tobytes() == right(["a", "b"])
        assert not client.is_closed
        assert (await embedder.embed(["c"])).tobytes() == right(["c"])


def test_one_embedder_in_two_loops_and_in_none(sim):
    embedder = embedder_of(sim)

    async def once(text):
        async with embedder:
            return await embedder.embed([text])

    for text in ("a", "b"):
        assert asyncio.run(once(text)).tobytes() == right([text])
        assert embedder.embed_sync([text]).tobytes() == right([text])
    embedder.aclose_sync()


async def test_the_synchronous_form_in_a_running_loop(sim):
    embedder = embedder_of(sim)
    assert embedder.embed_sync(["a"]).tobytes() == right(["a"])
    assert (await embedder.embed(["b"])).tobytes() == right(["b"])
    await embedder.aclose()
    embedder.aclose_sync()


def test_the_synchronous_form_from_threads(sim):
    embedder = embedder_of(sim, batch_size=2)
    results = {}

    def work(i):
        texts = [f"thread {i} text {k}" for k in range(9)]
        results[i] = embedder.embed_sync(texts).tobytes() == right(texts)

    threads = [threading.Thread(target=work, args=[i]) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(8), True)
    embedder.aclose_sync()


def test_a_callback_that_would_wait_for_itself(sim):
    embedder = embedder_of(sim, retry=RetryPolicy(on_retry=lambda *_: None))
    inner = []

    async def outer():
        try:
            embedder.embed_sync(["a"])
        except RuntimeError as error:
            inner.append(str(error))

    from tollway.bridge import run_sync  # noqa: PLC0415

    run_sync(outer())
    assert "would wait for itself" in inner[0]


def test_an_embedder_that_is_dropped_closes_its_connections():
    with Simulator() as sim:
        embedder = embedder_of(sim)
        embedder.embed_sync(["a"])
        connections = sim._server._connections
        assert len(connections) == 1
        del embedder
        gc.collect()
        for _ in range(1000):
            if not connections:
                break
            threading.Event().wait(0.01)
        assert not connections


FORK = """
import os, sys
import numpy as np
from tollway import Embedder
from tollway.simulator import vector
embedder = Embedder("openai/text-embedding-3-small", base_url=sys.argv[1], api_key="any")
def right(text):
    assert embedder.embed_sync([text]).tobytes() == vector(text, 1536).tobytes()
right("before")
child = os.fork()
for i in range(3):
    right(f"{'child' if child == 0 else 'parent'} {i}")
embedder.aclose_sync()
if child == 0:
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
right("after")
embedder.aclose_sync()
print("right")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_synchronous_form_after_a_fork(sim):
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-W",
            "ignore::DeprecationWarning",
            "-c",
            FORK,
            sim.base_url,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("right\n", 0), done.stderr
    assert done.stderr == ""


# Cancelling


async def test_cancelling_closes_what_is_under_way():
    with Simulator(latency=30) as sim:
        seen = arrivals(sim)
        async with embedder_of(sim, batch_size=1) as embedder:
            task = asyncio.create_task(embedder.embed([f"t{i}" for i in range(40)]))
            async with asyncio.timeout(30):
                while len(seen) < 25:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert len(asyncio.all_tasks()) == 1
    assert len(sim.ledger) == 25
