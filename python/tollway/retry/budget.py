"""How many retries a stream of successes pays for."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING

from tollway import _core
from tollway.errors import ConfigurationError
from tollway.retry import sleeper

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["RetryBudget", "shared_budget"]


class RetryBudget:
    """Retries as a part of successes; with none left, they are delayed, never refused.

    Each success pays for `ratio` of a retry, and 100 are saved up at most. A retry that nobody has
    paid for goes when the last such one is `1 / rate` seconds ago. Retries wait in the order in
    which they came, and are let go as soon as a success pays for them. So in an outage of t
    seconds at most ratio x successes + rate x t + 1 retries are sent.

    One budget may be used from several threads and event loops.

    Args:
        ratio: Retries a success pays for.
        rate: Unpaid retries a second.

    Raises:
        ConfigurationError: `ratio` is below 0 or above 1, or `rate` is not above 0.
    """

    def __init__(self, ratio: float = 0.1, rate: float = 1.0) -> None:
        if not 0 <= ratio <= 1:
            raise ConfigurationError(f"ratio must be from 0 to 1, not {ratio!r}")
        if not 0 < rate < float("inf"):
            raise ConfigurationError(f"rate must be above 0 retries a second, not {rate!r}")
        self.ratio = ratio
        self.rate = rate
        self._core = _core.RetryBudget(ratio, 1 / rate)
        self._lock = threading.Lock()
        # In order of arrival. Each waits on a future of its own loop, made anew for each wait.
        self._queue: OrderedDict[_Waiter, None] = OrderedDict()
        _budgets.add(self)

    def __repr__(self) -> str:
        """Show the settings, and what is there."""
        return (
            f"<RetryBudget ratio={self.ratio:g} rate={self.rate:g}, {self.balance:.1f} paid for, "
            f"{self.waiting} waiting>"
        )

    def __reduce__(self) -> tuple[type[RetryBudget], tuple[float, float]]:
        """Pickle the settings; another process has successes of its own."""
        return RetryBudget, (self.ratio, self.rate)

    @property
    def balance(self) -> float:
        """Retries that are paid for and not taken."""
        return self._core.balance

    @property
    def waiting(self) -> int:
        """Retries that wait."""
        return len(self._queue)

    def deposit(self) -> None:
        """Note a success."""
        self._core.deposit()
        if self._queue and self._core.balance >= 1:
            with self._lock:
                self._wake_first()

    def take_paid(self) -> bool:
        """Take a retry if one is paid for and nobody waits for it."""
        return not self._queue and self._core.take_paid()

    async def acquire(self) -> None:
        """Wait until a retry may go, and take it.

        Cancellation: leaves the queue and takes nothing.
        """
        with self._lock:
            if not self._queue and self._core.take(time.monotonic()) == 0:
                return
            waiter = _Waiter()
            self._queue[waiter] = None
        try:
            while (wait := self._turn(waiter)) != 0:
                if wait is None:
                    await waiter.future
                else:
                    cancel = sleeper.resolve_after(waiter.future, wait)
                    try:
                        await waiter.future
                    finally:
                        cancel()
        finally:
            with self._lock:
                self._queue.pop(waiter, None)
                self._wake_first()

    def _turn(self, waiter: _Waiter) -> float | None:
        """Seconds to wait, 0.0 when the retry is taken, None while others are first."""
        with self._lock:
            is_first = next(iter(self._queue)) is waiter
            wait = self._core.take(time.monotonic()) if is_first else None
            if wait != 0:
                # Made under the lock: who wakes the first in the queue wakes this future.
                waiter.future = waiter.loop.create_future()
            return wait

    def _wake_first(self) -> None:
        if self._queue:
            first = next(iter(self._queue))
            try:
                first.loop.call_soon_threadsafe(_resolve, first.future)
            except RuntimeError:
                # Its loop was closed with its tasks still waiting.
                del self._queue[first]
                self._wake_first()

    def forget_waiters(self) -> None:
        """Start a forked child without its parent's waiters."""
        self._lock = threading.Lock()
        self._queue = OrderedDict()


class _Waiter:
    __slots__ = ("future", "loop")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


_budgets: weakref.WeakSet[RetryBudget] = weakref.WeakSet()
_shared: weakref.WeakValueDictionary[Hashable, RetryBudget] = weakref.WeakValueDictionary()
_shared_lock = threading.Lock()


def shared_budget(key: Hashable) -> RetryBudget:
    """Return the process's budget for `key`: provider, address, credential, model."""
    with _shared_lock:
        budget = _shared.get(key)
        if budget is None:
            budget = _shared[key] = RetryBudget()
        return budget


def _after_fork() -> None:
    global _shared_lock  # noqa: PLW0603
    _shared_lock = threading.Lock()
    for budget in list(_budgets):
        budget.forget_waiters()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
