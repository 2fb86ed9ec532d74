"""RetryPolicy and retry: what is tried again, after which wait, and what is raised in the end."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import pickle
import time
from typing import get_args

import pytest

from tollway import _core, errors
from tollway.retry import CallRecord, Jitter, RetryPolicy, Strategy, retry
from tollway.retry.policy import Clock
from tollway.types import Attempt


class Time:
    """A clock whose sleeps take no time; `slept` are the waits."""

    def __init__(self):
        self.now = 0.0
        self.slept = []
        self.clock = Clock(lambda: self.now, self.sleep, self.sleep_sync)

    async def sleep(self, seconds):
        self.sleep_sync(seconds)

    def sleep_sync(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


def policy(clock, **options):
    return RetryPolicy(**{"jitter": "none", "_clock": clock.clock, **options})


class Flaky:
    """Raises each outcome that is an exception, in turn, then returns the first that is not."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.calls = 0

    def __call__(self):
        outcome = self.outcomes[min(self.calls, len(self.outcomes) - 1)]
        self.calls += 1
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def awaited(self):
        await asyncio.sleep(0)
        return self()


@pytest.fixture(params=["sync", "async"])
def run(request):
    """Run a call of a policy through either of its two loops."""

    async def run(policy, flaky):
        if request.param == "sync":
            return policy.call_sync(flaky)
        return await policy.call(flaky.awaited)

    return run


async def test_a_success_comes_back_without_a_wait(run):
    clock = Time()
    flaky = Flaky({"a": 1})
    assert await run(policy(clock), flaky) == {"a": 1}
    assert (flaky.calls, clock.slept) == (1, [])


@pytest.mark.parametrize(
    "error",
    [
        errors.RateLimitError("slow down"),
        errors.OverloadedError("busy"),
        errors.InternalServerError("broken"),
        errors.APITimeoutError("late"),
        errors.APIConnectionError("gone"),
        errors.BadResponseError("odd"),
        ConnectionResetError(),
        TimeoutError(),
    ],
)
async def test_passing_failures_are_retried(run, error):
    clock = Time()
    flaky = Flaky(error, error, "done")
    assert await run(policy(clock), flaky) == "done"
    assert clock.slept == [1.0, 2.0]


@pytest.mark.parametrize(
    "error",
    [
        errors.AuthenticationError("no"),
        errors.PermissionDeniedError("no"),
        errors.InsufficientQuotaError("spent", retry_after=1.0),
        errors.NotFoundError("no"),
        errors.BadRequestError("no"),
        errors.DeadlineExceededError("over"),
        errors.RetriesExhaustedError("over"),
        ValueError("no"),
        OSError("no"),
        KeyboardInterrupt(),
    ],
)
async def test_other_errors_pass_untouched_and_at_once(run, error):
    clock = Time()
    flaky = Flaky(error)
    with pytest.raises(type(error)) as caught:
        await run(policy(clock), flaky)
    assert caught.value is error
    assert (error.__cause__, error.__context__) == (None, None)
    assert (flaky.calls, clock.slept) == (1, [])


async def test_the_last_error_is_raised_with_all_attempts_and_no_last_sleep(run):
    clock = Time()
    first = errors.InternalServerError("broken", status=500, request_id="r1")
    last = errors.RateLimitError("slow down", status=429, request_id="r2")
    flaky = Flaky(first, first, last)
    with pytest.raises(
        errors.RetriesExhaustedError, match=r"3 attempts failed.*slow down"
    ) as caught:
        await run(policy(clock, max_retries=2), flaky)
    assert caught.value.__cause__ is last
    assert caught.value.attempts == (
        Attempt(1, 0.0, "InternalServerError", 500, "r1", 1.0),
        Attempt(2, 1.0, "InternalServerError", 500, "r1", 2.0),
        Attempt(3, 3.0, "RateLimitError", 429, "r2", 0.0),
    )
    assert clock.slept == [1.0, 2.0]


async def test_no_retries_means_one_attempt(run):
    clock = Time()
    flaky = Flaky(TimeoutError())
    with pytest.raises(errors.RetriesExhaustedError, match="1 attempt failed"):
        await run(policy(clock, max_retries=0), flaky)
    assert (flaky.calls, clock.slept) == (1, [])


async def test_the_servers_hint_is_a_floor_and_wins_over_the_cap(run):
    clock = Time()
    flaky = Flaky(
        errors.RateLimitError("wait", retry_after=300),
        errors.RateLimitError("wait", retry_after=0.5),
        errors.RateLimitError("wait", retry_after=-7.0),
        errors.RateLimitError("wait", retry_after=float("nan")),
        "done",
    )
    assert await run(policy(clock), flaky) == "done"
    assert clock.slept == [300.0, 2.0, 4.0, 8.0]


