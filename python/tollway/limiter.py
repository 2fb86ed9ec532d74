"""Limits on requests and tokens, exact in every window, from asyncio and from threads.

The decisions are the core's (`tollway._core.Limiter`); here callers wait. One thread a process
sleeps until the first waiter of any limiter is due, and wakes waiters in the order in which they
came.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import os
import threading
import time
import weakref
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from tollway import _core
from tollway.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["Limits", "RateLimiter", "shared_limiter"]

# Admissions handed to an event loop in one callback: resolving a future takes about a microsecond,
# so that the loop is held for well under a millisecond.
_BATCH = 256


@dataclass(frozen=True, slots=True)
class Limits:
    """Ceilings that hold together; None is no ceiling.

    Attributes:
        rpm: Requests in any 60 seconds.
        tpm: Tokens in any 60 seconds.
        rps: Requests in any second.
        sub_window: Seconds over which the provider judges `rpm`, if shorter than a minute: 1.0
            allows `ceil(rpm / 60)` requests a second. 0 switches off what a provider has by
            default.
        max_in_flight: Requests under way at once, for whoever sends them.

    Raises:
        ConfigurationError: A value is not a whole number above zero (`sub_window`: from 0 to 60).
    """

    rpm: int | None = None
    tpm: int | None = None
    rps: int | None = None
    sub_window: float | None = None
    max_in_flight: int | None = None

    def __post_init__(self) -> None:
        """Refuse values that no limiter could hold."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            if field.name == "sub_window":
                if not 0 <= value <= 60:
                    raise ConfigurationError(f"sub_window must be 0 to 60 seconds, not {value!r}")
            elif isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
                raise ConfigurationError(
                    f"{field.name} must be a whole number from 1 to {2**31 - 1}, not {value!r}"
                )


class RateLimiter:
    """Admits requests as `limits` allow, first come first served.

    For every t, what was admitted in (t - window, t] is at most the quota, for requests and tokens
    jointly. One limiter may be used from several event loops and threads at once.

    Args:
        limits: What to hold; without any, everything is admitted at once.
        margin: Seconds by which every window is made longer, for the jitter between a permit and
            its bytes on the wire. Default: 0.25 on windows of a minute, 2 % of shorter ones.
    """

    def __init__(self, limits: Limits, *, margin: float | None = None) -> None:
        self.limits = limits
        self._core = _core.Limiter(
            rpm=limits.rpm,
            tpm=limits.tpm,
            rps=limits.rps,
            sub_window=limits.sub_window,
            margin=margin,
        )
        # Guards the step from a ticket to its waiter; the core guards itself.
        self._lock = threading.Lock()
        self._waiters: dict[int, _Waiter] = {}
        self._due = float("inf")
        _limiters.add(self)

    def __repr__(self) -> str:
        """Show the limits and how many wait."""
        given = (
            f"{field.name}={value}"
            for field in fields(self.limits)
            if (value := getattr(self.limits, field.name)) is not None
        )
        return f"<RateLimiter {' '.join(given) or 'without limits'}, {self._core.waiting} waiting>"

    @property
    def waiting(self) -> int:
        """How many callers wait."""
        return self._core.waiting

    def try_acquire(self, tokens: int = 0) -> float:
        """Admit a request of `tokens` now, or say when it could be; never blocks.

        Returns:
            0.0 when admitted, else the seconds until it could be if nothing else were admitted
            before. While others wait it is never admitted, and the answer is a lower bound.

        Raises:
            RequestTooLargeError: `tokens` is more than a whole quota. Nothing was charged.
        """
        return self._core.try_acquire(tokens)

    async def acquire(self, tokens: int = 0) -> None:
        """Wait until a request of `tokens` is admitted.

        Raises:
            RequestTooLargeError: `tokens` is more than a whole quota. Nothing was charged.

        Cancellation: a waiter that is cancelled leaves the queue and charges nothing, unless it
        was admitted in the same instant.
        """
        waiter = self._join(tokens, asyncio.get_running_loop())
        if waiter is None:
            return
        assert waiter.future is not None
        try:
            await waiter.future
        except asyncio.CancelledError:
            self._leave(waiter)
            raise

    def acquire_sync(self, tokens: int = 0) -> None:
        """Wait in this thread until a request of `tokens` is admitted.

        Raises:
            RequestTooLargeError: `tokens` is more than a whole quota. Nothing was charged.
        """
        waiter = self._join(tokens, None)
        if waiter is None:
            return
        assert waiter.event is not None
        try:
            waiter.event.wait()
        except BaseException:
            self._leave(waiter)
            raise
        if waiter.abandoned:
            raise RuntimeError("the process forked while this thread waited for the limiter")

    def _join(self, tokens: int, loop: asyncio.AbstractEventLoop | None) -> _Waiter | None:
        with self._lock:
            ticket = self._core.enqueue(tokens)
            if ticket is None:
                return None
            waiter = _Waiter(ticket, loop)
            self._waiters[ticket] = waiter
            # Only the first in the queue has a time; the others follow when it is served.
            is_first = len(self._waiters) == 1
        if is_first:
            self.serve()
        return waiter

    def _leave(self, waiter: _Waiter) -> None:
        with self._lock:
            self._core.cancel(waiter.ticket)
            self._waiters.pop(waiter.ticket, None)
        # The next one may be due sooner than the one that left.
        self.serve()

    def serve(self) -> None:
        """Wake those who are admitted by now, and have the timer come back for the next one."""
        with self._lock:
            admitted, wait = self._core.poll(_BATCH)
            woken = [
                waiter
                for ticket in admitted
                if (waiter := self._waiters.pop(ticket, None)) is not None
            ]
            # Woken under the lock, so that two who serve at once keep the order.
            _wake(woken)
            due = float("inf") if wait is None else time.monotonic() + wait
            self._due = due
        if wait is not None:
            _timer.call_at(due, self)

    def is_due(self, due: float) -> bool:
        """Whether the timer's `due` still stands; for the timer."""
        return due >= self._due

    def abandon_waiters(self) -> None:
        """Start a forked child without its parent's waiters, whose threads it does not have."""
        self._lock = threading.Lock()
        self._core.clear_queue()
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters.values():
            waiter.abandon()


