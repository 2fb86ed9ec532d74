"""Limits on requests and tokens, exact in every window, from asyncio and from threads.

The decisions are the core's (`tollway._core.Limiter`); here callers wait. One thread a process
sleeps until the first waiter of any limiter is due, and wakes waiters in the order in which they
came.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import os
import threading
import time
import weakref
from dataclasses import dataclass, fields
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from tollway import _core
from tollway.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["Limits", "RateLimiter", "shared_limiter"]

# Admissions handed to an event loop in one callback: resolving a future takes about a microsecond,
# so that the loop is held for well under a millisecond.
_BATCH = 256

_FORKED = "the process forked while this caller waited for the limiter"

# Seconds between two batches, in which the loop runs the tasks of the one before: without it 10,000
# that are due at once hold a loop for some 14 ms, with it for 2 to 7.
_PAUSE = 0.001


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
            sub_windows=(limits.sub_window,) if limits.sub_window else (),
            margin=margin,
        )
        # Guards the step from a ticket to its waiter; the core guards itself.
        self._lock = threading.Lock()
        self._waiters: dict[int, _Waiter] = {}
        # The timer's: when it comes back by itself, and whether it was called.
        self.due = float("inf")
        self.is_called = False
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
        except BaseException:
            # Cancelled, or collected with a loop that was closed.
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
        assert waiter.gate is not None
        try:
            waiter.gate.acquire()
        except BaseException:
            self._leave(waiter)
            raise
        if waiter.abandoned:
            raise RuntimeError(_FORKED)

    def _join(self, tokens: int, loop: asyncio.AbstractEventLoop | None) -> _Waiter | None:
        with self._lock:
            ticket, _ = self._core.enqueue(tokens)
            if ticket is None:
                return None
            waiter = self._waiters[ticket] = _Waiter(ticket, loop)
            # Only the first in the queue has a time; the others follow when it is served.
            is_first = len(self._waiters) == 1
        if is_first:
            try:
                _timer.call(self)
            except BaseException:
                self._forget(waiter)
                raise
        return waiter

    def _forget(self, waiter: _Waiter) -> bool:
        # Without the lock: a coroutine may be collected at any point of any thread.
        waited = self._core.cancel(waiter.ticket)
        self._waiters.pop(waiter.ticket, None)
        return waited

    def _leave(self, waiter: _Waiter) -> None:
        if self._forget(waiter):
            # The next one may be due sooner than the one that left.
            _timer.call(self)

    def serve(self) -> float | None:
        """Wake those who are admitted by now; for the timer's thread, which alone wakes.

        Returns:
            Seconds until it is to be called again; None where nobody waits.
        """
        with self._lock:
            admitted, _, wait = self._core.poll(_BATCH)
            # One who leaves at this moment is charged, and not here any more.
            woken = [self._waiters.pop(ticket, None) for ticket, _ in admitted]
        closed = _wake([waiter for waiter in woken if waiter is not None])
        if closed:
            for waiter in self._waiters.copy().values():
                if waiter.loop in closed:
                    self._forget(waiter)
            return 0.0
        return _PAUSE if wait == 0.0 else wait

    def abandon_waiters(self) -> None:
        """Start a forked child without its parent's waiters, whose threads it does not have."""
        self._lock = threading.Lock()
        self._core.clear_queue()
        self.due, self.is_called = float("inf"), False
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters.values():
            waiter.abandon()


class _Waiter:
    """One caller who waits, in an event loop or in a thread."""

    __slots__ = ("abandoned", "future", "gate", "loop", "ticket")

    def __init__(self, ticket: int, loop: asyncio.AbstractEventLoop | None) -> None:
        self.ticket = ticket
        self.loop = loop
        self.future: asyncio.Future[None] | None = None if loop is None else loop.create_future()
        # A bare lock, open when released: a fork can copy an Event with its inner lock taken.
        self.gate = threading.Lock() if loop is None else None
        if self.gate is not None:
            self.gate.acquire()
        self.abandoned = False

    def admit(self) -> None:
        """Let the caller go on; in its loop's own thread, if it has one."""
        if self.gate is not None:
            self.gate.release()
        elif self.future is not None and not self.future.done():
            self.future.set_result(None)

    def abandon(self) -> None:
        """Fail a waiter whom a fork left in a process that is not its own."""
        self.abandoned = True
        if self.gate is not None:
            self.gate.release()
        elif self.future is not None and not self.future.done():
            # A loop refuses that was closed, or that another thread of the parent ran.
            with contextlib.suppress(RuntimeError):
                self.future.set_exception(RuntimeError(_FORKED))
            if self.future.done():
                # Seen, so that nothing is logged where the task never runs again.
                self.future.exception()


def _admit(waiters: list[_Waiter]) -> None:
    for waiter in waiters:
        waiter.admit()


def _wake(waiters: list[_Waiter]) -> set[asyncio.AbstractEventLoop]:
    """Wake in order: threads at once, the tasks of a loop by one callback.

    Returns:
        The loops that were closed with their tasks still waiting.
    """
    closed: set[asyncio.AbstractEventLoop] = set()
    for loop, group in itertools.groupby(waiters, key=lambda waiter: waiter.loop):
        if loop is None:
            _admit(list(group))
        else:
            try:
                loop.call_soon_threadsafe(_admit, list(group))
            except RuntimeError:
                closed.add(loop)
    return closed


class _Timer:
    """One thread that serves a limiter when it is called, and when its first waiter is due."""

    def __init__(self) -> None:
        # A queue that may be put to wherever a coroutine is collected.
        self._calls: SimpleQueue[weakref.ref[RateLimiter]] = SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        # The thread's own: a limiter's entry counts while it holds the limiter's `due`.
        self._heap: list[tuple[float, int, weakref.ref[RateLimiter]]] = []
        self._order = itertools.count()

    def call(self, limiter: RateLimiter) -> None:
        """Serve soon; calls that come before that are one."""
        if not limiter.is_called:
            limiter.is_called = True
            self._calls.put(weakref.ref(limiter))
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    thread = threading.Thread(target=self._run, name="tollway-timer", daemon=True)
                    thread.start()
                    self._thread = thread

    def _run(self) -> None:
        heap = self._heap
        while True:
            wait = max(0.0, heap[0][0] - time.monotonic()) if heap else None
            with contextlib.suppress(Empty):
                self._serve(self._calls.get(timeout=wait)())
            if heap and heap[0][0] <= time.monotonic():
                due, _, reference = heapq.heappop(heap)
                self._serve(reference(), due)

    def _serve(self, limiter: RateLimiter | None, due: float | None = None) -> None:
        if limiter is None:
            return
        if due is None:
            limiter.is_called = False
        elif due == limiter.due:
            limiter.due = float("inf")
        else:
            return
        wait = limiter.serve()
        if wait is None:
            return
        due = time.monotonic() + wait
        # An earlier entry finds that nobody is due and comes back here.
        if due < limiter.due:
            limiter.due = due
            heapq.heappush(self._heap, (due, next(self._order), weakref.ref(limiter)))


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
