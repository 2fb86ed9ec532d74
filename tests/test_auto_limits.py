"""Limits that are learned from the first answer on, end to end."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time

import numpy as np
import pytest

from tollway import Embedder, Limits, RateLimiter, RetryPolicy
from tollway.errors import (
    AuthenticationError,
    InsufficientQuotaError,
    OverloadedError,
    RateLimitError,
    RequestTooLargeError,
    RetriesExhaustedError,
)
from tollway.limiter.feedback import Feedback, Reported
from tollway.providers import EmbeddingAnswer, EmbeddingRules
from tollway.simulator import Faults, Simulator
from tollway.types import Usage

MODEL = "openai/text-embedding-3-small"


def embedder_of(sim, **options):
    options = {"limits": "auto", "batch_size": 1, "dimensions": 8, **options}
    return Embedder(MODEL, api_key="any", base_url=sim.base_url, **options)


def texts(count, start=0):
    return [f"text {i}" for i in range(start, start + count)]


# Servers here do not judge by the second: requests whose bytes came later than their permits, on a
# machine that is busy, would be refused, and what is learned could not be told from that.


async def test_the_first_answer_raises_what_was_assumed():
    with Simulator(rpm=3_000, tpm=5_000_000, sub_window=0) as sim:
        async with embedder_of(sim) as embedder:
            assert embedder.limiter.current_limits.rpm == 500
            await embedder.embed(texts(1))
            now = embedder.limiter.current_limits
            assert (now.rpm, now.tpm, now.auto) == (3_000, 5_000_000, True)
            await embedder.embed(texts(120, start=1))
    assert sim.ledger.statuses() == {200: 121}
    # 500 a minute are 46 in five seconds.
    assert sim.ledger.worst_window(5.0)[0] > 60


async def test_the_first_answer_lowers_what_was_assumed():
    with Simulator(rpm=20, tpm=50_000, sub_window=0) as sim:
        async with embedder_of(sim, limits=Limits(rpm=500, auto=True, sub_window=0)) as embedder:
            await embedder.embed(texts(1))
            now = embedder.limiter.current_limits
            assert (now.rpm, now.tpm) == (20, 50_000)
            await embedder.embed(texts(19, start=1))
            # The server would refuse the next one.
            assert embedder.limiter.try_acquire() > 30
    assert sim.ledger.statuses() == {200: 20}


async def test_a_limit_that_is_lowered_in_the_middle_is_followed_and_so_is_its_return():
    with Simulator(rpm=1_200, tpm=5_000_000, sub_window=0) as sim:
        limits = Limits(rpm=500, auto=True, sub_window=0)
        async with embedder_of(sim, limits=limits) as embedder:
            await embedder.embed(texts(30))
            sim.change(rpm=50)
            await embedder.embed(texts(1, start=30))
            assert embedder.limiter.current_limits.rpm == 50
            await embedder.embed(texts(10, start=31))
            sim.change(rpm=1_200)
            await embedder.embed(texts(1, start=50))
            assert embedder.limiter.current_limits.rpm == 1_200
            # More than fifty in this minute, and no more than are left in the server's bucket.
            await embedder.embed(texts(30, start=60))
            sim.change(rpm=80)
            await embedder.embed(texts(1, start=100))
            assert embedder.limiter.current_limits.rpm == 80
            await embedder.embed(texts(7, start=110))
            assert embedder.limiter.try_acquire() > 20
    assert sim.ledger.statuses() == {200: 80}


class Smaller:
    """Answers in this process: by its first answer it has fewer tokens a minute than is assumed."""

    name, model, priced_as = "smaller", "in-process", "in-process"
    rules = EmbeddingRules(dimensions=1, price="free")
    limits = Limits(tpm=100, auto=True, max_in_flight=2)

    def __init__(self, quota, *failures):
        self.quota_key = (id(self),)
        refusal = RateLimitError("429: more than the account's tokens", status=429)
        refusal.feedback = Feedback((Reported("tpm", quota),), exceeded=("tpm",))
        self.failures = [refusal, *failures]
        self.sent = []

    async def open(self):
        pass

    async def embed(self, texts):
        self.sent.append(len(texts))
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        rows = np.array([[float(text)] for text in texts], np.float32)
        return EmbeddingAnswer(rows, (), Usage(requests=1))

    async def aclose(self):
        pass


async def embedded(provider, texts):
    """Embed in one request, as the limits are first; what waits for the next minute need not."""
    quick = RetryPolicy(max_retries=2, base_delay=0.0)
    embedder = Embedder(provider, packing="fewest", retry=quick)
    running = asyncio.create_task(embedder.embed(texts))
    while not (running.done() or embedder.limiter.snapshot().waiting):  # noqa: ASYNC110 - of another's making
        await asyncio.sleep(0.01)
    embedder.limiter.learn(Feedback((Reported("tpm", 10_000),)))
    return (await running)[:, 0].tolist()


async def test_a_request_of_more_than_the_account_turns_out_to_have_is_split():
    numbers = [str(i) for i in range(40)]
    provider = Smaller(12)
    assert await embedded(provider, numbers) == [float(number) for number in numbers]
    # A token each: 20 are more than 12 too.
    assert provider.sent == [40, 10, 10, 20]
    provider = Smaller(12, None, AuthenticationError("401: no such key", status=401))
    with pytest.raises(AuthenticationError) as caught:
        await embedded(provider, numbers)
    assert provider.sent == [40, 10, 10]
    assert np.isnan(caught.value.finished[:, 0]).tolist() == [False] * 10 + [True] * 30
    provider = Smaller(2)
    with pytest.raises(RequestTooLargeError, match="a request of 5 tokens"):
        await embedded(provider, ["12345 12345"])
    assert provider.sent == [1]


async def test_nothing_above_the_configured_is_ever_held():
    with Simulator(rpm=6_000, tpm=5_000_000, sub_window=0) as sim:
        async with embedder_of(sim, limits=Limits(rpm=600, tpm=9_000)) as embedder:
            await embedder.embed(texts(5))
            now = embedder.limiter.current_limits
            assert (now.rpm, now.tpm) == (600, 9_000)
            sim.change(rpm=300)
            await embedder.embed(texts(1, start=12))
            now = embedder.limiter.current_limits
    assert (now.rpm, now.tpm) == (300, 9_000)


async def test_a_days_limit_is_held_once_it_is_stated():
    limiter = RateLimiter(Limits(rpm=500, tpm=100_000, auto=True), margin=0)
    assert limiter.current_limits.rpd is None
    assert [it.limit for it in limiter.snapshot().windows] == [500, 100_000]
    limiter.learn(Feedback((Reported("rpd", 3),)))
    assert limiter.current_limits.rpd == 3
    for _ in range(3):
        assert limiter.try_acquire() == 0
    assert limiter.try_acquire() > 80_000


def test_a_burst_lowers_the_second_and_not_the_minute():
    limiter = RateLimiter(Limits(rpm=600, sub_window=1.0), margin=0)
    burst = Feedback(reported=(Reported("rpm", 600, 400),), exceeded=("rpm",))

    def held():
        return {window.name: window.limit for window in limiter.snapshot().windows}

    for _ in range(2):
        limiter.learn(burst, outcome="refused")
        assert held()["rpm"] == 600
    assert held()["sub_window"] == 9


def test_a_sub_window_follows_its_minute():
    limiter = RateLimiter(Limits(rpm=500, auto=True, sub_window=1.0), margin=0)
    for rpm, second in [(90, 2), (600, 10), (1, 1)]:
        limiter.learn(Feedback((Reported("rpm", rpm),)))
        windows = {it.name: it.limit for it in limiter.snapshot().windows}
        assert (windows["rpm"], windows["sub_window"]) == (rpm, second)


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
                with pytest.raises(RetriesExhaustedError):
                    await embedder.embed([text])
            assert embedder.limiter.snapshot().rate_limited == 3
    arrivals = [record.arrival for record in sim.ledger]
    assert all(after - before >= 0.5 for before, after in itertools.pairwise(arrivals))


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
    assert 29 < limiter.try_acquire() < 30.001
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
    errors = [OverloadedError("no", retry_after=0.05), RateLimitError("no", retry_after=0.05)]

    def call():
        if errors:
            raise errors.pop()
        return "done"

    async def call_async():
        return call()

    policy = RetryPolicy(base_delay=0)
    began = time.monotonic()
    assert await policy.call(call_async, limiter=limiter) == "done"
    assert time.monotonic() - began >= 0.1
    assert limiter.snapshot().rate_limited == 1
    errors.append(RateLimitError("no"))
    assert await asyncio.to_thread(policy.call_sync, call, limiter=limiter) == "done"
    assert limiter.snapshot().rate_limited == 2


async def test_a_spent_quota_says_nothing_about_the_pace():
    limiter = limiter_of(rpm=100)

    async def call():
        error = InsufficientQuotaError("spent", status=429)
        error.feedback = Feedback((Reported("rpm", 50),), 30.0, ("rpm",))
        raise error

    for _ in range(5):
        with pytest.raises(InsufficientQuotaError):
            await RetryPolicy().call(call, limiter=limiter)
    assert limiter.current_limits.rpm == 50
    assert limiter.try_acquire() == 0
    assert limiter.snapshot().rate_limited == 0


@pytest.mark.skipif(sys.platform == "win32", reason="limiters are not shared there")
def test_what_one_process_learns_holds_for_all_that_share(tmp_path, monkeypatch):
    monkeypatch.setenv("TOLLWAY_LIMITS_DIR", str(tmp_path))
    limits = Limits(rpm=500, tpm=100_000, auto=True)
    first, second = (RateLimiter(limits, shared="learned") for _ in range(2))
    first.learn(Feedback((Reported("rpm", 20), Reported("rpd", 1_000))))
    # Neither is taught anew by one that comes later and knows nothing.
    third = RateLimiter(limits, shared="learned")
    for limiter in (first, second, third):
        now = limiter.current_limits
        assert (now.rpm, now.tpm, now.rpd) == (20, 100_000, 1_000)
    for limiter in (first, second, third):
        limiter.close()
    # An answer that comes after that teaches nobody, and is no error.
    first.learn(Feedback((Reported("rpm", 30),)))
