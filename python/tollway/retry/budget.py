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
from tollway.limiter.waiting import timer

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
        # In order of arrival. No lock: a waiter may leave wherever its coroutine is collected, and
        # each step on a dictionary is whole.
        self._queue: OrderedDict[_Waiter, None] = OrderedDict()
        # The timer's: when it comes back by itself, and whether it was called.
        self.due = float("inf")
        self.is_called = False
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
        if self._core.deposit() and self._queue:
            timer().call(self)

    def take_paid(self) -> bool:
        """Take a retry if one is paid for and nobody waits for it."""
        return not self._queue and self._core.take_paid()

    async def acquire(self) -> None:
        """Wait until a retry may go, and take it.

        Cancellation: leaves the queue and takes nothing.
        """
        if not self._queue and self._core.take(time.monotonic()) == 0:
            return
        waiter = _Waiter(asyncio.get_running_loop())
        self._queue[waiter] = None
        try:
            timer().call(self)
            await waiter.future
        except BaseException:
            if self._queue.pop(waiter, waiter) is waiter and not waiter.is_lost:
                # It was let go in the same instant.
                self._core.give_back()
            if self._queue:
                timer().call(self)
            raise

    def serve(self) -> float | None:
        """Let go whose turn it is; for the timer's thread.

        Returns:
            Seconds until it is to be called again; None where nobody waits.
        """
        woken: list[_Waiter] = []
        wait = 0.0
        while wait == 0 and (first := self._first()) is not None:
            wait = self._core.take(time.monotonic())
            if wait == 0:
                if self._queue.pop(first, first) is first:
                    # It left meanwhile.
                    self._core.give_back()
                else:
                    woken.append(first)
        closed = timer().wake(woken)
        if closed:
            for waiter in woken:
                if waiter.loop in closed:
                    waiter.is_lost = True
                    self._core.give_back()
            wait = 0.0
        return wait if self._queue else None

    def _first(self) -> _Waiter | None:
        while True:
            try:
                return next(iter(self._queue), None)
            except RuntimeError:
                # Somebody came or left in between.
                continue

    def forget_waiters(self) -> None:
        """Start a forked child without its parent's waiters."""
        self._queue = OrderedDict()
        self.due, self.is_called = float("inf"), False


class _Waiter:
    """A task that waits for its turn."""

    __slots__ = ("future", "is_lost", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        # Whether its turn was given back when its loop was found closed.
        self.is_lost = False
        self.future: asyncio.Future[None] = loop.create_future()

    def wake(self) -> None:
        """Let it go on."""
        if not self.future.done():
            self.future.set_result(None)


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
