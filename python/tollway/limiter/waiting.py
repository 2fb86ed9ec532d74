"""Callers that wait, the timer that wakes them, and the way into their event loops."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import os
import threading
import time
import weakref
from collections import deque
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from tollway import _core

__all__ = ["Served", "Timer", "Waiter", "timer"]

_logger = logging.getLogger("tollway.limiter")

FORKED = "the process forked while this caller waited for the limiter"

# Tasks of one loop woken in one turn of it, so that its other tasks have their turn within a
# fraction of a millisecond: a task takes some microseconds to resume.
_SLICE = 32

# Seconds that the thread sleeps at most: the system's clocks refuse some centuries.
_LONGEST_SLEEP = 86_400.0

# Seconds after which one is served again that could not be.
_AGAIN = 1.0


class Wakeable(Protocol):
    """Somebody who waits."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop to wake it in, or None: any thread may."""
        ...

    def wake(self) -> None:
        """Let it go on; in its loop's own thread, if it has one."""
        ...


class Waiter:
    """One caller who waits, in an event loop or in a thread."""

    __slots__ = (
        "_claim",
        "core",
        "error",
        "future",
        "gate",
        "has_left",
        "leased",
        "loop",
        "output_tokens",
        "stamp",
        "ticket",
        "tokens",
    )

    def __init__(
        self,
        core: _core.Limiter,
        ticket: int,
        loop: asyncio.AbstractEventLoop | None,
        tokens: int,
        output_tokens: int,
        *,
        leased: bool,
    ) -> None:
        # Whose ticket it is: the limiter has another one when it was closed, or forked.
        self.core: _core.Limiter | None = core
        self.ticket = ticket
        self.loop = loop
        self.tokens = tokens
        self.output_tokens = output_tokens
        self.leased = leased
        self.future: asyncio.Future[None] | None = None if loop is None else loop.create_future()
        # A bare lock, open when released: a fork can copy an Event with its inner lock taken.
        self.gate = threading.Lock() if loop is None else None
        if self.gate is not None:
            self.gate.acquire()
        self.stamp: int | None = None
        self.error: Exception | None = None
        self.has_left = False
        self._claim = [None]

    @property
    def admission(self) -> tuple[_core.Limiter, int]:
        """Who admitted the caller, and the stamp of the charge."""
        assert self.core is not None
        assert self.stamp is not None
        return self.core, self.stamp

    def claim(self) -> bool:
        """Whether the caller is the first who asks: what was admitted comes back once."""
        try:
            self._claim.pop()
        except IndexError:
            return False
        return True

    def fail(self, error: Exception) -> None:
        """Have `wake` raise an error; nothing was charged."""
        self.error = error
        # The error's traceback leads here: it must not keep the place of a shared limiter.
        self.core = None

    def wake(self) -> None:
        """Let the caller go on, or raise `error`; in its loop's own thread, if it has one."""
        if self.gate is not None:
            self.gate.release()
        elif self.future is not None and not self.future.done():
            if self.error is None:
                self.future.set_result(None)
            else:
                self.future.set_exception(self.error)

    def abandon(self) -> None:
        """Fail a waiter whom a fork left in a process that is not its own."""
        error = RuntimeError(FORKED)
        self.fail(error)
        if self.gate is not None:
            self.gate.release()
        elif self.future is not None and not self.future.done():
            # A loop refuses that was closed, or that another thread of the parent ran.
            with contextlib.suppress(RuntimeError):
                self.future.set_exception(error)
            if self.future.done():
                # Seen, so that nothing is logged where the task never runs again.
                self.future.exception()