class _Waiter:
    """One caller who waits, in an event loop or in a thread."""

    __slots__ = ("abandoned", "event", "future", "loop", "ticket")

    def __init__(self, ticket: int, loop: asyncio.AbstractEventLoop | None) -> None:
        self.ticket = ticket
        self.loop = loop
        self.future: asyncio.Future[None] | None = None if loop is None else loop.create_future()
        self.event = threading.Event() if loop is None else None
        self.abandoned = False

    def admit(self) -> None:
        """Let the caller go on; in its loop's own thread, if it has one."""
        if self.event is not None:
            self.event.set()
        elif self.future is not None and not self.future.done():
            self.future.set_result(None)

    def abandon(self) -> None:
        """Fail a waiter whom a fork left in a process that is not its own."""
        self.abandoned = True
        if self.event is not None:
            self.event.set()
        elif self.future is not None and not self.future.done():
            self.future.set_exception(
                RuntimeError("the process forked while this task waited for the limiter")
            )


def _admit(waiters: list[_Waiter]) -> None:
    for waiter in waiters:
        waiter.admit()


def _wake(waiters: list[_Waiter]) -> None:
    """Wake in order: threads at once, the tasks of a loop by one callback."""
    for loop, group in itertools.groupby(waiters, key=lambda waiter: waiter.loop):
        if loop is None:
            _admit(list(group))
        else:
            try:
                loop.call_soon_threadsafe(_admit, list(group))
            except RuntimeError:
                # The loop was closed with its tasks still waiting: nobody is left to wake.
                continue


class _Timer:
    """One thread that serves each limiter when its first waiter is due."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._heap: list[tuple[float, int, weakref.ref[RateLimiter]]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None

    def call_at(self, due: float, limiter: RateLimiter) -> None:
        with self._condition:
            heapq.heappush(self._heap, (due, next(self._order), weakref.ref(limiter)))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="tollway-timer", daemon=True)
                self._thread.start()
            elif self._heap[0][0] == due:
                self._condition.notify()

    def _next(self) -> RateLimiter | None:
        """Sleep until something is due."""
        with self._condition:
            while True:
                if not self._heap:
                    self._condition.wait()
                    continue
                due, _, reference = self._heap[0]
                wait = due - time.monotonic()
                if wait > 0:
                    self._condition.wait(wait)
                    continue
                heapq.heappop(self._heap)
                limiter = reference()
                # Somebody may have served it since, and set another time.
                if limiter is not None and limiter.is_due(due):
                    return limiter

    def _run(self) -> None:
        while True:
            limiter = self._next()
            if limiter is not None:
                limiter.serve()
            del limiter


_limiters: weakref.WeakSet[RateLimiter] = weakref.WeakSet()
_timer = _Timer()
_shared: weakref.WeakValueDictionary[Hashable, RateLimiter] = weakref.WeakValueDictionary()
_shared_lock = threading.Lock()


def shared_limiter(key: Hashable, limits: Limits) -> RateLimiter:
    """Return the process's limiter for `key`, made with `limits` when it is the first.

    Args:
        key: What shares a quota: provider, base URL, credential's fingerprint, model.
        limits: The limits; the same for all who share the key while one of them lives.

    Raises:
        ConfigurationError: The key's limiter lives and has other limits.
    """
    with _shared_lock:
        limiter = _shared.get(key)
        if limiter is None:
            limiter = _shared[key] = RateLimiter(limits)
        elif limiter.limits != limits:
            raise ConfigurationError(
                f"these calls share one quota that is held with {limiter.limits}, not {limits}; "
                "give the same limits, or one RateLimiter to both"
            )
        return limiter


def _after_fork() -> None:
    global _timer, _shared_lock  # noqa: PLW0603
    _timer = _Timer()
    _shared_lock = threading.Lock()
    for limiter in list(_limiters):
        limiter.abandon_waiters()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
