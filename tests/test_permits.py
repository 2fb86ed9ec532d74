"""Reservations: what comes back, what stands, and how many are under way."""

from __future__ import annotations

import asyncio
import gc
import threading
from types import SimpleNamespace

import pytest

from tollway.bridge import run_sync
from tollway.errors import (
    APIConnectionError,
    AuthenticationError,
    ConfigurationError,
    DeadlineExceededError,
    RequestTooLargeError,
)
from tollway.limiter import Limits, RateLimiter
from tollway.retry import CircuitBreaker, RetryPolicy
from tollway.retry import call as call_module

LIMITS = Limits(rpm=100, tpm=10_000, input_tpm=6_000, output_tpm=5_000, rpd=500, tpd=50_000)


def used(limiter):
    return {window.name: window.used for window in limiter.snapshot().windows}


def taken(requests, tokens, output_tokens, weight=1):
    both = tokens + weight * output_tokens
    return {
        "rpm": requests,
        "tpm": both,
        "input_tpm": tokens,
        "output_tpm": output_tokens,
        "rpd": requests,
        "tpd": both,
    }


async def test_a_settled_reservation_takes_what_was_used():
    limiter = RateLimiter(LIMITS)
    async with limiter.reserve(tokens=120, output_tokens=400) as permit:
        assert (permit.tokens, permit.output_tokens) == (120, 400)
        assert used(limiter) == taken(1, 120, 400)
        permit.sent()
        permit.settle(SimpleNamespace(input_tokens=100, output_tokens=50))
    assert used(limiter) == taken(1, 100, 50)


def test_over_use_is_charged_and_blocks_what_follows():
    limiter = RateLimiter(LIMITS)
    with limiter.reserve(tokens=100, output_tokens=1_000) as permit:
        permit.sent()
        permit.settle({"input_tokens": 90, "output_tokens": 7_000})
    assert used(limiter) == taken(1, 90, 7_000)
    assert limiter.snapshot()["output_tpm"].remaining == 0
    assert limiter.try_acquire(1, 1) > 50
    assert limiter.try_acquire(1) == 0.0


@pytest.mark.parametrize(
    ("usage", "tokens", "output_tokens"),
    [
        ({}, 100, 40),
        ({"input_tokens": 30}, 30, 40),
        ({"input_tokens": 30, "output_tokens": None}, 30, 40),
        (SimpleNamespace(output_tokens=0), 100, 0),
        ({"input_tokens": 100, "cached_tokens": 80, "output_tokens": 40}, 100, 40),
        ({"input_tokens": 0, "output_tokens": 0}, 0, 0),
    ],
)
def test_what_a_usage_leaves_out_stands_as_reserved(usage, tokens, output_tokens):
    limiter = RateLimiter(LIMITS)
    with limiter.reserve(tokens=100, output_tokens=40) as permit:
        permit.settle(usage)
    assert used(limiter) == taken(1, tokens, output_tokens)


def test_cached_tokens_do_not_count_where_the_limits_say_so():
    limiter = RateLimiter(Limits(input_tpm=1_000, cached_free=True))
    with limiter.reserve(tokens=100) as permit:
        permit.settle({"input_tokens": 100, "cached_tokens": 80})
    assert used(limiter) == {"input_tpm": 20}


@pytest.mark.parametrize("wrong", [-1, 1.5, True, "7", 2**63])
def test_a_usage_that_makes_no_sense_is_refused_and_the_reservation_stands(wrong):
    limiter = RateLimiter(LIMITS)
    with limiter.reserve(tokens=100, output_tokens=40) as permit:
        with pytest.raises(ConfigurationError, match="output_tokens"):
            permit.settle({"input_tokens": 1, "output_tokens": wrong})
        assert used(limiter) == taken(1, 100, 40)
        permit.settle({"input_tokens": 1, "output_tokens": 1})
        permit.settle({"input_tokens": 9, "output_tokens": 9})
    assert used(limiter) == taken(1, 1, 1)


def test_an_absurd_usage_holds_up_for_a_window_and_not_for_ever():
    limiter = RateLimiter(LIMITS)
    core = limiter._core
    stamps = [core.enqueue(1, 1, now=0.0)[1] for _ in range(5)]
    for stamp in stamps:
        core.settle(stamp, 1, 1, 2**62, 2**62, now=0.0)
    assert core.try_acquire(1, now=60.2) > 0
    # The minute is free again, the day is not.
    assert core.try_acquire(1, 1, now=60.3) > 3_600
    assert core.try_acquire(now=60.3) == 0.0
    assert core.try_acquire(5_000, 5_000, now=86_400 + 120.0) == 0.0