class _Inbox:
    """Those of one event loop who are admitted and not told yet.

    While there are any, the loop keeps it, and nobody else: one that is closed over them loses
    them, so that what they were admitted with comes back as they are collected.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._waiters: deque[Wakeable] = deque()
        self._is_called = False
        self._then: deque[Callable[[], object]] = deque()

    def put(self, waiters: list[Wakeable], then: Callable[[], object] | None) -> None:
        """Take more, from the timer's thread; RuntimeError where the loop is closed."""
        loop = self._loop()
        if loop is None or loop.is_closed():
            raise RuntimeError("the event loop is closed")
        self._waiters.extend(waiters)
        if then is not None:
            self._then.append(then)
        if not self._is_called:
            self._is_called = True
            loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        waiters = self._waiters
        for _ in range(min(_SLICE, len(waiters))):
            waiters.popleft().wake()
        # Down before the look, so that who puts between them calls again.
        self._is_called = False
        loop = self._loop()
        if loop is None:
            return
        if waiters:
            self._is_called = True
            loop.call_soon(self._tell)
        while self._then and not waiters:
            # Behind the tasks that were just woken.
            loop.call_soon(self._then.popleft())


class Served(Protocol):
    """What a timer serves."""

    due: float
    is_called: bool

    def serve(self) -> float | None:
        """Wake those who are admitted by now; return the seconds until it is to be called again."""
        ...


class Timer:
    """One thread that serves whoever it is called for, and when the first that waits is due."""

    def __init__(self) -> None:
        # A queue that may be put to wherever a coroutine is collected.
        self._calls: SimpleQueue[weakref.ref[Served]] = SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        # The thread's own: an entry counts while it holds the `due` of whom it is for.
        self._heap: list[tuple[float, int, weakref.ref[Served]]] = []
        self._order = itertools.count()
        self._inboxes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[_Inbox]] = (
            weakref.WeakKeyDictionary()
        )

    def call(self, served: Served) -> None:
        """Serve soon; calls that come before that are one."""
        if not served.is_called:
            served.is_called = True
            self._calls.put(weakref.ref(served))
        if self._thread is None:
            self.start()

    def start(self) -> None:
        """Start the thread, unless it runs; the first call does so too."""
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    thread = threading.Thread(target=self._run, name="tollway-timer", daemon=True)
                    thread.start()
                    self._thread = thread

    def wake(
        self, waiters: Sequence[Wakeable], then: Callable[[], object] | None = None
    ) -> set[asyncio.AbstractEventLoop]:
        """Wake in order: threads at once, the tasks of a loop a few in each of its turns.

        Args:
            waiters: Whom.
            then: Called in each loop when its tasks have had their turn.

        Returns:
            The loops that were closed with their tasks still waiting.
        """
        closed: set[asyncio.AbstractEventLoop] = set()
        for loop, group in itertools.groupby(waiters, key=lambda waiter: waiter.loop):
            if loop is None:
                for waiter in group:
                    waiter.wake()
                continue
            kept = self._inboxes.get(loop)
            inbox = None if kept is None else kept()
            if inbox is None:
                inbox = _Inbox(loop)
                self._inboxes[loop] = weakref.ref(inbox)
            try:
                inbox.put(list(group), then)
            except RuntimeError:
                closed.add(loop)
        return closed

    def _run(self) -> None:
        heap = self._heap
        while True:
            left = heap[0][0] - time.monotonic() if heap else None
            wait = None if left is None else min(max(0.0, left), _LONGEST_SLEEP)
            with contextlib.suppress(Empty):
                self._serve(self._calls.get(timeout=wait)())
            if heap and heap[0][0] <= time.monotonic():
                due, _, reference = heapq.heappop(heap)
                self._serve(reference(), due)

    def _serve(self, served: Served | None, due: float | None = None) -> None:
        if served is None:
            return
        if due is None:
            served.is_called = False
        elif due == served.due:
            served.due = float("inf")
        else:
            return
        try:
            wait = served.serve()
        except Exception:
            # All others wait for this thread too.
            _logger.exception("a %s cannot be served; it is tried again", type(served).__name__)
            wait = _AGAIN
        if wait is None:
            return
        due = time.monotonic() + wait
        # An earlier entry finds that nobody is due and comes back here.
        if due < served.due:
            served.due = due
            heapq.heappush(self._heap, (due, next(self._order), weakref.ref(served)))


_timer = Timer()


def timer() -> Timer:
    """Return the timer of this process."""
    return _timer


def _after_fork() -> None:
    global _timer  # noqa: PLW0603
    _timer = Timer()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
