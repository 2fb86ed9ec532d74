"""RetryBudget and CircuitBreaker: when retries wait, and when nothing is sent at all."""

from __future__ import annotations

import asyncio
import gc
import logging
import pickle
import threading
import time
import weakref

import pytest

from tollway import errors
from tollway.limiter import Limits, RateLimiter
from tollway.retry import (
    CallRecord,
    CircuitBreaker,
    RetryBudget,
    RetryPolicy,
    shared_breaker,
    shared_budget,
)

NOW = RetryPolicy(base_delay=0.0, max_retries=3)
SPENT = errors.InsufficientQuotaError("429 insufficient_quota: spent", status=429)


async def fail():
    raise errors.OverloadedError("busy")


async def refuse():
    raise SPENT


async def succeed():
    return "done"


# The budget


async def test_unpaid_retries_go_one_by_one():
    budget = RetryBudget(rate=20)
    record = CallRecord()
    began = time.monotonic()
    with pytest.raises(errors.RetriesExhaustedError):
        await NOW.call(fail, budget=budget, record=record)
    # Three retries, the first at once.
    assert time.monotonic() - began >= 0.1
    assert 0.09 < record.budget_wait <= record.seconds
    assert record.sent == 4


async def test_a_success_lets_a_waiting_retry_go():
    budget = RetryBudget(ratio=1.0, rate=0.001)
    await budget.acquire()
    waiting = [asyncio.create_task(budget.acquire()) for _ in range(3)]
    await asyncio.sleep(0.01)
    assert budget.waiting == 3
    waiting[0].cancel()
    await asyncio.sleep(0)
    await NOW.call(succeed, budget=budget)
    await asyncio.wait_for(waiting[1], 5)
    assert not waiting[2].done()
    assert not budget.take_paid(), "what is paid for is the waiting one's"
    budget.deposit()
    await asyncio.wait_for(waiting[2], 5)
    assert budget.waiting == 0


