"""CircuitBreaker: when nothing is sent at all."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import threading
import time

import pytest

from tollway import errors
from tollway.limiter import Limits, RateLimiter
from tollway.retry import CircuitBreaker, RetryPolicy

NOW = RetryPolicy(base_delay=0.0, max_retries=3)
SPENT = errors.InsufficientQuotaError("429 insufficient_quota: spent", status=429)


async def fail():
    raise errors.OverloadedError("busy")


async def refuse():
    raise SPENT


async def succeed():
    return "done"


async def opened(**options):
    breaker = CircuitBreaker(**options)
    with pytest.raises(errors.InsufficientQuotaError):
        await NOW.call(refuse, breaker=breaker)
    return breaker


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


async def test_a_wait_that_no_call_would_wait_for_opens_it():
    breaker = CircuitBreaker("openai/model")
    limiter = RateLimiter(Limits(rpm=1))
    limiter.acquire_sync()
    queued = asyncio.create_task(NOW.call(succeed, limiter=limiter, breaker=breaker))
    await asyncio.sleep(0.01)

    async def a_days_quota():
        raise errors.RateLimitError("requests per day", status=429, retry_after=40_000)

    with pytest.raises(errors.RetriesExhaustedError, match="40000 s"):
        await NOW.call(a_days_quota, breaker=breaker)
    with pytest.raises(errors.CircuitOpenError, match="requests per day") as caught:
        await asyncio.wait_for(queued, 5)
    assert 39_000 < caught.value.retry_in <= 40_000
    passing = CircuitBreaker()

    async def a_minutes_quota():
        raise errors.RateLimitError("requests per minute", status=429, retry_after=600)

    with pytest.raises(errors.DeadlineExceededError):
        await RetryPolicy(deadline=5.0).call(a_minutes_quota, breaker=passing)
    assert passing.state == "closed"


async def test_what_prevents_a_probe_leaves_room_for_the_next():
    breaker = await opened(cooldown=0.0)
    limiter = RateLimiter(Limits(tpm=100))

    def wrong():
        raise KeyError("tokens")

    for tokens, kind in ((101, errors.RequestTooLargeError), (wrong, KeyError)):
        around = {"limiter": limiter, "tokens": tokens, "breaker": breaker}
        with pytest.raises(kind):
            await NOW.call(succeed, **around)
        with pytest.raises(kind):
            await asyncio.to_thread(NOW.call_sync, lambda: 1, **around)
    assert breaker.state == "half_open"
    with pytest.raises(KeyboardInterrupt):
        NOW.call_sync(interrupted, breaker=breaker)
    assert await NOW.call(succeed, breaker=breaker) == "done"
    assert breaker.state == "closed"


def interrupted():
    raise KeyboardInterrupt


async def test_nobody_is_the_probe_while_it_waits():
    breaker = await opened(cooldown=0.0)
    limiter = RateLimiter(Limits(rpm=1))
    limiter.acquire_sync()
    queued = asyncio.create_task(NOW.call(succeed, limiter=limiter, breaker=breaker))
    await asyncio.sleep(0.01)
    assert limiter.waiting == 1
    assert await NOW.call(succeed, breaker=breaker) == "done"
    assert breaker.state == "closed"
    queued.cancel()
    with pytest.raises(asyncio.CancelledError):
        await queued


def test_threads_that_find_it_open_are_told_why():
    breaker = CircuitBreaker(cooldown=0.001)
    causes, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            try:
                NOW.call_sync(refused, breaker=breaker)
            except errors.CircuitOpenError as error:
                causes.append(type(error.__cause__))
            except errors.InsufficientQuotaError:
                pass

    def refused():
        raise SPENT

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    stop.set()
    for thread in threads:
        thread.join(10)
    assert set(causes) == {errors.InsufficientQuotaError}


def _state_in_child(breaker, answers):
    answers.put((breaker.state, NOW.call_sync(lambda: "probe", breaker=breaker)))


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
async def test_a_forked_child_does_not_wait_for_its_parents_probe():
    breaker = await opened(cooldown=0.0)
    gate = asyncio.Event()
    probe = asyncio.create_task(NOW.call(gate.wait, breaker=breaker))
    await asyncio.sleep(0)
    with pytest.raises(errors.CircuitOpenError):
        await NOW.call(succeed, breaker=breaker)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=_state_in_child, args=(breaker, answers))
    child.start()
    await asyncio.to_thread(child.join, 20)
    assert child.exitcode == 0
    assert answers.get() == ("half_open", "probe")
    gate.set()
    assert await probe is True


async def test_the_reason_goes_with_the_state():
    class Refused(errors.AuthenticationError):
        def __init__(self, model, key_name):
            super().__init__(f"{model} refused {key_name}", status=401)
            self.key_name = key_name

    breaker = CircuitBreaker("m", cooldown=30.0)

    async def refuse_with_its_own_class():
        raise Refused("model", "FIRST_KEY")

    with pytest.raises(Refused):
        await NOW.call(refuse_with_its_own_class, breaker=breaker)
    assert isinstance(breaker.reason, Refused)
    assert (str(breaker.reason), breaker.reason.key_name) == (
        "model refused FIRST_KEY",
        "FIRST_KEY",
    )
    assert repr(breaker) == "<CircuitBreaker m: open, Refused>"
    breaker.reset()
    assert (breaker.state, breaker.reason) == ("closed", None)
    for wrong in (ValueError, "AuthenticationError"):
        with pytest.raises(errors.ConfigurationError, match="trips_on"):
            CircuitBreaker(trips_on=(wrong,))


async def test_waiters_of_a_closed_loop_are_no_matter():
    breaker = CircuitBreaker()
    limiter = RateLimiter(Limits(rpm=1))
    limiter.acquire_sync()

    def leave_one_waiting():
        async def leave():
            task = asyncio.create_task(NOW.call(succeed, limiter=limiter, breaker=breaker))
            await asyncio.sleep(0.01)
            return task

        loop = asyncio.new_event_loop()
        left = loop.run_until_complete(leave())
        loop.close()
        return left

    left = await asyncio.to_thread(leave_one_waiting)
    waiting = asyncio.create_task(NOW.call(succeed, limiter=limiter, breaker=breaker))
    await asyncio.sleep(0.01)
    with pytest.raises(errors.InsufficientQuotaError):
        await NOW.call(refuse, breaker=breaker)
    with pytest.raises(errors.CircuitOpenError):
        await asyncio.wait_for(waiting, 5)
    # Closed by hand, so that it is not collected with its loop gone.
    left.get_coro().close()
    left._log_destroy_pending = False
