"""RetryBudget: when retries wait for successes to pay for them."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
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


async def test_retries_go_in_the_order_in_which_they_came():
    budget = RetryBudget(rate=200)
    await budget.acquire()
    gone = []

    async def retry(number):
        await budget.acquire()
        gone.append(number)

    await asyncio.gather(*(retry(number) for number in range(20)))
    assert gone == list(range(20))


async def test_the_tenth_success_lets_one_go():
    budget = RetryBudget(rate=0.001)
    await budget.acquire()
    waiting = asyncio.create_task(budget.acquire())
    await asyncio.sleep(0.01)
    for _ in range(9):
        budget.deposit()
    await asyncio.sleep(0.01)
    assert not waiting.done()
    budget.deposit()
    await asyncio.wait_for(waiting, 5)


@pytest.mark.parametrize("is_closed", [True, False])
def test_a_loop_that_stands_still_stops_nobody_else(is_closed):
    budget = RetryBudget(rate=50)

    async def leave_some_waiting():
        await budget.acquire()
        tasks = [asyncio.create_task(budget.acquire()) for _ in range(5)]
        await asyncio.sleep(0)
        return tasks

    still = asyncio.new_event_loop()
    left = still.run_until_complete(leave_some_waiting())
    if is_closed:
        still.close()
    asyncio.run(asyncio.wait_for(budget.acquire(), 10))
    for _ in range(20):
        budget.deposit()
    asyncio.run(asyncio.wait_for(budget.acquire(), 10))
    if not is_closed:
        still.run_until_complete(asyncio.gather(*left))
        still.close()
    else:
        before = budget.balance
        for task in left:
            task.get_coro().close()
            task._log_destroy_pending = False
        assert budget.balance == before


async def test_one_that_is_cancelled_as_it_is_let_go_gives_it_back():
    budget = RetryBudget(ratio=1.0, rate=0.001)
    await budget.acquire()
    waiting = asyncio.create_task(budget.acquire())
    await asyncio.sleep(0.01)
    budget.deposit()
    # The timer's thread lets it go while this task holds the loop.
    while budget.waiting:
        time.sleep(0.001)  # noqa: ASYNC251 - the loop is not to run
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert budget.balance == 1.0
    await asyncio.wait_for(budget.acquire(), 5)


def _retry_in_child(budget, answers):
    asyncio.run(asyncio.wait_for(budget.acquire(), 10))
    answers.put(budget.waiting)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
async def test_a_forked_child_has_none_of_its_parents_waiters():
    budget = RetryBudget(rate=0.5)
    await budget.acquire()
    waiting = [asyncio.create_task(budget.acquire()) for _ in range(10)]
    await asyncio.sleep(0.01)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=_retry_in_child, args=(budget, answers))
    child.start()
    await asyncio.to_thread(child.join, 30)
    assert child.exitcode == 0
    assert answers.get() == 0
    assert budget.waiting >= 5
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
