"""The one timer of all limiters and budgets: what goes wrong with one of them holds up no other."""

from __future__ import annotations

import asyncio
import logging
import threading

from tollway.limiter import Limits, RateLimiter
from tollway.limiter import waiting as waiting_module
from tollway.limiter.waiting import Timer
from tollway.retry import RetryBudget


class Served:
    """Says how often it was served; fails as often as it is told to."""

    def __init__(self, failures=0):
        self.due, self.is_called = float("inf"), False
        self.failures = failures
        self.times = threading.Semaphore(0)

    def serve(self):
        self.times.release()
        if self.failures:
            self.failures -= 1
            raise ValueError("this one is broken")


async def gone_at_once(limiter):
    """Whether a limiter is served: its only permit comes back, and somebody waits for it."""
    permit = await limiter.hold()
    waiter = asyncio.create_task(limiter.hold())
    while not limiter.waiting:  # noqa: ASYNC110 - nobody tells when it holds
        await asyncio.sleep(0)
    permit.release()
    (await asyncio.wait_for(waiter, 30)).release()


async def test_a_pause_for_ever_holds_up_no_other_limiter():
    paused = RateLimiter(Limits(rpm=10))
    paused.pause(1e17)
    task = asyncio.create_task(paused.acquire())
    while paused.due == float("inf"):  # noqa: ASYNC110 - the timer tells nobody
        await asyncio.sleep(0)
    await gone_at_once(RateLimiter(Limits(max_in_flight=1)))
    task.cancel()


async def test_a_budget_of_next_to_nothing_holds_up_no_limiter():
    budget = RetryBudget(rate=1e-17)
    await budget.acquire()
    task = asyncio.create_task(budget.acquire())
    while budget.due == float("inf"):  # noqa: ASYNC110 - the timer tells nobody
        await asyncio.sleep(0)
    await gone_at_once(RateLimiter(Limits(max_in_flight=1)))
    task.cancel()


def test_one_that_fails_is_served_again_and_all_others_meanwhile(monkeypatch, caplog):
    monkeypatch.setattr(waiting_module, "_AGAIN", 0.01)
    timer, broken, sound = Timer(), Served(failures=2), Served()
    with caplog.at_level(logging.ERROR, "tollway.limiter"):
        timer.call(broken)
        timer.call(sound)
        assert sound.times.acquire(timeout=30)
        for _ in range(3):
            assert broken.times.acquire(timeout=30)
    assert [record.exc_info[0] for record in caplog.records] == [ValueError, ValueError]


def test_a_thread_may_wait_for_ever():
    limiter = RateLimiter(Limits(max_in_flight=1))
    held = limiter.hold_sync()
    while_it_waits = threading.Timer(0.05, held.release)
    while_it_waits.start()
    with limiter.reserve(timeout=float("inf")) as permit:
        assert permit.tokens == 0
    while_it_waits.join()
