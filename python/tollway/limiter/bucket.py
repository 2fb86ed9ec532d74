"""A plain token bucket for threads."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import OrderedDict

from tollway import _core

__all__ = ["TokenBucket"]


class TokenBucket:
    """Tokens that refill continuously, taken first come first served, by any number of threads.

    In any t seconds at most `capacity + rate * t` tokens are taken. A provider's limit is better
    held by a `RateLimiter`: a full bucket lets twice its quota through in one window.

    Args:
        rate: Tokens that come back a second.
        capacity: Tokens that it holds at most, and at the start.

    Raises:
        ConfigurationError: `rate` is not above 0, or `capacity` is below 1.
    """

    def __init__(self, rate: float, capacity: float) -> None:
        self.rate = rate
        self.capacity = capacity
        self._core = _core.TokenBucket(rate, capacity)
        self._lock = threading.Lock()
        # In order of arrival; each is told when it is the first.
        self._queue: OrderedDict[threading.Event, None] = OrderedDict()
        _buckets.add(self)

    def __repr__(self) -> str:
        """Show the settings and what is there."""
        return (
            f"<TokenBucket rate={self.rate:g} capacity={self.capacity:g}, "
            f"{self.available} available, {self.waiting} waiting>"
        )

    @property
    def available(self) -> int:
        """Whole tokens that are there."""
        return self._core.level()

    @property
    def waiting(self) -> int:
        """How many threads wait."""
        return len(self._queue)

    def acquire(self, n: int = 1) -> bool:
        """Take `n` tokens if they are there and nobody waits; never blocks.

        Raises:
            RequestTooLargeError: `n` is more than the capacity. Nothing was taken.
        """
        if self._queue and n <= self.capacity:
            return False
        return self._core.take(n) == 0

    def wait_and_acquire(self, n: int = 1, timeout: float | None = None) -> bool:
        """Wait until `n` tokens are there, and take them.

        Args:
            n: How many.
            timeout: Seconds to wait at most; None for as long as it takes.

        Returns:
            Whether they were taken. False comes as soon as it is certain, so that whoever is first
            in the queue and would have to wait longer than its time-out leaves at once.

        Raises:
            RequestTooLargeError: `n` is more than the capacity. Nothing was taken.
        """
        if self.acquire(n):
            return True
        ends = None if timeout is None else time.monotonic() + timeout
        turn = threading.Event()
        try:
            with self._lock:
                self._queue[turn] = None
                self._call_first()
            return turn.wait(timeout) and self._wait(n, ends)
        finally:
            with self._lock:
                self._queue.pop(turn, None)
                self._call_first()

    def _wait(self, n: int, ends: float | None) -> bool:
        while (wait := self._core.take(n)) > 0:
            if ends is not None and time.monotonic() + wait > ends:
                return False
            time.sleep(wait)
        return True

    def _call_first(self) -> None:
        if self._queue:
            next(iter(self._queue)).set()

    def forget_waiters(self) -> None:
        """Start a forked child without its parent's waiters, whose threads it does not have."""
        self._lock = threading.Lock()
        self._queue = OrderedDict()


_buckets: weakref.WeakSet[TokenBucket] = weakref.WeakSet()


def _after_fork() -> None:
    for bucket in list(_buckets):
        bucket.forget_waiters()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
