"""One object used at once from several event loops, from threads, and from inside a loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from chat_fakes import FakeProvider, llm_of, said
from tollway import LLM, Embedder, Limits, RateLimiter, RetryPolicy
from tollway.simulator import Faults, Simulator, reply, vector

PROMPTS = [f"prompt {i}" for i in range(20)]
FAST = RetryPolicy(max_retries=9, base_delay=0.001, max_delay=0.01)
SMALL = "openai/text-embedding-3-small"


@pytest.fixture
def sim():
    with Simulator(faults=Faults({"500": 0.1, "disconnect": 0.1}, seed=5), dimensions=8) as sim:
        yield sim


def at(sim):
    limiter = RateLimiter(Limits(max_in_flight=6))
    return {"base_url": sim.base_url, "api_key": "k", "limits": limiter, "retry": FAST}


def together(*works):
    """Run functions at the same time, each in a thread of its own."""
    gate = threading.Barrier(len(works))

    def begin(work):
        gate.wait(timeout=30)
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result(timeout=60) for future in [pool.submit(begin, it) for it in works]]


def right(texts):
    return texts == [reply(("user", prompt)) for prompt in PROMPTS]


@pytest.mark.parametrize("mode", ["asyncio", "threaded"])
def test_an_llm_in_loops_and_threads_at_once(sim, mode):
    llm = LLM("openai/gpt-4o", **at(sim))

    async def complete():
        answers = await asyncio.gather(*(llm.complete(prompt) for prompt in PROMPTS))
        await llm.aclose()
        return [answer.text for answer in answers]

    async def stream():
        texts = []
        for prompt in PROMPTS:
            # What breaks off after its first token is not sent again.
            async with llm.stream(prompt) as chunks:
                texts.append("".join([chunk.text async for chunk in chunks]))
        await llm.aclose()
        return texts

    async def mapped():
        outcomes = await llm.map(PROMPTS, concurrency=5, mode=mode)
        await llm.aclose()
        return [outcome.text for outcome in outcomes]

    results = together(
        lambda: asyncio.run(complete()),
        lambda: asyncio.run(stream()),
        lambda: asyncio.run(mapped()),
        lambda: [llm.complete_sync(prompt).text for prompt in PROMPTS],
        lambda: ["".join(chunk.text for chunk in llm.stream_sync(prompt)) for prompt in PROMPTS],
        lambda: [outcome.text for outcome in llm.map_sync(PROMPTS, concurrency=5, mode=mode)],
    )
    assert all(right(texts) for texts in results)
    assert sim.ledger.statuses()[200] == len(results) * len(PROMPTS)
    state = llm.limiter.snapshot()
    assert (state.in_flight, state.waiting) == (0, 0)
    llm.aclose_sync()


def test_an_embedder_in_loops_and_threads_at_once(sim):
    embedder = Embedder(SMALL, dimensions=8, batch_size=3, **at(sim))

    async def embed():
        halves = await asyncio.gather(embedder.embed(PROMPTS[:10]), embedder.embed(PROMPTS[10:]))
        await embedder.aclose()
        return np.concatenate(halves)

    rows = together(
        lambda: asyncio.run(embed()),
        lambda: asyncio.run(embed()),
        lambda: embedder.embed_sync(PROMPTS),
        lambda: embedder.embed_sync(PROMPTS),
    )
    wanted = np.array([vector(prompt, 8) for prompt in PROMPTS], dtype=np.float32)
    assert all(np.allclose(found, wanted, atol=1e-6) for found in rows)
    assert embedder.limiter.snapshot().in_flight == 0
    embedder.aclose_sync()


async def test_synchronous_forms_inside_a_running_loop(sim):
    llm = LLM("openai/gpt-4o", **at(sim))
    embedder = Embedder(SMALL, dimensions=8, **at(sim))
    assert llm.complete_sync("hi").text == reply(("user", "hi"))
    assert "".join(chunk.text for chunk in llm.stream_sync("hi")) == reply(("user", "hi"))
    assert right([outcome.text for outcome in llm.map_sync(PROMPTS)])
    assert llm.run_tools_sync("hi").completion.text == reply(("user", "hi"))
    assert embedder.embed_sync(PROMPTS).shape == (20, 8)
    assert embedder.embed_query_sync("hi").shape == (8,)
    # The loop's own calls go on beside.
    assert (await llm.complete("hi")).text == reply(("user", "hi"))
    await llm.aclose()
    llm.aclose_sync()
    await embedder.aclose()
    embedder.aclose_sync()


class Counting(FakeProvider):
    """Counts how many requests are under way, over all loops."""

    def __init__(self):
        super().__init__(said("yes"))
        self._lock = threading.Lock()
        self.now = self.most = self.all = 0

    async def complete(self, request):
        with self._lock:
            self.now, self.all = self.now + 1, self.all + 1
            self.most = max(self.most, self.now)
        await asyncio.sleep(0.001)
        with self._lock:
            self.now -= 1
        return await super().complete(request)


def test_loops_and_threads_hold_one_limit_together():
    provider = Counting()
    llm = LLM(provider, limits=RateLimiter(Limits(max_in_flight=3)))

    async def mapped():
        return await llm.map(PROMPTS, concurrency=10)

    results = together(
        lambda: asyncio.run(mapped()),
        lambda: asyncio.run(mapped()),
        lambda: llm.map_sync(PROMPTS, concurrency=10, mode="threaded"),
        lambda: llm.map_sync(PROMPTS, concurrency=10),
    )
    assert all(outcome.ok for outcomes in results for outcome in outcomes)
    assert (provider.all, provider.most) == (80, 3)


def test_a_loop_that_ends_in_the_middle_leaves_its_share_to_the_others():
    provider = Counting()
    limiter = RateLimiter(Limits(max_in_flight=2))
    llm = LLM(provider, limits=limiter)

    async def left():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.02):
                await llm.map(PROMPTS * 50, concurrency=20)

    outcomes = together(
        lambda: asyncio.run(left()),
        lambda: asyncio.run(left()),
        lambda: llm.map_sync(PROMPTS, concurrency=5),
    )[-1]
    assert all(outcome.ok for outcome in outcomes)
    assert (limiter.snapshot().in_flight, limiter.waiting) == (0, 0)


def test_a_callback_of_a_synchronous_call_cannot_wait_for_another():
    llm, provider = llm_of(said("yes"))
    with pytest.raises(RuntimeError, match="cannot make another one"):
        llm.map_sync(PROMPTS, progress=lambda _: llm.complete_sync("more"))
    # The object is as good as before.
    assert llm.complete_sync("hi").text == "yes"
    assert len(provider.requests) <= len(PROMPTS) + 1


async def test_no_more_are_admitted_than_their_loop_has_run(monkeypatch):
    monkeypatch.setattr("tollway.limiter.limiter._LONGEST_TURN", 60.0)
    limiter = RateLimiter(Limits(rpm=1_000))
    limiter.pause(0.05)
    resumed, ahead = 0, []

    async def work():
        nonlocal resumed
        await limiter.acquire()
        resumed += 1
        ahead.append(limiter.snapshot().windows[0].used - resumed)

    async with asyncio.timeout(30):
        await asyncio.gather(*(work() for _ in range(300)))
    assert resumed == 300
    assert 0 < max(ahead) < 32, "a permit is not older than a turn of the loop"