async def test_an_exception_before_it_was_sent_gives_everything_back():
    limiter = RateLimiter(LIMITS)
    with pytest.raises(KeyError):
        async with limiter.reserve(tokens=120, output_tokens=400):
            raise KeyError
    with pytest.raises(KeyError), limiter.reserve(tokens=120):
        raise KeyError
    assert used(limiter) == taken(0, 0, 0)
    assert limiter.snapshot().in_flight == 0


async def test_an_exception_after_it_was_sent_leaves_it_until_it_is_settled():
    limiter = RateLimiter(LIMITS)
    permits = []

    async def fail():
        async with limiter.reserve(tokens=120, output_tokens=400) as permit:
            permits.append(permit)
            permit.sent()
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    [permit] = permits
    permit.cancel()
    assert used(limiter) == taken(1, 120, 400)
    assert limiter.snapshot().in_flight == 0
    permit.settle({"input_tokens": 120, "output_tokens": 3})
    assert used(limiter) == taken(1, 120, 3)


@pytest.mark.parametrize("ending", ["settle", "cancel"])
async def test_who_waits_goes_when_enough_comes_back(ending):
    limiter = RateLimiter(Limits(tpm=100))
    async with limiter.reserve(tokens=90) as permit:
        pass
    task = asyncio.create_task(limiter.acquire(50))
    while not limiter.waiting:  # noqa: ASYNC110 - nobody tells when it holds
        await asyncio.sleep(0)
    if ending == "settle":
        permit.settle({"input_tokens": 20})
    else:
        permit.cancel()
    await asyncio.wait_for(task, 20)


def test_a_block_that_ends_without_either_counts_as_sent():
    limiter = RateLimiter(LIMITS)
    with limiter.reserve(tokens=120):
        pass
    assert used(limiter) == taken(1, 120, 0)
    with limiter.reserve(tokens=120) as permit:
        permit.cancel()
        permit.cancel()
        permit.sent()
        permit.settle({"input_tokens": 50})
    assert used(limiter) == taken(1, 120, 0)


def test_a_cancelled_request_comes_back_to_windows_shorter_than_a_minute():
    limiter = RateLimiter(Limits(rpm=60, sub_window=10.0))
    with limiter.reserve() as permit:
        permit.cancel()
    assert used(limiter) == {"rpm": 0, "sub_window": 0}


def test_one_sent_late_counts_once_in_windows_shorter_than_a_minute():
    core = RateLimiter(Limits(rpm=600, sub_window=1.0))._core
    _, stamp, _ = core.enqueue(0, now=5.0)
    assert core.sent(stamp, 0, 0, now=5.1) > stamp
    assert core.used(now=5.1) == [1, 1]
    # A second and its margin from when it was sent, not from its permit.
    assert core.used(now=6.1) == [1, 1]
    assert core.used(now=6.13) == [1, 0]


def test_output_tokens_count_by_their_weight():
    limiter = RateLimiter(Limits(tpm=1_000, tpd=10_000, output_weight=5))
    with limiter.reserve(tokens=100, output_tokens=100) as permit:
        assert used(limiter) == {"tpm": 600, "tpd": 600}
        permit.settle({"input_tokens": 150, "output_tokens": 10})
    assert used(limiter) == {"tpm": 200, "tpd": 200}


@pytest.mark.parametrize("late", [0.1, 0.3])
def test_one_sent_late_is_charged_when_it_is_sent(late):
    limiter = RateLimiter(Limits(rpm=10, tpm=1_000))
    core = limiter._core
    _, stamp, _ = core.enqueue(100, now=5.0)
    moved = core.sent(stamp, 100, 0, now=5.0 + late)
    # Half of the margin is for its way.
    assert (moved > stamp) == (late > 0.125)
    assert core.used(now=5.0 + late) == [1, 100]
    # Its window is 60.25 s from the charge that counts.
    assert core.used(now=65.4) == ([1, 100] if late > 0.25 else [0, 0])
    core.settle(moved, 100, 0, 20, 0, now=6.0)
    assert core.used(now=6.0) == [1, 20]


async def test_no_more_are_under_way_than_may_be():
    limiter = RateLimiter(Limits(max_in_flight=3))
    under_way, most = 0, 0

    async def call():
        nonlocal under_way, most
        async with limiter.reserve(tokens=7):
            under_way += 1
            most = max(most, under_way, limiter.snapshot().in_flight)
            await asyncio.sleep(0)
            under_way -= 1

    def in_thread():
        for _ in range(20):
            with limiter.reserve():
                pass

    threads = [threading.Thread(target=in_thread) for _ in range(2)]
    for thread in threads:
        thread.start()
    async with asyncio.timeout(30):
        await asyncio.gather(*(call() for _ in range(100)))
    for thread in threads:
        await asyncio.to_thread(thread.join, 30)
        assert not thread.is_alive()
    assert most == 3
    assert limiter.snapshot().in_flight == 0


