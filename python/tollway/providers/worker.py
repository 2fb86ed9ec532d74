"""Threads for what would hold up the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Worker", "in_thread"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Worker:
    """One thread for a model that computes on this machine; begun on first use.

    It does one piece of work after the other.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._threads: ThreadPoolExecutor | None = None
        self._pid = 0

    async def run(self, work: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """Return what `work` returns.

        Cancellation returns at once: work that has not begun is dropped, other work goes on.
        """
        # A forked child has the object but not the thread.
        if self._threads is None or self._pid != os.getpid():
            self._threads = ThreadPoolExecutor(1, thread_name_prefix=self._name)
            self._pid = os.getpid()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def end(self) -> None:
        """End the thread after the work it has; a later `run` starts another."""
        threads, self._threads = self._threads, None
        if threads is not None and self._pid == os.getpid():
            threads.shutdown(wait=False)


async def in_thread(call: Callable[[], T], name: str) -> T:
    """Call in a daemon thread of its own: one that never returns holds up nobody.

    Args:
        call: Sees the context variables of the task.
        name: Of the thread.

    Raises:
        BaseException: What `call` raises; a `RuntimeError` in place of a `StopIteration`.

    Cancellation abandons the result.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    run = functools.partial(contextvars.copy_context().run, call)
    threading.Thread(target=_run, args=(run, loop, future), name=name, daemon=True).start()
    try:
        return await future
    finally:
        # The traceback of its error leads here.
        del future


def _run(call: Callable[[], T], loop: asyncio.AbstractEventLoop, future: asyncio.Future[T]) -> None:
    settle: Callable[[], None]
    try:
        settle = functools.partial(future.set_result, call())
    except StopIteration as error:  # no future takes one
        settle = functools.partial(future.set_exception, RuntimeError(repr(error)))
    except BaseException as error:  # noqa: BLE001 - it is the caller's
        settle = functools.partial(future.set_exception, error)
    with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
        loop.call_soon_threadsafe(_settle, future, settle)
    # The traceback leads here too.
    del settle, future


def _settle(future: asyncio.Future[Any], settle: Callable[[], None]) -> None:
    if not future.done():
        settle()
