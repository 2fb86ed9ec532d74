"""What is around the attempts of a call: limiter, deadline, overrides, the record."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

import tollway
from tollway import errors
from tollway.limiter import Limits, RateLimiter
from tollway.retry import CallRecord, Hedge, RetryBudget, RetryPolicy, retry
from tollway.retry.policy import Clock
from tollway.retry.sleeper import sleep
from tollway.types import Usage

NOW = RetryPolicy(base_delay=0.0, max_retries=5)


def failing(*outcomes):
    """A sync function that raises or returns each outcome in turn."""
    left = list(outcomes)

    def function():
        outcome = left.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return function


def awaited(function):
    async def later():
        await asyncio.sleep(0)
        return function()

    return later


@contextlib.contextmanager
def within(seconds):
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


# Overrides


def test_a_class_of_errors_has_its_own_rule():
    slept = []
    policy = RetryPolicy(
        jitter="none",
        max_retries=3,
        overrides={
            errors.OverloadedError: {"base_delay": 5.0, "max_retries": 6},
            errors.ProviderError: {"strategy": "fixed", "base_delay": 2.0},
        },
        _clock=Clock(sleep_sync=slept.append),
    )
    busy, broken = errors.OverloadedError("busy"), errors.InternalServerError("broken")
    policy.call_sync(failing(busy, broken, TimeoutError(), busy, busy, 1))
    # The nearest class counts; those without a rule have the policy's own.
    assert slept == [5.0, 2.0, 4.0, 40.0, 60.0]
    with pytest.raises(errors.RetriesExhaustedError, match="4 attempts"):
        policy.call_sync(failing(*[broken] * 9))
    with pytest.raises(errors.RetriesExhaustedError, match="7 attempts"):
        policy.call_sync(failing(*[busy] * 9))


def test_a_strategy_of_a_class_brings_its_own_base():
    policy = RetryPolicy(overrides={LookupError: {"strategy": "linear"}})
    assert policy.rule(KeyError).base_delay == 10.0
    assert policy.rule(ValueError).base_delay == 1.0
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert hash(policy) == hash(pickle.loads(pickle.dumps(policy)))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"RateLimitError": {}}, "is not a class of errors"),
        ({KeyError: {"max_retry": 3}}, "max_retry"),
        ({KeyError: {"max_retries": -1}}, r"overrides\[KeyError\]\.max_retries=-1"),
        ({KeyError: {"strategy": "often"}}, r"overrides\[KeyError\]\.strategy"),
        ({KeyError: {"jitter": "some"}}, r"overrides\[KeyError\]\.jitter"),
        ({KeyError: {"max_delay": -1.0}}, r"overrides\[KeyError\]\.max_delay"),
    ],
)
def test_a_wrong_override_is_named(overrides, message):
    with pytest.raises(errors.ConfigurationError, match=message):
        RetryPolicy(overrides=overrides)


def test_what_is_retried_can_be_changed_both_ways():
    refused = errors.BadRequestError("odd server")
    policy = RetryPolicy(base_delay=0.0, retry_on=(errors.BadRequestError,))
    assert policy.call_sync(failing(refused, 1)) == 1
    late = errors.DeadlineExceededError("over")
    with pytest.raises(errors.DeadlineExceededError):
        RetryPolicy(base_delay=0.0, retry_on=(TimeoutError,)).call_sync(failing(late))
    policy = RetryPolicy(base_delay=0.0, give_up_on=(errors.OverloadedError,))
    with pytest.raises(errors.OverloadedError):
        policy.call_sync(failing(errors.OverloadedError("busy"), 1))
    assert policy.call_sync(failing(errors.RateLimitError("wait"), 1)) == 1


# The limiter


async def test_each_attempt_takes_a_permit():
    limiter = RateLimiter(Limits(rpm=100, tpm=1_000))
    tokens = iter([10, 20, 30])
    flaky = awaited(failing(TimeoutError(), TimeoutError(), "done"))
    assert await NOW.call(flaky, limiter=limiter, tokens=lambda: next(tokens)) == "done"
    # 940 of 1,000 are left, not 941.
    assert limiter.try_acquire(941) > 0
    assert limiter.try_acquire(940) == 0


def test_threads_wait_for_permits_too():
    limiter = RateLimiter(Limits(rps=2), margin=0)
    record = CallRecord()
    policy = RetryPolicy(base_delay=0.0)
    function = failing(TimeoutError(), TimeoutError(), TimeoutError(), "done")
    began = time.monotonic()
    assert policy.call_sync(function, limiter=limiter, record=record) == "done"
    assert time.monotonic() - began >= 1.0
    assert (record.sent, len(record.attempts)) == (4, 3)
    assert 0.9 < record.queue_wait <= record.seconds


async def test_a_retry_comes_ahead_of_new_work():
    limiter = RateLimiter(Limits(rps=50), margin=0)
    done = []

    async def call(number):
        failures = [errors.OverloadedError("busy")] if number == 0 else []

        async def attempt():
            if failures:
                raise failures.pop()
            done.append(number)

        await RetryPolicy(base_delay=0.01, jitter="none").call(attempt, limiter=limiter)

    await asyncio.gather(*(call(number) for number in range(150)))
    assert done.index(0) <= 100, "the window after its own"
    assert [number for number in done if number] == list(range(1, 150))


async def test_what_was_used_replaces_what_was_reserved():
    limiter = RateLimiter(Limits(tpm=1_000, max_in_flight=1))
    answer = SimpleNamespace(usage=Usage(input_tokens=100, requests=1))

    async def attempt():
        assert limiter.snapshot().in_flight == 1
        return answer

    await NOW.call(attempt, limiter=limiter, tokens=900)
    assert limiter.snapshot()["tpm"].used == 100
    NOW.call_sync(lambda: answer, limiter=limiter, tokens=900)
    assert limiter.snapshot()["tpm"].used == 200
    guess = SimpleNamespace(usage=Usage(input_tokens=100, requests=1, estimated=True))
    await NOW.call(awaited(lambda: guess), limiter=limiter, tokens=300)
    assert limiter.snapshot()["tpm"].used == 500
    assert limiter.snapshot().in_flight == 0


async def test_a_permit_may_be_kept_beyond_the_call():
    limiter, record = RateLimiter(Limits(tpm=1_000, max_in_flight=1)), CallRecord()
    await NOW.call(awaited(lambda: 1), limiter=limiter, tokens=900, keep_permit=True, record=record)
    assert limiter.snapshot().in_flight == 1
    record.permit.settle({"input_tokens": 100})
    record.permit.release()
    record.permit.release()
    assert (limiter.snapshot()["tpm"].used, limiter.snapshot().in_flight) == (100, 0)
    busy = errors.OverloadedError("busy")
    with pytest.raises(errors.RetriesExhaustedError):
        await NOW.call(awaited(failing(*[busy] * 9)), limiter=limiter, keep_permit=True)
    assert limiter.snapshot().in_flight == 0


async def test_hedges_and_first_attempts_share_what_may_be_in_flight():
    limiter = RateLimiter(Limits(max_in_flight=3))
    most = 0

    async def attempt():
        nonlocal most
        most = max(most, limiter.snapshot().in_flight)
        await asyncio.sleep(0.02)

    hedge = Hedge(0.001)
    for _ in range(100):
        hedge.budget.deposit()
    policy = RetryPolicy(hedge=hedge)
    await asyncio.gather(*(policy.call(attempt, limiter=limiter) for _ in range(12)))
    assert most == 3
    assert limiter.snapshot().in_flight == 0


def test_the_decorator_counts_tokens_from_the_arguments():
    limiter = RateLimiter(Limits(tpm=100))

    @retry(NOW, limiter=limiter, tokens=len)
    def send(text):
        return text.upper()

    assert send("a" * 60) == "A" * 60
    assert limiter.try_acquire(41) > 0
    with pytest.raises(errors.RequestTooLargeError):
        send("a" * 101)


async def test_the_decorator_sees_what_is_async():
    class Client:
        async def __call__(self, text):
            return text

    assert await retry(Client())("a") == "a"
    with pytest.raises(errors.ConfigurationError, match="fields of the policy"):
        retry(NOW, max_retries=3)


async def test_what_has_only_begun_is_not_taken_for_a_result():
    async def later():
        return 1

    async def items():
        yield 1

    for unfinished in (later, items, lambda: (i for i in [1])):
        with pytest.raises(errors.ConfigurationError, match="failures come later"):
            NOW.call_sync(lambda made=unfinished: made())
        with pytest.raises(errors.ConfigurationError, match="failures come later"):
            NOW.call_sync(lambda made=unfinished: made(), record=CallRecord())


async def test_methods_of_a_class_are_retried_under_their_decorators():
    class Client:
        calls = 0

        @retry(NOW)
        @staticmethod
        async def static():
            Client.calls += 1
            if Client.calls < 3:
                raise TimeoutError
            return "static"

        @retry(NOW)
        @classmethod
        def of_class(cls):
            cls.calls += 1
            if cls.calls < 6:
                raise TimeoutError
            return cls.__name__

    assert await Client.static() == "static"
    assert Client().of_class() == "Client"
    assert Client.calls == 6


@pytest.mark.parametrize(
    "wrong",
    [
        {"retry_on": ("OSError",)},
        {"give_up_on": 3},
        {"on_retry": 3},
        {"on_retry": sleep},
        {"overrides": None},
        {"budget": []},
        {"seed": [1]},
    ],
)
def test_what_a_policy_cannot_use_is_refused_when_it_is_made(wrong):
    with pytest.raises(errors.ConfigurationError, match=next(iter(wrong))):
        RetryPolicy(**wrong)


def test_classes_of_errors_may_be_one_or_a_list():
    assert RetryPolicy(retry_on=OSError, give_up_on=[KeyError]) == RetryPolicy(
        retry_on=(OSError,), give_up_on=(KeyError,)
    )


# The record


def test_a_record_of_several_calls_sums_them_up():
    record, busy = CallRecord(), errors.OverloadedError("busy")
    for _ in range(4):
        assert NOW.call_sync(failing(busy, busy, busy, 1), record=record) == 1
    assert (record.sent, len(record.attempts)) == (16, 12)
    assert [attempt.number for attempt in record.attempts] == [1, 2, 3] * 4
    with pytest.raises(errors.RetriesExhaustedError, match="6 attempts failed") as caught:
        NOW.call_sync(failing(*[busy] * 6), record=record)
    assert len(caught.value.attempts) == 6


async def test_a_wait_that_ends_early_is_on_record():
    limiter, record = RateLimiter(Limits(rpm=1)), CallRecord()
    limiter.acquire_sync()
    with pytest.raises(errors.DeadlineExceededError):
        await RetryPolicy(deadline=0.1).call(lambda: sleep(0), limiter=limiter, record=record)
    assert record.queue_wait >= 0.09
    slow = RetryPolicy(strategy="fixed", jitter="none")
    call = asyncio.create_task(slow.call(awaited(failing(TimeoutError())), record=record))
    while not record.attempts:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert record.backoff >= 0.05
    budget = RetryBudget(rate=0.001)
    await budget.acquire()
    call = asyncio.create_task(
        NOW.call(awaited(failing(TimeoutError())), budget=budget, record=record)
    )
    while budget.waiting == 0:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert record.budget_wait >= 0.05


def test_the_waits_of_a_thread_are_on_record():
    record = CallRecord()
    policy = RetryPolicy(strategy="fixed", base_delay=0.05, jitter="none")
    assert policy.call_sync(failing(TimeoutError(), TimeoutError(), 1), record=record) == 1
    assert record.backoff == pytest.approx(0.1)


async def test_the_decorator_counts_tokens_of_async_functions():
    limiter = RateLimiter(Limits(tpm=100))

    @retry(NOW, limiter=limiter, tokens=len)
    async def send(text):
        return text

    assert await send("a" * 60) == "a" * 60
    assert limiter.try_acquire(41) > 0


# The deadline


async def test_a_deadline_ends_an_attempt_that_runs():
    ended = []

    async def slow():
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    with within(5), pytest.raises(errors.DeadlineExceededError, match="interrupted") as caught:
        await RetryPolicy(deadline=0.05).call(slow)
    assert ended == [True]
    assert [attempt.error for attempt in caught.value.attempts] == ["CancelledError"]
    assert asyncio.current_task().cancelling() == 0


async def test_a_deadline_keeps_the_attempts_and_the_last_error():
    error = errors.OverloadedError("busy", status=503)
    calls = failing(error)

    async def busy_then_slow():
        with contextlib.suppress(IndexError):
            calls()
        await asyncio.sleep(60)

    with pytest.raises(errors.DeadlineExceededError, match="OverloadedError: busy") as caught:
        await RetryPolicy(base_delay=0.0, deadline=0.5).call(busy_then_slow)
    assert caught.value.__cause__ is error
    assert [attempt.status for attempt in caught.value.attempts] == [503, None]


@pytest.mark.parametrize("in_thread", [True, False])
async def test_a_deadline_ends_the_wait_for_a_permit(in_thread):
    limiter = RateLimiter(Limits(rpm=1))
    limiter.acquire_sync()
    policy = RetryPolicy(deadline=0.1)
    if in_thread:
        call = asyncio.to_thread(policy.call_sync, lambda: 1, limiter=limiter)
    else:
        call = policy.call(awaited(lambda: 1), limiter=limiter)
    with within(5), pytest.raises(errors.DeadlineExceededError, match="nothing was tried"):
        await call
    assert limiter.waiting == 0


async def test_several_calls_share_a_deadline():
    until = time.monotonic() + 0.1
    policy = RetryPolicy(deadline=60)
    with within(5), pytest.raises(errors.DeadlineExceededError):
        await policy.call(lambda: asyncio.sleep(60), until=until)
    started = []
    with pytest.raises(errors.DeadlineExceededError, match="nothing is begun"):
        await policy.call(awaited(lambda: started.append(1)), until=until)
    with pytest.raises(errors.DeadlineExceededError, match="nothing is begun"):
        policy.call_sync(lambda: started.append(1), until=until)
    assert started == []


def test_a_threads_late_answer_counts():
    assert RetryPolicy(deadline=0.01).call_sync(lambda: time.sleep(0.05) or "late") == "late"


async def test_a_time_out_of_the_attempt_itself_is_retried():
    async def slow():
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)

    with pytest.raises(errors.RetriesExhaustedError, match="3 attempts"):
        await RetryPolicy(base_delay=0.0, max_retries=2, deadline=60).call(slow)


# Sleeping


async def test_sleepers_wake_in_order_and_cancelled_ones_leave(monkeypatch):
    woken = []

    async def sleeper(seconds):
        await sleep(seconds)
        woken.append(seconds)

    # However long it takes until all of them sleep, they began at one time.
    loop = asyncio.get_running_loop()
    began = loop.time()
    with monkeypatch.context() as patch:
        patch.setattr(loop, "time", lambda: began)
        delays = [0.05, 0.01, 0.03, 0.02, 0.04]
        tasks = [asyncio.create_task(sleeper(delay)) for delay in delays]
        await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert woken == [0.02, 0.03, 0.04, 0.05]


async def test_thousands_wake_and_none_early():
    loop = asyncio.get_running_loop()

    async def one(seconds):
        due = loop.time() + seconds
        await sleep(seconds)
        return loop.time() - due

    late = await asyncio.gather(*(one(0.05 + i % 7 / 100) for i in range(5_000)))
    assert min(late) > -loop_resolution(loop)


def loop_resolution(loop):
    # A loop lets its timers come early by the resolution of its clock.
    return loop._clock_resolution + 1e-6


async def test_a_later_sleeper_does_not_put_off_an_earlier_one():
    long = [asyncio.create_task(sleep(60)) for _ in range(3)]
    await asyncio.sleep(0)
    began = time.monotonic()
    await sleep(0.02)
    await asyncio.gather(sleep(0.03), sleep(0.01))
    assert time.monotonic() - began < 30
    for task in long:
        task.cancel()
    await asyncio.gather(*long, return_exceptions=True)


def test_each_loop_has_sleepers_of_its_own():
    def run():
        asyncio.run(asyncio.wait_for(sleep(0.02), 5))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    run()
    run()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_the_function_is_there_whatever_was_imported_first():
    script = "import tollway, tollway.retry; tollway.retry(max_retries=1)(print)('called')"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "called\n"
    assert tollway.retry(lambda: 7)() == 7
