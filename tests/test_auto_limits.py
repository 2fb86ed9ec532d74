"""Limits that are learned from the first answer on, end to end."""

from __future__ import annotations

import asyncio
import time

import pytest

from tollway import Embedder, Limits, RateLimiter, RetryPolicy
from tollway.errors import OverloadedError, RateLimitError
from tollway.limiter.feedback import Feedback, Reported
from tollway.simulator import Faults, Simulator

MODEL = "openai/text-embedding-3-small"


def embedder_of(sim, **options):
    options = {"limits": "auto", "batch_size": 1, "dimensions": 8, **options}
    return Embedder(MODEL, api_key="any", base_url=sim.base_url, **options)


def texts(count, start=0):
    return [f"text {i}" for i in range(start, start + count)]


async def test_the_first_answer_raises_what_was_assumed():
    with Simulator(rpm=3_000, tpm=5_000_000) as sim:
        async with embedder_of(sim) as embedder:
            assert embedder.limiter.current_limits.rpm == 500
            await embedder.embed(texts(1))
            now = embedder.limiter.current_limits
            assert (now.rpm, now.tpm, now.auto) == (3_000, 5_000_000, True)
            began = time.monotonic()
            await embedder.embed(texts(120, start=1))
            took = time.monotonic() - began
    assert sim.ledger.statuses() == {200: 121}
    # 500 a minute would have taken thirteen seconds.
    assert took < 10


async def test_the_first_answer_lowers_what_was_assumed():
    with Simulator(rpm=240, tpm=50_000) as sim:
        async with embedder_of(sim, batch_size=None) as embedder:
            await embedder.embed(texts(1))
            await asyncio.gather(*(embedder.embed([text]) for text in texts(12, start=1)))
            now = embedder.limiter.current_limits
    assert (now.rpm, now.tpm) == (240, 50_000)
    assert sim.ledger.statuses() == {200: 13}
    assert sim.ledger.worst_window(1.0)[0] <= 4


async def test_a_limit_that_is_lowered_in_the_middle_is_followed_and_so_is_its_return():
    with Simulator(rpm=1_200, tpm=5_000_000) as sim:
        async with embedder_of(sim) as embedder:
            await embedder.embed(texts(30))
            sim.change(rpm=240)
            await embedder.embed(texts(1, start=30))
            lowered = time.monotonic()
            await embedder.embed(texts(11, start=31))
            assert embedder.limiter.current_limits.rpm == 240
            sim.change(rpm=1_200)
            await embedder.embed(texts(1, start=50))
            assert embedder.limiter.current_limits.rpm == 1_200
            await embedder.embed(texts(30, start=60))
    late = [it for it in sim.ledger if it.arrival > lowered]
    assert len(late) >= 42
    assert {it.status for it in late} == {200}


async def test_nothing_above_the_configured_is_ever_held():
    with Simulator(rpm=6_000, tpm=5_000_000) as sim:
        async with embedder_of(sim, limits=Limits(rpm=600, tpm=9_000)) as embedder:
            await embedder.embed(texts(12))
            now = embedder.limiter.current_limits
            assert (now.rpm, now.tpm) == (600, 9_000)
            sim.change(rpm=300)
            await embedder.embed(texts(1, start=12))
            now = embedder.limiter.current_limits
    assert (now.rpm, now.tpm) == (300, 9_000)
    assert sim.ledger.worst_window(1.0)[0] <= 10


async def test_without_auto_a_server_of_ones_own_has_no_limits():
    with Simulator(rpm=60_000) as sim:
        async with embedder_of(sim, limits=None) as embedder:
            await embedder.embed(texts(3))
            assert embedder.limiter.current_limits == Limits(sub_window=1.0, max_in_flight=25)


async def test_a_refusal_pauses_everybody_for_the_time_it_names():
    with Simulator(faults=Faults({"429": 1.0}, retry_after=0.5)) as sim:
        limits = Limits(rpm=60_000, max_in_flight=1)
        policy = RetryPolicy(base_delay=0, max_retries=0)
        async with embedder_of(sim, limits=limits, retry=policy) as embedder:
            for text in texts(3):
                with pytest.raises(RateLimitError) if policy is None else pytest.raises(Exception):
                    await embedder.embed([text])
    arrivals = [record.arrival for record in sim.ledger]
    assert all(after - before > 0.45 for before, after in zip(arrivals, arrivals[1:], strict=False))


def limiter_of(**limits):
    return RateLimiter(Limits(**limits), margin=0)


def test_a_limit_that_is_lowered_holds_at_once():
    limiter = limiter_of(rpm=100)
    for _ in range(10):
        assert limiter.try_acquire() == 0
    limiter.learn(Feedback((Reported("rpm", 12),)))
    assert limiter.try_acquire() == 0
    assert limiter.try_acquire() == 0
    assert limiter.try_acquire() > 50
    limiter.learn(Feedback((Reported("rpm", 1_000),)))
    assert limiter.current_limits == Limits(rpm=100)
    assert limiter.try_acquire() == 0


def test_an_older_answer_teaches_nothing():
    limiter = limiter_of(rpm=100)
    limiter.learn(Feedback((Reported("rpm", 12),)), took=1.0)
    limiter.learn(Feedback((Reported("rpm", 50),)), took=5.0)
    assert limiter.current_limits.rpm == 12


def test_repeated_refusals_shrink_but_not_below_a_request():
    limiter = limiter_of(tpm=1_000)
    for _ in range(60):
        limiter.learn(Feedback(exceeded=("tpm",)), outcome="refused", tokens=200)
    assert limiter.current_limits.tpm == 200
    for _ in range(60):
        limiter.learn(Feedback(exceeded=("tpm",)), outcome="overloaded")
    assert limiter.current_limits.tpm == 200


def test_an_overloaded_server_pauses_all_limits():
    limiter = limiter_of(rpm=100)
    limiter.learn(Feedback(retry_after=30.0), outcome="overloaded")
    assert 29 < limiter.try_acquire() <= 30
    assert limiter.current_limits == Limits(rpm=100)


async def test_those_who_wait_are_let_go_when_a_limit_comes_back():
    limiter = limiter_of(rpm=1_000)
    limiter.learn(Feedback((Reported("rpm", 2),)))
    await limiter.acquire()
    await limiter.acquire()
    waiting = [asyncio.create_task(limiter.acquire()) for _ in range(5)]
    await asyncio.sleep(0.01)
    assert limiter.waiting == 5
    limiter.learn(Feedback((Reported("rpm", 7),)))
    await asyncio.wait_for(asyncio.gather(*waiting), 30)


async def test_calls_of_ones_own_teach_the_limiter_too():
    limiter = limiter_of(rpm=100)
    ends = iter([OverloadedError("no", retry_after=0.05), RateLimitError("no", retry_after=0.05)])

    async def call():
        error = next(ends, None)
        if error is not None:
            raise error
        return "done"

    policy = RetryPolicy(base_delay=0)
    began = time.monotonic()
    assert await policy.call(call, limiter=limiter) == "done"
    assert time.monotonic() - began >= 0.1
    ends = iter([RateLimitError("no", retry_after=0.05)])
    assert policy.call_sync(lambda: asyncio.run(call()) if False else "done", limiter=limiter)
