"""What does a call cost that succeeds at once: bare, and under each library for retries?

Run: `pytest benches/python/bench_retry.py --benchmark-group-by=group`
"""

from __future__ import annotations

import asyncio

import backoff
import pytest
import stamina
import tenacity

from tollway.retry import RetryPolicy, retry

POLICY = RetryPolicy(max_retries=10)
TENACITY = {
    "stop": tenacity.stop_after_attempt(11),
    "wait": tenacity.wait_random_exponential(multiplier=1, max=60),
    "reraise": True,
}


def work():
    return 1


async def work_async():
    return 1


BACKOFF = {"wait_gen": backoff.expo, "exception": OSError, "max_tries": 11}
STAMINA = {"on": OSError, "attempts": 11, "timeout": None}

SYNC = {
    "bare": work,
    "tollway": retry(POLICY)(work),
    "tenacity": tenacity.retry(**TENACITY)(work),
    "stamina": stamina.retry(**STAMINA)(work),
    "backoff": backoff.on_exception(**BACKOFF)(work),
}
ASYNC = {
    "bare": work_async,
    "tollway": retry(POLICY)(work_async),
    "tenacity": tenacity.retry(**TENACITY)(work_async),
    "stamina": stamina.retry(**STAMINA)(work_async),
    "backoff": backoff.on_exception(**BACKOFF)(work_async),
}


@pytest.mark.parametrize("name", SYNC)
def test_sync_success(benchmark, name):
    benchmark.group = "sync, 1 call"
    assert benchmark(SYNC[name]) == 1


@pytest.mark.parametrize("name", ASYNC)
def test_async_success(benchmark, name):
    benchmark.group = "async, 1,000 calls"
    call = ASYNC[name]

    async def many():
        for _ in range(1_000):
            await call()

    with asyncio.Runner() as runner:
        benchmark(lambda: runner.run(many()))
