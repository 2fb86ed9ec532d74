"""The token bucket: exact, first come first served, interruptible, without polling."""

from __future__ import annotations

import os
import threading
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway import TokenBucket, _core
from tollway.errors import ConfigurationError, RequestTooLargeError

MOMENT = 5e-3


@given(
    st.integers(1, 10**6),
    st.integers(1, 10**4),
    st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 12_000)), max_size=60),
)
def test_against_exact_arithmetic(rate, capacity, steps):
    bucket = _core.TokenBucket(rate, capacity)
    level, last, now = Fraction(capacity), 0, 0
    for step, n in steps:
        now += step
        level = min(Fraction(capacity), level + Fraction((now - last) * rate, 10**9))
        last = now
        if n > capacity:
            with pytest.raises(RequestTooLargeError):
                bucket.take(n, now=now / 1e9)
            continue
        wait = bucket.take(n, now=now / 1e9)
        if wait == 0:
            level -= n
            # Never before the tokens are there, but for the clock's own rounding.
            assert level > -Fraction(rate, 10**9) - Fraction(1, 10**6)
        else:
            due = (n - level) / rate
            assert float(due) <= wait + 2e-9
            assert wait <= float(due) + 1e-6 + 2e-9


def drained(rate, capacity):
    bucket = TokenBucket(rate, capacity)
    while bucket.acquire(1):
        pass
    return bucket


def test_what_is_there_is_taken_at_once():
    bucket = TokenBucket(rate=0.001, capacity=5)
    assert bucket.acquire(3)
    assert bucket.available == 2
    assert not bucket.acquire(3)
    assert bucket.wait_and_acquire(2)
    assert not bucket.acquire()
    assert repr(bucket) == "<TokenBucket rate=0.001 capacity=5, 0 available, 0 waiting>"


def test_a_wait_takes_what_the_tokens_need():
    bucket = drained(100, 10)
    began = time.monotonic()
    assert bucket.wait_and_acquire(10)
    # Up to one token of the ten may have been there.
    assert time.monotonic() - began > 0.09


def test_a_wait_that_would_pass_its_time_out_ends_at_once():
    bucket = drained(0.001, 10)
    began = time.monotonic()
    assert not bucket.wait_and_acquire(1, timeout=60)
    assert time.monotonic() - began < 30
    assert not bucket.wait_and_acquire(1, timeout=0)
    assert bucket.waiting == 0


def test_more_than_it_holds_is_refused_also_while_others_wait():
    bucket = drained(1, 2)
    thread = threading.Thread(target=bucket.wait_and_acquire, args=(2,))
    thread.start()
    while not bucket.waiting:
        time.sleep(MOMENT)
    for take in (bucket.acquire, bucket.wait_and_acquire):
        with pytest.raises(RequestTooLargeError, match="3 is more"):
            take(3)
    assert not bucket.acquire(0), "nobody passes those who wait"
    thread.join()


def test_first_come_first_served_whatever_their_size():
    bucket = drained(400, 40)
    order, threads = [], []

    def wait(i, n):
        assert bucket.wait_and_acquire(n)
        order.append(i)

    for i, n in enumerate([40, 1, 20, 1, 1, 40, 1]):
        threads.append(threading.Thread(target=wait, args=(i, n)))
        threads[-1].start()
        while bucket.waiting <= i and i not in order:
            time.sleep(0)
    for thread in threads:
        thread.join()
    assert order == sorted(order)
    assert bucket.waiting == 0


def test_who_leaves_makes_way_for_the_next():
    bucket = drained(50, 100)
    left = []
    patient = threading.Thread(target=lambda: bucket.wait_and_acquire(100))
    patient.start()
    while not bucket.waiting:
        time.sleep(MOMENT)
    # Behind one who needs two seconds, a time-out comes before its turn.
    began = time.monotonic()
    left.append(bucket.wait_and_acquire(1, timeout=0.05))
    assert time.monotonic() - began >= 0.05
    assert left == [False]
    assert bucket.waiting == 1
    patient.join()
    assert bucket.wait_and_acquire(1, timeout=5)


def test_threads_share_one_rate():
    bucket = TokenBucket(2_000, 100)
    taken = [0] * 8
    until = time.monotonic() + 0.5

    def take(i):
        while time.monotonic() < until:
            bucket.wait_and_acquire(1)
            taken[i] += 1

    began = time.monotonic()
    threads = [threading.Thread(target=take, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - began
    assert sum(taken) <= 100 + 2_000 * took + 1
    # The order of the queue is that of the turns.
    assert min(taken) >= max(taken) // 4


@pytest.mark.parametrize(("rate", "capacity"), [(0, 1), (-1, 1), (1, 0), (float("nan"), 1)])
def test_a_bucket_that_cannot_be_is_refused(rate, capacity):
    with pytest.raises(ConfigurationError, match="rate"):
        TokenBucket(rate, capacity)


def test_negative_numbers_are_refused():
    with pytest.raises(ConfigurationError, match="n must be"):
        TokenBucket(1, 1).acquire(-1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_waits_for_nobody_of_its_parents():
    bucket = drained(20, 10)
    waiting = threading.Thread(target=lambda: bucket.wait_and_acquire(10))
    waiting.start()
    while not bucket.waiting:
        time.sleep(MOMENT)
    child = os.fork()
    if child == 0:
        os._exit(0 if bucket.waiting == 0 and bucket.wait_and_acquire(1, timeout=5) else 1)
    assert os.waitpid(child, 0)[1] == 0
    waiting.join()