def test_threads_and_loops_share_a_budget_in_order():
    budget = RetryBudget(rate=50)
    policy = RetryPolicy(base_delay=0.0, max_retries=1, budget=budget)

    def call():
        with pytest.raises(errors.RetriesExhaustedError):
            policy.call_sync(lambda: asyncio.run(fail()))

    began = time.monotonic()
    threads = [threading.Thread(target=call) for _ in range(11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert time.monotonic() - began >= 10 / 50
    assert budget.waiting == 0


def test_a_policy_says_whether_there_is_a_budget():
    def balance_after(policy, given):
        asyncio.run(policy.call(succeed, budget=given))
        return given.balance

    assert balance_after(RetryPolicy(), RetryBudget()) == pytest.approx(0.1)
    assert balance_after(RetryPolicy(budget=None), RetryBudget()) == 0
    own = RetryBudget(ratio=0.5)
    assert balance_after(RetryPolicy(budget=own), RetryBudget()) == 0
    assert own.balance == 0.5
    assert pickle.loads(pickle.dumps(own)).ratio == 0.5
    with pytest.raises(errors.ConfigurationError, match="budget="):
        RetryPolicy(budget=0.1)
    with pytest.raises(errors.ConfigurationError):
        RetryBudget(ratio=2)
    with pytest.raises(errors.ConfigurationError):
        RetryBudget(rate=0)


def test_budgets_and_breakers_of_a_key_are_shared_while_in_use():
    assert shared_budget("a") is not shared_budget("b")
    one = shared_breaker("key", "openai/model")
    assert shared_breaker("key") is one
    reference = weakref.ref(one)
    del one
    gc.collect()
    assert reference() is None


# The breaker


async def test_a_refusal_for_good_stops_everything_behind_it(caplog):
    breaker = CircuitBreaker("openai/model")
    limiter = RateLimiter(Limits(rpm=2))
    for _ in range(2):
        limiter.acquire_sync()
    sent = []

    async def send():
        sent.append(1)

    queued = [
        asyncio.create_task(NOW.call(send, limiter=limiter, breaker=breaker)) for _ in range(500)
    ]
    sleepy = RetryPolicy(base_delay=60.0, jitter="none")
    queued.append(asyncio.create_task(sleepy.call(fail, breaker=breaker)))
    await asyncio.sleep(0.01)
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(errors.InsufficientQuotaError) as caught,
    ):
        await NOW.call(refuse, breaker=breaker)
    assert caught.value is SPENT
    ends = await asyncio.wait_for(asyncio.gather(*queued, return_exceptions=True), 5)
    assert {type(end) for end in ends} == {errors.CircuitOpenError}
    assert all(isinstance(end.__cause__, errors.InsufficientQuotaError) for end in ends)
    assert "429 insufficient_quota: spent" in str(ends[0])
    assert [attempt.error for attempt in ends[-1].attempts] == ["OverloadedError"]
    assert (sent, limiter.waiting) == ([], 0)
    assert [record.message for record in caplog.records[-1:]] == [
        "openai/model is not asked any more: InsufficientQuotaError (429)"
    ]
    # The cause keeps no frames, which hold the request.
    assert ends[0].__cause__.__traceback__ is None
    assert breaker.state == "open"
    assert 55 < ends[0].retry_in <= 60


def test_threads_behind_it_stop_too():
    breaker = CircuitBreaker()
    limiter = RateLimiter(Limits(rpm=1))
    limiter.acquire_sync()
    ends = []

    def call():
        try:
            NOW.call_sync(lambda: 1, limiter=limiter, breaker=breaker)
        except errors.TollwayError as error:
            ends.append(type(error))

    threads = [threading.Thread(target=call) for _ in range(5)]
    for thread in threads:
        thread.start()
    while limiter.waiting < 5:
        time.sleep(0.001)

    def refused():
        raise errors.AuthenticationError("401", status=401)

    with pytest.raises(errors.AuthenticationError):
        NOW.call_sync(refused, breaker=breaker)
    for thread in threads:
        thread.join(10)
    assert ends == [errors.CircuitOpenError] * 5
    with pytest.raises(errors.CircuitOpenError):
        NOW.call_sync(lambda: 1, breaker=breaker)


async def test_after_the_cooldown_one_is_let_through():
    breaker = CircuitBreaker(cooldown=0.05)
    with pytest.raises(errors.InsufficientQuotaError):
        await NOW.call(refuse, breaker=breaker)
    await asyncio.sleep(0.06)
    assert breaker.state == "half_open"
    gate = asyncio.Event()
    probe = asyncio.create_task(NOW.call(gate.wait, breaker=breaker))
    await asyncio.sleep(0)
    with pytest.raises(errors.CircuitOpenError, match="while one request tries it"):
        await NOW.call(succeed, breaker=breaker)
    gate.set()
    assert await probe is True
    assert (breaker.state, breaker.reason) == ("closed", None)
    assert await NOW.call(succeed, breaker=breaker) == "done"


async def test_a_cancelled_or_failing_probe_leaves_room_for_the_next():
    breaker = CircuitBreaker(cooldown=0.0)
    with pytest.raises(errors.InsufficientQuotaError):
        await NOW.call(refuse, breaker=breaker)
    probe = asyncio.create_task(NOW.call(lambda: asyncio.sleep(60), breaker=breaker))
    await asyncio.sleep(0.01)
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    with pytest.raises(errors.RetriesExhaustedError, match="4 attempts"):
        await NOW.call(fail, breaker=breaker)
    assert breaker.state == "half_open"
    assert await NOW.call(succeed, breaker=breaker) == "done"


async def test_reset_closes_it_and_old_refusals_do_not_open_it():
    breaker = CircuitBreaker()
    gate = asyncio.Event()

    async def refused_late():
        await gate.wait()
        raise SPENT

    late = asyncio.create_task(NOW.call(refused_late, breaker=breaker))
    await asyncio.sleep(0)
    with pytest.raises(errors.InsufficientQuotaError):
        await NOW.call(refuse, breaker=breaker)
    breaker.reset()
    gate.set()
    with pytest.raises(errors.InsufficientQuotaError):
        await late
    assert breaker.state == "closed"
    assert await NOW.call(succeed, breaker=breaker) == "done"


async def test_the_time_that_the_provider_names_counts_where_it_is_longer():
    breaker = CircuitBreaker(cooldown=0.0)

    async def refuse():
        raise errors.InsufficientQuotaError("a day's quota", retry_after=3_600)

    with pytest.raises(errors.InsufficientQuotaError):
        await NOW.call(refuse, breaker=breaker)
    assert breaker.state == "open"


async def test_passing_failures_do_not_open_it_and_trips_on_is_the_users():
    breaker = CircuitBreaker(trips_on=(errors.PermissionDeniedError,))
    for error in (errors.OverloadedError("busy"), SPENT):

        async def met(error=error):
            raise error

        with pytest.raises(errors.TollwayError):
            await NOW.call(met, breaker=breaker)
    assert breaker.state == "closed"
    with pytest.raises(errors.ConfigurationError):
        CircuitBreaker(cooldown=-1)


async def test_a_real_cancellation_stays_one_when_the_breaker_opens_with_it():
    breaker = CircuitBreaker()
    limiter = RateLimiter(Limits(rpm=1))
    limiter.acquire_sync()
    waiting = asyncio.create_task(NOW.call(succeed, limiter=limiter, breaker=breaker))
    await asyncio.sleep(0.01)
    with pytest.raises(errors.InsufficientQuotaError):
        await NOW.call(refuse, breaker=breaker)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
