"""Sleeping in an event loop: any number of sleepers behind one timer of the loop.

`asyncio.sleep` keeps a timer object each in a heap that is ordered by Python code; here the heap is
the core's, and the loop holds one timer, for the first who is due.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import weakref
from typing import TYPE_CHECKING, Any

from tollway import _core

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["resolve_after", "sleep"]

# Sleepers woken in one callback: about a microsecond each, so that other callbacks of the loop are
# held up for well under a millisecond.
_BATCH = 256


class _Sleepers:
    """Those who sleep in one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = weakref.ref(loop)
        self._pending = _core.Scheduler()
        self._timer: asyncio.TimerHandle | None = None
        self._due = float("inf")

    def add(self, loop: asyncio.AbstractEventLoop, due: float, future: asyncio.Future[Any]) -> int:
        ticket = self._pending.push(due, future)
        if due < self._due:
            self._arm(loop, due)
        return ticket

    def cancel(self, ticket: int) -> None:
        # The timer stays: should it come for nobody, it sets itself for the next.
        self._pending.cancel(ticket)

    def _arm(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = loop.call_at(due, self._serve, loop)

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        woken, due = self._pending.pop_due(loop.time(), _BATCH)
        for future in woken:
            if not future.done():
                future.set_result(None)
        self._timer = None
        if due is None:
            self._due = float("inf")
        else:
            self._arm(loop, due)


class _OfThread(threading.local):
    # A thread runs one loop at a time, and seldom a second one. The sleepers of an earlier loop
    # live on in that loop's timer.
    sleepers: _Sleepers | None = None


_of_thread = _OfThread()


def _sleepers(loop: asyncio.AbstractEventLoop) -> _Sleepers:
    sleepers = _of_thread.sleepers
    if sleepers is None or sleepers.loop() is not loop:
        sleepers = _of_thread.sleepers = _Sleepers(loop)
    return sleepers


def resolve_after(future: asyncio.Future[None], seconds: float) -> Callable[[], None]:
    """Give `future` of this loop the result None after `seconds`, unless it is done.

    Returns:
        Cancels that; to be called in any case.
    """
    loop = asyncio.get_running_loop()
    sleepers = _sleepers(loop)
    return functools.partial(sleepers.cancel, sleepers.add(loop, loop.time() + seconds, future))


async def sleep(seconds: float) -> None:
    """Wait for `seconds`; 0 lets other tasks run.

    Cancellation: leaves at once.
    """
    if seconds <= 0:
        await asyncio.sleep(0)
        return
    future = asyncio.get_running_loop().create_future()
    cancel = resolve_after(future, seconds)
    try:
        await future
    finally:
        cancel()
