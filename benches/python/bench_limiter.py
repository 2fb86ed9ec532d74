"""What does a permit cost, and what do 10,000 tasks that wait, beside aiolimiter?

Run: `pytest benches/python/bench_limiter.py --benchmark-group-by=group`

How much of the limit is used, how late are tasks woken and what does it cost while 10,000 wait?

Run: `python benches/python/bench_limiter.py [seconds]`
"""

from __future__ import annotations

import asyncio
import sys
import time

import aiolimiter
import pytest

from tollway.limiter import Limits, RateLimiter

CALLS = 5_000
WAITERS = 10_000
USAGE = {"input_tokens": 80, "output_tokens": 10}


def try_acquire(limiter):
    for _ in range(CALLS):
        limiter.try_acquire()


def try_acquire_tokens(limiter):
    for _ in range(CALLS):
        limiter.try_acquire(100)


def acquire_sync(limiter):
    for _ in range(CALLS):
        limiter.acquire_sync()


def reserve(limiter):
    for _ in range(CALLS):
        with limiter.reserve(80, 20) as permit:
            permit.sent()
            permit.settle(USAGE)


def awaited(runner):
    async def acquire(limiter):
        for _ in range(CALLS):
            await limiter.acquire()

    return lambda limiter: runner.run(acquire(limiter))


def joint():
    return RateLimiter(Limits(rpm=2 * CALLS, tpm=200 * CALLS))


UNCONTENDED = {
    "tollway try_acquire, rpm": (lambda: RateLimiter(Limits(rpm=2 * CALLS)), try_acquire),
    "tollway try_acquire, rpm and tpm": (joint, try_acquire_tokens),
    "tollway reserve and settle, rpm and tpm": (joint, reserve),
    "tollway acquire_sync, rpm": (lambda: RateLimiter(Limits(rpm=2 * CALLS)), acquire_sync),
    "tollway acquire, rpm": (lambda: RateLimiter(Limits(rpm=2 * CALLS)), awaited),
    # It has no call that takes without waiting: this one never suspends here.
    "aiolimiter acquire": (lambda: aiolimiter.AsyncLimiter(2 * CALLS, 60), awaited),
}


@pytest.mark.parametrize("name", UNCONTENDED)
def test_uncontended(benchmark, name):
    benchmark.group = f"uncontended, {CALLS:,} permits"
    make, take = UNCONTENDED[name]
    with asyncio.Runner() as runner:
        work = awaited(runner) if take is awaited else take
        benchmark.pedantic(work, setup=lambda: ((make(),), {}), rounds=100, warmup_rounds=3)


# A full quota comes free every 0.2 s, so that all of them wait once and are due together.
TOGETHER = {
    "tollway": lambda: RateLimiter(Limits(rpm=WAITERS * 300, sub_window=0.2), margin=0),
    "aiolimiter": lambda: aiolimiter.AsyncLimiter(WAITERS, 0.2),
}


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("name", TOGETHER)
def test_waiting_tasks(benchmark, name):
    benchmark.group = f"processor time, {WAITERS:,} tasks that wait"

    async def wait(limiter):
        async with asyncio.TaskGroup() as group:
            for _ in range(2 * WAITERS):
                group.create_task(limiter.acquire())

    with asyncio.Runner() as runner:
        benchmark.pedantic(
            lambda limiter: runner.run(wait(limiter)),
            setup=lambda: ((TOGETHER[name](),), {}),
            rounds=5,
            warmup_rounds=1,
        )


class Times:
    """A limiter's core that notes when it admitted; the time is asked for once a call."""

    def __init__(self, core):
        self._core = core
        self._origin = time.monotonic()
        self.admitted = []

    def now(self):
        return time.monotonic() - self._origin

    def try_acquire(self, tokens=0, output_tokens=0):
        now = self.now()
        wait = self._core.try_acquire(tokens, output_tokens, now=now)
        if wait == 0.0:
            self.admitted.append(now)
        return wait

    def enqueue(self, tokens=0, output_tokens=0, **options):
        now = self.now()
        ticket, stamp, is_near = self._core.enqueue(tokens, output_tokens, now=now, **options)
        if ticket is None:
            self.admitted.append(now)
        return ticket, stamp, is_near

    def poll(self, most):
        now = self.now()
        admitted, refused, wait = self._core.poll(most, now=now)
        self.admitted += [now] * len(admitted)
        return admitted, refused, wait

    def __getattr__(self, name):
        return getattr(self._core, name)


async def pace(limits, quota, window, seconds):
    """Let 10,000 tasks wait for one limiter and print how it serves them."""
    limiter = RateLimiter(limits, margin=0)
    times = limiter._core = Times(limiter._core)  # noqa: SLF001 - the only place to listen
    woken = []

    async def wait():
        await limiter.acquire()
        woken.append(times.now())

    tasks = [asyncio.create_task(wait()) for _ in range(WAITERS)]
    await asyncio.sleep(1)
    busy, start = time.process_time(), times.now()
    await asyncio.sleep(seconds)
    busy, end = time.process_time() - busy, times.now()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    due = [at + window for at in times.admitted]
    late = sorted(
        wake - at for at, wake in zip(due, woken[quota:], strict=False) if start <= wake < end
    )
    # From the first quota to the last, which come at once or nearly so.
    admitted = [at for at in times.admitted if start <= at < end]
    share = (len(admitted) - quota) / ((admitted[-1] - admitted[0]) * quota / window)
    p50, p99 = (late[len(late) * percent // 100] * 1e6 for percent in (50, 99))
    print(
        f"{quota} in {window} s: {share:.2%} used, {busy / (end - start):.2%} of a core;", end=" "
    )
    print(f"woken late by p50 {p50:.0f} µs, p99 {p99:.0f} µs, at most {late[-1] * 1e6:.0f} µs")


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    asyncio.run(pace(Limits(rps=100), 100, 1.0, seconds))
    asyncio.run(pace(Limits(rpm=6_000, sub_window=0.1), 10, 0.1, seconds))


if __name__ == "__main__":
    main()
