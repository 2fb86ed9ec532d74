"""Waiting for a limiter: from event loops and threads."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from itertools import pairwise

import pytest

from exact_log import Recorder, spent
from polling import until
from tollway import _core
from tollway.errors import ConfigurationError, RequestTooLargeError
from tollway.limiter import Limits, RateLimiter
from tollway.limiter import waiting as waiting_module

# One request in 50 ms, five in 20 ms, a hundred in 10 ms; the minute itself is never reached.
SLOW = Limits(rpm=1_200, sub_window=0.05)
QUICK = Limits(rpm=15_000, sub_window=0.02)
FAST = Limits(rpm=600_000, sub_window=0.01)


async def test_two_thousand_tasks_come_in_the_order_of_their_calls():
    limiter, recorder = spent(FAST, stopped=True)
    done = []

    async def task(number):
        await limiter.acquire()
        done.append(number)

    tasks = [asyncio.create_task(task(number)) for number in range(2_000)]
    await until(lambda: limiter.waiting == 2_000)
    recorder.go_on()
    await asyncio.gather(*tasks)
    assert done == list(range(2_000))
    assert len(recorder.exact.admitted) == 2_000
    assert recorder.exact.is_held()


@pytest.mark.parametrize("gone", [{0}, {2}, {4}, {0, 1}, {1, 3}, {0, 1, 2, 3, 4}])
async def test_a_cancelled_task_leaves_its_place_and_charges_nothing(gone):
    limiter, recorder = spent(SLOW, stopped=True)
    done = []

    async def task(number):
        await limiter.acquire()
        done.append(number)

    tasks = [asyncio.create_task(task(number)) for number in range(5)]
    await until(lambda: limiter.waiting == 5)
    for number in gone:
        tasks[number].cancel()
    recorder.go_on()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {n for n, r in enumerate(results) if isinstance(r, asyncio.CancelledError)} == gone
    assert done == [number for number in range(5) if number not in gone]
    assert len(recorder.exact.admitted) == len(done)
    assert limiter.waiting == 0
    assert limiter._waiters == {}


@pytest.mark.parametrize("place", ["task", "thread"])
async def test_when_the_first_leaves_the_next_goes_at_its_own_time(place):
    limiter = RateLimiter(Limits(tpm=100), margin=0)
    await limiter.acquire(60)
    first = asyncio.create_task(limiter.acquire(80))
    await until(lambda: limiter.waiting == 1)
    if place == "task":
        second = asyncio.create_task(limiter.acquire(30))
    else:
        second = asyncio.create_task(asyncio.to_thread(limiter.acquire_sync, 30))
    await until(lambda: limiter.waiting == 2)
    await asyncio.sleep(0.02)
    assert not second.done()
    first.cancel()
    # The first was a minute away; the second fits as it is, but not beside the first.
    await asyncio.wait_for(second, 20)
    assert limiter._core.used() == [90]


async def test_a_task_that_gives_up_by_timeout_leaves_the_queue():
    limiter = RateLimiter(Limits(tpm=100), margin=0)
    await limiter.acquire(100)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await limiter.acquire(1)
    assert limiter.waiting == 0
    assert limiter.try_acquire(1) > 50


def test_nobody_is_told_to_have_been_admitted_before_those_who_wait():
    core = _core.Limiter(rps=1, margin=0)
    assert core.try_acquire(now=0.0) == 0.0
    ticket, _, _ = core.enqueue(now=0.5)
    # The first in the queue is due, and the timer has not come yet.
    assert core.try_acquire(now=1.0) > 0
    [(served, _)], refused, wait = core.poll(9, now=1.0)
    assert (served, refused, wait) == (ticket, [], None)
    assert core.used(now=1.0) == [1]


def timers():
    return {thread for thread in threading.enumerate() if thread.name == "tollway-timer"}


def test_loops_and_threads_share_one_quota():
    limiter, recorder = spent(QUICK)
    failed = []
    # Of other tests there may be more than the one that is in use.
    waiting_module.timer().start()
    before = timers()

    def in_thread():
        for _ in range(40):
            limiter.acquire_sync()

    def in_loop():
        async def tasks():
            await asyncio.gather(*(limiter.acquire() for _ in range(80)))

        asyncio.run(tasks())

    def guarded(work):
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - a thread has nobody to raise to
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in [in_thread, in_loop] * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert failed == []
    assert len(recorder.exact.admitted) == 3 * (40 + 80)
    assert recorder.exact.is_held()
    assert limiter.waiting == 0
    assert before
    assert timers() == before


async def test_a_loop_closed_with_its_tasks_waiting_holds_up_nobody():
    limiter, recorder = spent(SLOW, stopped=True)
    other = asyncio.new_event_loop()

    def leave_behind():
        tasks = [other.create_task(limiter.acquire()) for _ in range(200)]
        other.run_until_complete(asyncio.sleep(0))
        # Nobody is to hear that they were destroyed while they waited.
        other.set_exception_handler(lambda *_: None)
        return tasks

    # A loop cannot be run inside another's thread.
    left = await asyncio.to_thread(leave_behind)
    assert limiter.waiting == len(left) == 200
    other.close()
    recorder.go_on()
    # Ten seconds, if each of the 200 were waited for.
    await asyncio.wait_for(asyncio.gather(*(limiter.acquire() for _ in range(3))), 5)
    # That the loop is closed shows when its first task is woken.
    assert len(recorder.exact.admitted) == 1 + 3
    assert limiter._waiters == {}


async def test_behind_those_of_a_closed_loop_the_next_goes_at_its_own_time():
    limiter = RateLimiter(Limits(tpm=100), margin=0)
    assert limiter._core.try_acquire(100, now=0.0) == 0.0
    recorder = Recorder(limiter, stopped=True)
    other = asyncio.new_event_loop()

    def leave_behind():
        tasks = [other.create_task(limiter.acquire(tokens)) for tokens in [50, 60]]
        other.run_until_complete(asyncio.sleep(0))
        other.set_exception_handler(lambda *_: None)
        return tasks

    left = await asyncio.to_thread(leave_behind)
    other.close()
    own = asyncio.create_task(limiter.acquire(50))
    await until(lambda: limiter.waiting == len(left) + 1)
    # Now there is room for 50 and 50, but for 60 not within a minute.
    recorder.go_on(since=60.0)
    waiting_module.timer().call(limiter)
    await asyncio.wait_for(own, 20)


def test_one_who_joins_while_others_are_served_is_not_lost():
    limiter, recorder = spent(QUICK)
    # From the ticket to the waiter: longer than the timer takes to come by.
    recorder.pause = 0.03

    def in_thread():
        for _ in range(5):
            limiter.acquire_sync()

    threads = [threading.Thread(target=in_thread, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert len(recorder.exact.admitted) == 20


async def test_a_coroutine_closed_while_it_waits_leaves_the_queue():
    limiter, recorder = spent(SLOW, stopped=True)
    closed = limiter.acquire()
    closed.send(None)
    assert limiter.waiting == 1
    closed.close()
    assert limiter.waiting == 0
    recorder.go_on()
    await limiter.acquire()
    assert len(recorder.exact.admitted) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs a signal")
def test_an_interrupted_thread_leaves_the_queue():
    limiter, recorder = spent(Limits(rps=1), stopped=True)

    def interrupt(*_):
        raise KeyboardInterrupt

    def alarm():
        while not limiter.waiting:
            time.sleep(0.001)
        time.sleep(0.05)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, interrupt)
    thread = threading.Thread(target=alarm)
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            limiter.acquire_sync()
        thread.join()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert limiter.waiting == 0
    recorder.go_on()
    limiter.acquire_sync()
    assert len(recorder.exact.admitted) == 1


async def test_a_timer_that_cannot_start_is_told_and_tried_again(monkeypatch):
    limiter, recorder = spent(SLOW, stopped=True)
    monkeypatch.setattr(waiting_module, "_timer", waiting_module.Timer())
    with monkeypatch.context() as patch:

        def refuse(thread):
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            await limiter.acquire()
        assert limiter.waiting == 0
    recorder.go_on()
    await limiter.acquire()
    assert len(recorder.exact.admitted) == 1


async def test_more_than_a_whole_quota_is_refused_at_once():
    limiter = RateLimiter(Limits(rpm=10, tpm=100))
    for tokens in [101, 2**31, 2**40]:
        with pytest.raises(RequestTooLargeError):
            limiter.try_acquire(tokens)
        with pytest.raises(RequestTooLargeError):
            await limiter.acquire(tokens)
        with pytest.raises(RequestTooLargeError):
            limiter.acquire_sync(tokens)
    with pytest.raises(ConfigurationError):
        limiter.try_acquire(-1)
    assert limiter._core.used() == [0, 0]
    assert limiter.waiting == 0


async def test_output_tokens_count_by_their_weight():
    limiter = RateLimiter(Limits(tpm=100, output_weight=2), margin=0)
    await limiter.acquire(10, 20)
    assert limiter._core.used() == [50]
    limiter.acquire_sync(10, output_tokens=20, priority=1)
    assert limiter._core.used() == [100]


async def test_without_limits_everything_is_admitted_at_once():
    limiter = RateLimiter(Limits())
    assert all(limiter.try_acquire(tokens) == 0.0 for tokens in [0, 1, 10**9, 2**32 - 1])
    await limiter.acquire(10**9)
    limiter.acquire_sync(10**9)
    assert limiter.waiting == 0


async def test_a_loop_is_given_a_few_of_those_who_are_due_in_each_turn():
    limiter, recorder = spent(Limits(rps=3_000), stopped=True)
    done, seen = [], [0]

    async def task(number):
        await limiter.acquire()
        done.append(number)

    tasks = [asyncio.create_task(task(number)) for number in range(3_000)]
    await until(lambda: limiter.waiting == 3_000)
    recorder.go_on(since=1.0)
    while len(done) < 3_000:
        # One turn of the loop, in which everybody who is ready has one step.
        await asyncio.sleep(0)
        seen.append(len(done))
    await asyncio.gather(*tasks)
    assert done == list(range(3_000))
    assert max(later - earlier for earlier, later in pairwise(seen)) <= 32


async def test_one_cancelled_while_it_is_woken_gives_back_what_it_was_admitted_for():
    limiter, recorder = spent(SLOW, stopped=True)
    unexpected = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unexpected.append(context))
    task = asyncio.create_task(limiter.acquire())
    await until(lambda: limiter.waiting == 1)
    recorder.go_on(since=1.0)
    # As the timer's thread does, with the task not yet told.
    while limiter.waiting:
        limiter.serve()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await limiter.acquire()
    assert unexpected == []
    assert len(recorder.exact.admitted) == 2
    # One of the first, one of the last, and none of the second.
    assert limiter._core.used(now=1.5)[0] == 2


def test_coming_and_going_leaves_nothing_behind_in_the_timer():
    limiter, _ = spent(Limits(rps=1), stopped=True)
    heap = waiting_module.timer()._heap

    def join():
        waiter = limiter._join(0, 0, 0, None, leased=False)
        while limiter.is_called:
            time.sleep(0)
        return waiter

    first, before = join(), len(heap)
    for _ in range(300):
        limiter._leave(join())
    # The clock makes some of the times for the same waiter a little earlier than those before.
    assert len(heap) < before + 100
    limiter._leave(first)
    assert limiter._waiters == {}


@pytest.mark.parametrize(
    "wrong",
    [{"rpm": 0}, {"tpm": -1}, {"rps": 1.5}, {"rpm": True}, {"tpm": 2**31}, {"sub_window": 61},
     {"sub_window": float("nan")}, {"max_in_flight": 0}],
)  # fmt: skip
def test_limits_that_nothing_could_hold_are_refused(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Limits(**wrong)


@pytest.mark.parametrize("margin", [-1.0, float("nan"), float("inf"), 1e6, 1.8446744073709550e19])
def test_a_margin_that_nothing_could_hold_is_refused(margin):
    with pytest.raises(ConfigurationError):
        RateLimiter(Limits(rpm=1, sub_window=1.0), margin=margin)