async def test_who_gives_up_while_waiting_leaves_nothing_behind():
    limiter = RateLimiter(Limits(tpm=100, max_in_flight=5), margin=0)
    await limiter.acquire(100)
    with pytest.raises(DeadlineExceededError, match=r"0\.01 s; nothing was charged"):
        async with limiter.reserve(tokens=1, timeout=0.01):
            pytest.fail("it was not admitted")
    with pytest.raises(DeadlineExceededError), limiter.reserve(tokens=1, timeout=0.01):
        pytest.fail("it was not admitted")

    async def wait():
        async with limiter.reserve(tokens=1):
            pytest.fail("it was not admitted")

    task = asyncio.create_task(wait())
    while not limiter.waiting:  # noqa: ASYNC110 - nobody tells when it holds
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert limiter.waiting == limiter.snapshot().in_flight == 0
    assert used(limiter) == {"tpm": 100}


async def test_one_cancelled_while_it_is_woken_ends_its_reservation():
    limiter = RateLimiter(Limits(rpm=10, max_in_flight=1))

    async def wait():
        async with limiter.reserve():
            pytest.fail("it was cancelled")

    async with limiter.reserve() as permit:
        task = asyncio.create_task(wait())
        while not limiter.waiting:  # noqa: ASYNC110 - nobody tells when it holds
            await asyncio.sleep(0)
        permit.sent()
    # As the timer's thread does, with the task not yet told.
    while limiter.waiting:
        limiter.serve()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert limiter.snapshot().in_flight == 0
    assert used(limiter) == {"rpm": 1}


async def test_a_reservation_is_for_one_request_at_a_time():
    limiter = RateLimiter(Limits(rpm=10, max_in_flight=2))
    reservation = limiter.reserve(timeout=0.01)
    async with reservation:
        with pytest.raises(RuntimeError, match=r"call reserve\(\) for each"):
            await reservation.__aenter__()
        with pytest.raises(RuntimeError, match=r"call reserve\(\) for each"), reservation:
            pytest.fail("it is under way")
        assert limiter.snapshot().in_flight == 1
    with reservation, limiter.reserve():
        late = limiter.reserve(timeout=0.01)
        for _ in range(2):
            with pytest.raises(DeadlineExceededError):
                await late.__aenter__()
    assert limiter.snapshot().in_flight == 0


def test_an_attempt_left_behind_in_a_closed_loop_ends_its_permit():
    limiter = RateLimiter(Limits(rpm=10, max_in_flight=1))
    loop = asyncio.new_event_loop()
    task = loop.create_task(RetryPolicy().call(loop.create_future, limiter=limiter))
    while not limiter.snapshot().in_flight:
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    task._log_destroy_pending = False
    # As the collector does: in a context that is not the task's.
    task.get_coro().close()
    assert limiter.snapshot().in_flight == 0


def test_an_interrupt_as_the_permit_comes_gives_back_all_that_was_taken(monkeypatch):
    limiter = RateLimiter(Limits(rpm=10, max_in_flight=1))
    breaker = CircuitBreaker(cooldown=0.0)
    breaker.trip(breaker.enter(), AuthenticationError("no"))
    before = call_module.run_sync

    def interrupted(coroutine):
        before(coroutine)
        raise KeyboardInterrupt

    monkeypatch.setattr(call_module, "run_sync", interrupted)

    def refuse():
        raise APIConnectionError("no")

    with pytest.raises(KeyboardInterrupt):
        RetryPolicy(base_delay=0.0).call_sync(refuse, limiter=limiter, breaker=breaker)
    assert limiter.snapshot().in_flight == 0
    # It is half-open: the one request that tries it must not be the one that was never sent.
    breaker.check()


def test_a_sync_call_in_a_callback_of_another_is_refused_without_a_word_more(recwarn):
    limiter = RateLimiter(Limits(rpm=1))
    limiter.acquire_sync()

    async def callback():
        with pytest.raises(RuntimeError, match="callback"):
            RetryPolicy().call_sync(int, limiter=limiter)

    run_sync(callback())
    gc.collect()
    assert [str(each.message) for each in recwarn] == []


async def test_an_attempt_that_is_cancelled_from_within_ends_its_permit():
    limiter = RateLimiter(Limits(rpm=10, max_in_flight=1))
    calls = []

    async def ask():
        calls.append(limiter.snapshot().in_flight)
        if len(calls) == 1:
            raise asyncio.CancelledError
        return "done"

    policy = RetryPolicy(base_delay=0.0)
    # As the workers of a map are: one that ended silently would leave its prompts undone.
    assert (
        await asyncio.gather(*(policy.call(ask, limiter=limiter) for _ in range(3))) == ["done"] * 3
    )
    assert calls == [1] * 4
    assert limiter.snapshot().in_flight == 0


