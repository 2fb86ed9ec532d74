"""Hedging: a second attempt beside a slow one, and what becomes of the other."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import time

import pytest

from polling import until
from tollway import errors
from tollway.limiter import Limits, RateLimiter
from tollway.retry import CallRecord, CircuitBreaker, Hedge, RetryBudget, RetryPolicy, retry

SPENT = errors.InsufficientQuotaError("429 insufficient_quota: spent", status=429)


def paid(*args, **options):
    """A hedge that may be sent at once."""
    hedge = Hedge(*args, **options)
    for _ in range(20):
        hedge.budget.deposit()
    return hedge


def in_turn(*attempts):
    """An attempt that is each of the given ones in turn."""
    left = iter(attempts)

    def attempt():
        return next(left)()

    return attempt


def overtaken(first, second):
    """Two attempts, of which the first goes on once the second has begun."""
    begun = asyncio.Event()

    async def slow():
        await begun.wait()
        return await first()

    async def hedge():
        begun.set()
        return await second()

    return in_turn(slow, hedge)


def ends(seconds, outcome):
    """An attempt that returns or raises `outcome` after some seconds."""

    async def attempt():
        await asyncio.sleep(seconds)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return attempt


@contextlib.contextmanager
def within(seconds):
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


async def test_a_slow_attempt_gets_a_second_one_and_the_loser_is_cancelled():
    ended = []

    async def attempt():
        number = len(ended) + len(running)
        running.append(number)
        try:
            await asyncio.sleep(60 if number == 0 else 0)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return number

    running: list[int] = []
    limiter, record = RateLimiter(Limits(rpm=2)), CallRecord()
    hedge = Hedge(0.02)
    for _ in range(10):
        hedge.budget.deposit()
    with within(5):
        result = await RetryPolicy(hedge=hedge).call(attempt, limiter=limiter, record=record)
    assert result == 1
    assert ended == ["cancelled"]
    assert (record.sent, record.hedges, record.hedges_won) == (2, 1, 1)
    assert limiter.try_acquire() > 0, "the hedge took a permit of its own"


async def test_without_budget_there_is_no_hedge_and_nobody_fails():
    record, budget = CallRecord(), RetryBudget()
    policy = RetryPolicy(hedge=Hedge(0.0), budget=budget)
    for _ in range(10):
        await policy.call(lambda: asyncio.sleep(0.005), record=record)
    assert (record.sent, record.hedges) == (10, 0)
    # The ten successes have paid for one.
    await policy.call(overtaken(ends(0, "first"), ends(0, "second")), record=record)
    assert (record.sent, record.hedges) == (12, 1)


async def test_a_failed_hedge_leaves_the_first_attempt_alone():
    calls = []

    async def attempt():
        calls.append(1)
        if len(calls) > 1:
            raise errors.RateLimitError("too many")
        await until(lambda: record.attempts)
        return "first"

    hedge = Hedge(0.01)
    for _ in range(10):
        hedge.budget.deposit()
    record = CallRecord()
    assert await RetryPolicy(hedge=hedge).call(attempt, record=record) == "first"
    assert (record.hedges, record.hedges_won) == (1, 0)
    assert [attempt.error for attempt in record.attempts] == ["RateLimitError"]


async def test_a_failure_before_the_delay_is_retried_as_always():
    flaky = in_turn(ends(0, TimeoutError()), ends(0, "done"))
    assert await RetryPolicy(hedge=Hedge(60.0), base_delay=0.0).call(flaky) == "done"


def test_a_percentile_needs_twenty_successes():
    hedge = Hedge(percentile=90)
    for latency in range(19):
        hedge.note(latency)
    assert hedge.delay is None
    hedge.note(19)
    assert hedge.delay == 18
    for _ in range(256):
        hedge.note(5)
    assert hedge.delay == 5


@pytest.mark.parametrize("options", [{}, {"after": 1.0, "percentile": 90}, {"after": -1.0}])
def test_a_hedge_needs_one_delay(options):
    with pytest.raises(errors.ConfigurationError):
        Hedge(**options)


def test_threads_cannot_be_hedged():
    policy = RetryPolicy(hedge=Hedge(1.0))
    for use in (policy.call_sync, retry(policy)):
        with pytest.raises(errors.ConfigurationError, match="cannot be hedged"):
            use(lambda: 1)
    assert repr(pickle.loads(pickle.dumps(policy)).hedge) == "Hedge(after=1)"


async def test_what_is_final_for_one_ends_both():
    breaker, record = CircuitBreaker(), CallRecord()
    both = overtaken(ends(0, SPENT), ends(60, "late"))
    with within(10), pytest.raises(errors.InsufficientQuotaError):
        await RetryPolicy(hedge=paid(0.01)).call(both, breaker=breaker, record=record)
    assert breaker.state == "open"
    assert (record.hedges, record.attempts) == (1, [])
    both = in_turn(ends(60, "late"), ends(0.01, errors.BadRequestError("400")))
    with within(10), pytest.raises(errors.BadRequestError):
        await RetryPolicy(hedge=paid(0.01)).call(both)


async def test_the_first_failure_opens_the_breaker_while_the_hedge_goes_on():
    breaker = CircuitBreaker(trips_on=(errors.OverloadedError,))
    busy = errors.OverloadedError("busy", status=503)
    release, record = asyncio.Event(), CallRecord()

    async def second():
        await release.wait()
        return "second"

    both = overtaken(ends(0, busy), second)
    call = asyncio.create_task(
        RetryPolicy(hedge=paid(0.01)).call(both, breaker=breaker, record=record)
    )
    await until(lambda: breaker.state == "open")
    assert not call.done()
    release.set()
    assert await call == "second"
    # The first is on record although its failure was of no consequence.
    assert [(attempt.error, attempt.wait) for attempt in record.attempts] == [
        ("OverloadedError", 0.0)
    ]
    assert (record.sent, record.hedges_won) == (2, 1)


async def test_a_hedge_that_waits_for_its_permit_is_not_sent_once_the_breaker_is_open():
    breaker, limiter, record = CircuitBreaker(), RateLimiter(Limits(rpm=1)), CallRecord()
    release = asyncio.Event()

    async def first():
        await release.wait()
        return "first"

    policy = RetryPolicy(hedge=paid(0.01))
    call = asyncio.create_task(policy.call(first, limiter=limiter, breaker=breaker, record=record))
    await until(lambda: limiter.waiting == 1)
    with pytest.raises(errors.InsufficientQuotaError):
        await RetryPolicy().call(ends(0, SPENT), breaker=breaker)
    await until(lambda: limiter.waiting == 0)
    release.set()
    assert await call == "first"
    assert (record.sent, record.hedges, record.attempts) == (1, 0, [])


async def test_a_failed_hedge_of_a_probe_lets_no_second_probe_through():
    breaker = CircuitBreaker(cooldown=0.0)
    with pytest.raises(errors.InsufficientQuotaError):
        await RetryPolicy().call(ends(0, SPENT), breaker=breaker)
    release, record = asyncio.Event(), CallRecord()

    async def first():
        await release.wait()
        return "first"

    both = in_turn(first, ends(0.0, errors.OverloadedError("busy")))
    probe = asyncio.create_task(
        RetryPolicy(hedge=paid(0.01)).call(both, breaker=breaker, record=record)
    )
    await until(lambda: record.attempts)
    with pytest.raises(errors.CircuitOpenError):
        await RetryPolicy().call(ends(0, "other"), breaker=breaker)
    release.set()
    assert await probe == "first"
    assert breaker.state == "closed"


async def test_successes_pay_for_hedges_and_teach_the_percentile():
    hedge = Hedge(percentile=50)
    policy = RetryPolicy(hedge=hedge)
    for _ in range(20):
        await policy.call(ends(0.001, "done"))
    assert hedge.budget.balance == pytest.approx(2.0)
    assert hedge.delay is not None
    assert hedge.delay >= 0.001
    delays = []
    for _ in range(64):
        hedge.note(1.0)
        delays.append(hedge.delay)
    # Sorted anew every sixteenth time; in the end most of what is known is slow.
    changes = [i for i in range(1, 64) if delays[i] != delays[i - 1]]
    assert delays[-1] == 1.0
    assert all((i - changes[0]) % 16 == 0 for i in changes)


async def test_when_both_fail_both_are_on_the_error():
    record = CallRecord()

    async def first():
        await until(lambda: record.attempts)
        raise errors.OverloadedError("first")

    both = in_turn(first, ends(0.0, errors.RateLimitError("second")))
    with pytest.raises(errors.RetriesExhaustedError, match="2 attempts failed") as caught:
        await RetryPolicy(hedge=paid(0.01), max_retries=0).call(both, record=record)
    assert [attempt.error for attempt in caught.value.attempts] == [
        "RateLimitError",
        "OverloadedError",
    ]
    assert [attempt.number for attempt in caught.value.attempts] == [1, 2]