@pytest.mark.parametrize("hint", [600.5, 1e300, float("inf")])
async def test_a_hint_over_ten_minutes_is_not_waited_for(run, hint):
    clock = Time()
    error = errors.RateLimitError("tomorrow", retry_after=hint)
    with pytest.raises(errors.RetriesExhaustedError, match="more than 600 s") as caught:
        await run(policy(clock), Flaky(error))
    assert caught.value.__cause__ is error
    assert (len(caught.value.attempts), clock.slept) == (1, [])


async def test_a_wait_past_the_deadline_raises_at_once(run):
    clock = Time()
    error = errors.InternalServerError("broken")
    with pytest.raises(errors.DeadlineExceededError, match="deadline of 7 s") as caught:
        await run(policy(clock, deadline=7), Flaky(error))
    assert caught.value.__cause__ is error
    assert [attempt.wait for attempt in caught.value.attempts] == [1.0, 2.0, 0.0]
    assert (clock.slept, clock.now) == ([1.0, 2.0], 3.0)


@pytest.mark.parametrize(
    ("deadline", "until", "told"),
    [
        (0.25, 60.0, "before the deadline of 0.25 s; 1 attempt failed"),
        (60.0, 0.25, "before the deadline, 0.25 s after the call began; 1 attempt failed"),
        (None, 0.25, "before the deadline, 0.25 s after the call began; 1 attempt failed"),
        (None, 1e-5, "before the deadline; 1 attempt failed"),
        (60.0, -1.0, "nothing is begun after the deadline; nothing was tried to its end"),
    ],
)
async def test_a_deadline_that_is_shared_is_not_said_to_be_what_it_left(deadline, until, told):
    async def fail():
        fail_sync()

    def fail_sync():
        raise errors.InternalServerError("broken")

    patient = policy(Time(), deadline=deadline)
    with pytest.raises(errors.DeadlineExceededError, match=told):
        patient.call_sync(fail_sync, until=until)
    # It never gives the loop a turn, in which the deadline could interrupt it.
    with pytest.raises(errors.DeadlineExceededError, match=told):
        await patient.call(fail, until=until)


async def test_time_outs_may_wait_twice_as_long(run):
    clock = Time()
    flaky = Flaky(errors.APITimeoutError("late"), errors.InternalServerError("broken"), "done")
    await run(policy(clock, base_delay=500.0), flaky)
    assert clock.slept == [120.0, 60.0]


async def test_retry_on_adds_foreign_errors_and_any_error_may_say_so_itself(run):
    class MineError(Exception):
        retryable = True

    clock = Time()
    flaky = Flaky(LookupError(), MineError(), "done")
    assert await run(policy(clock, retry_on=(LookupError,)), flaky) == "done"
    with pytest.raises(TimeoutError):
        await run(policy(clock, retry_on=(LookupError,)), Flaky(TimeoutError()))


async def test_every_retry_is_told_and_logged_without_its_message(run, caplog):
    clock = Time()
    told = []
    error = errors.RateLimitError("key sk-secret of body")
    with caplog.at_level(logging.WARNING, logger="tollway.retry"):
        await run(policy(clock, max_retries=3, on_retry=lambda *a: told.append(a)), Flaky(error, 1))
    assert told == [(Attempt(1, 0.0, "RateLimitError", None, None, 1.0), error, 1.0)]
    assert [record.message for record in caplog.records] == [
        "attempt 1/4 failed: RateLimitError; next in 1.00 s"
    ]


async def test_a_foreign_errors_message_is_not_repeated(run):
    flaky = Flaky(ConnectionError("https://host/?key=sk-secret"))
    with pytest.raises(errors.RetriesExhaustedError) as caught:
        await run(policy(Time(), max_retries=1), flaky)
    assert "sk-secret" not in str(caught.value)


async def test_what_on_retry_raises_ends_the_call(run):
    def stop(attempt, error, wait):
        raise RuntimeError("enough")

    flaky = Flaky(TimeoutError())
    with pytest.raises(RuntimeError, match="enough"):
        await run(policy(Time(), on_retry=stop), flaky)
    assert flaky.calls == 1


async def test_an_attempt_that_is_cancelled_from_within_is_tried_again(run):
    cancelled = asyncio.CancelledError()
    assert await run(policy(Time()), Flaky(cancelled, cancelled, "done")) == "done"
    with pytest.raises(errors.RetriesExhaustedError, match="cancelled from within") as caught:
        await run(policy(Time(), max_retries=1), Flaky(cancelled, cancelled))
    failure = caught.value.__cause__
    assert isinstance(failure, errors.APIConnectionError)
    assert failure.__cause__ is cancelled
    with pytest.raises(errors.APIConnectionError):
        await run(policy(Time(), give_up_on=(errors.APIConnectionError,)), Flaky(cancelled))


@pytest.mark.parametrize("around", [{}, {"record": CallRecord()}], ids=["alone", "around"])
async def test_cancellation_ends_an_attempt_for_good(around):
    began = asyncio.Event()
    calls = []

    async def slow():
        calls.append(began.set())
        await asyncio.sleep(60)

    task = asyncio.create_task(RetryPolicy(base_delay=0.0).call(slow, **around))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(calls) == 1


