"""RetryBudget: when retries wait for successes to pay for them."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
import time
import weakref

import pytest

from tollway import errors
from tollway.retry import (
    CallRecord,
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