async def test_a_coroutine_collected_in_its_block_ends_its_reservation():
    limiter = RateLimiter(Limits(rpm=10, max_in_flight=1))

    async def hold():
        async with limiter.reserve():
            await asyncio.Future()

    held = hold()
    held.send(None)
    assert limiter.snapshot().in_flight == 1
    held.close()
    del held
    gc.collect()
    assert limiter.snapshot().in_flight == 0
    assert used(limiter) == {"rpm": 0}


async def test_a_higher_priority_goes_first():
    limiter = RateLimiter(Limits(max_in_flight=1))
    order = []

    async def call(priority):
        async with limiter.reserve(priority=priority):
            order.append(priority)

    async with limiter.reserve():
        tasks = [asyncio.create_task(call(priority)) for priority in [0, -1, 2, 0, 1]]
        while limiter.waiting < len(tasks):  # noqa: ASYNC110 - nobody tells when it holds
            await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert order == [2, 1, 0, 0, -1]
    with pytest.raises(ConfigurationError, match="priority"):
        await limiter.acquire(priority=1_000_001)


@pytest.mark.parametrize("priority", [0, 1_000_000, -1_000_000])
async def test_a_retry_is_admitted_whatever_the_priority_of_its_call(priority):
    limiter = RateLimiter(LIMITS)
    failures = [APIConnectionError("no"), APIConnectionError("no")]

    async def ask():
        if failures:
            raise failures.pop()
        return "done"

    policy = RetryPolicy(base_delay=0.0)
    assert await policy.call(ask, limiter=limiter, priority=priority) == "done"


async def test_who_waits_for_more_than_a_lowered_limit_is_refused():
    limiter = RateLimiter(Limits(tpm=100))
    await limiter.acquire(100)
    task = asyncio.create_task(limiter.acquire(80))
    while not limiter.waiting:  # noqa: ASYNC110 - nobody tells when it holds
        await asyncio.sleep(0)
    limiter.set_ceiling("tpm", 50)
    with pytest.raises(RequestTooLargeError, match="80 tokens"):
        await task
    with pytest.raises(RequestTooLargeError):
        limiter.try_acquire(51)
    window = limiter.snapshot()["tpm"]
    assert (window.limit, window.configured, window.remaining) == (50, 100, 0)
    with pytest.raises(ConfigurationError, match="rpq"):
        limiter.set_ceiling("rpq", 7)


def test_a_request_over_a_whole_quota_goes_alone_where_the_limits_say_so():
    limiter = RateLimiter(Limits(tpm=100, output_tpm=20, admit_oversized=True))
    assert "admit_oversized" in str(limiter.limits)
    with limiter.reserve(tokens=250, output_tokens=30) as permit:
        permit.sent()
        assert used(limiter) == {"tpm": 280, "output_tpm": 30}
        assert limiter.try_acquire(tokens=1) > 59
        permit.settle({"input_tokens": 50, "output_tokens": 30})
    assert used(limiter) == {"tpm": 80, "output_tpm": 30}
    # There is room for a part of it, but the window is not empty.
    assert limiter.try_acquire(tokens=101) > 59
    assert limiter.try_acquire(tokens=20) == 0.0
    with pytest.raises(RequestTooLargeError):
        RateLimiter(Limits(tpm=100)).try_acquire(tokens=101)


def test_a_pause_is_shown_and_held():
    limiter = RateLimiter(Limits(rpm=10, tpm=100))
    limiter.pause(20.0, "tpm")
    assert limiter.try_acquire() == 0.0
    assert 19 < limiter.try_acquire(1) <= 20.1
    limiter.pause(30.0)
    limiter.note_rate_limited()
    snapshot = limiter.snapshot()
    assert 29 < snapshot.paused_for <= 30.1
    assert snapshot.rate_limited == 1
    assert 29 < limiter.try_acquire() <= 30.1


@pytest.mark.parametrize(
    "wrong",
    [{"rpd": 2**27}, {"tpd": 2**35}, {"output_weight": 0}, {"output_weight": 1_001},
     {"time_zone": "Mars/Olympus"}, {"time_zone": "../etc/passwd"}, {"sub_window": (1.0, -1.0)},
     {"sub_window": [1.0, 10.0]}, {"sub_window": "1"}, {"time_zone": 3},
     {"input_tpm": 0}, {"output_tpm": 1.5}],
)  # fmt: skip
def test_limits_that_nothing_could_hold_are_refused(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Limits(**wrong)