async def test_cancellation_ends_a_wait_at_once():
    waiting = asyncio.Event()
    flaky = Flaky(TimeoutError())
    patient = RetryPolicy(jitter="none", base_delay=50.0, on_retry=lambda *_: waiting.set())
    task = asyncio.create_task(patient.call(flaky.awaited))
    await waiting.wait()
    await asyncio.sleep(0)
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert flaky.calls == 1
    assert time.monotonic() - began < 5


def test_the_real_clock_waits():
    began = time.monotonic()
    flaky = Flaky(TimeoutError(), "done")
    assert RetryPolicy(jitter="none", base_delay=0.02).call_sync(flaky) == "done"
    assert time.monotonic() - began >= 0.02


async def test_the_real_clock_waits_in_a_loop():
    began = time.monotonic()
    flaky = Flaky(TimeoutError(), "done")
    assert await RetryPolicy(jitter="none", base_delay=0.02).call(flaky.awaited) == "done"
    assert time.monotonic() - began >= 0.02


def test_a_seed_repeats_the_waits():
    def waits(seed):
        clock = Time()
        with pytest.raises(errors.RetriesExhaustedError):
            policy(clock, jitter="full", seed=seed).call_sync(Flaky(ConnectionError()))
        return clock.slept

    assert waits(1) == waits(1) != waits(2)
    assert waits(None) != waits(None)


def test_defaults_are_those_of_each_strategy():
    assert RetryPolicy().base_delay == 1.0
    assert RetryPolicy(strategy="linear").base_delay == 10.0
    assert RetryPolicy(strategy="fixed").base_delay == 60.0
    assert RetryPolicy(strategy="fixed", base_delay=0).base_delay == 0


@pytest.mark.parametrize("strategy", get_args(Strategy))
@pytest.mark.parametrize("jitter", get_args(Jitter))
def test_the_core_knows_every_name(strategy, jitter):
    assert 0 <= _core.retry_delay(strategy, jitter, 1.0, 60.0, 3, 0.5) <= 60


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("strategy", "exponential"),
        ("jitter", "some"),
        ("max_retries", -1),
        ("max_retries", 1.5),
        ("max_retries", True),
        ("max_retries", 2**32),
        ("base_delay", -0.1),
        ("base_delay", "1"),
        ("max_delay", float("inf")),
        ("max_delay", None),
        ("deadline", float("nan")),
        ("deadline", -1),
    ],
)
def test_a_wrong_value_is_named(field, value):
    with pytest.raises(errors.ConfigurationError) as caught:
        RetryPolicy(**{field: value})
    assert str(caught.value).startswith(f"{field}={value!r} ")


@pytest.mark.parametrize("names", [("often", "none"), ("fixed", "some")])
def test_the_core_refuses_names_it_does_not_know(names):
    with pytest.raises(errors.ConfigurationError, match="is not one of"):
        _core.retry_delay(*names, 1.0, 60.0, 1, 0.5)


def test_a_policy_is_a_value():
    one = RetryPolicy(max_retries=3, seed=7)
    assert one == RetryPolicy(max_retries=3, seed=7)
    assert hash(one) == hash(RetryPolicy(max_retries=3, seed=7))
    assert pickle.loads(pickle.dumps(one)) == one
    assert dataclasses.replace(one, strategy="fixed").max_retries == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.max_retries = 4
    assert "_clock" not in repr(one)


def test_retry_decorates_functions_and_methods():
    clock = Time()

    class Client:
        def __init__(self):
            self.flaky = Flaky(TimeoutError(), "done")

        @retry(policy(clock))
        def fetch(self, suffix, *, upper=False):
            """Fetch it."""
            text = self.flaky() + suffix
            return text.upper() if upper else text

    assert Client().fetch("!", upper=True) == "DONE!"
    assert Client.fetch.__doc__ == "Fetch it."
    assert clock.slept == [1.0]


async def test_retry_decorates_coroutine_functions():
    clock = Time()
    flaky = Flaky(TimeoutError(), "done")

    @retry(policy(clock))
    async def fetch(suffix):
        return await flaky.awaited() + suffix

    assert asyncio.iscoroutinefunction(fetch)
    assert await fetch("!") == "done!"
    assert clock.slept == [1.0]


def test_retry_takes_options_or_nothing():
    flaky = Flaky(TimeoutError())

    @retry(max_retries=2, base_delay=0.0)
    def fetch():
        return flaky()

    with pytest.raises(errors.RetriesExhaustedError):
        fetch()
    assert flaky.calls == 3

    @retry
    def plain():
        return "done"

    assert plain() == "done"


def test_retry_refuses_what_it_cannot_retry():
    def numbers():
        yield 1

    async def later():
        yield 1

    for function in (numbers, later):
        with pytest.raises(errors.ConfigurationError, match="generator"):
            retry(function)
    with pytest.raises(errors.ConfigurationError, match="decorates functions"):
        retry(3)
    with pytest.raises(errors.ConfigurationError, match="max_retries"):
        retry(max_retries=-1)
