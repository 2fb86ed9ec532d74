"""Run the async core from synchronous code: one event loop in one background thread a process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["Closing", "run_sync"]

T = TypeVar("T")


class _Bridge:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def loop(self) -> asyncio.AbstractEventLoop:
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "a callback of a synchronous call cannot make another one: it would wait for itself"
            )
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="tollway-sync", daemon=True
                )
                self._thread.start()
            return self._loop


_bridge = _Bridge()
_of_parents: list[_Bridge] = []


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in the background loop; works inside a running loop too.

    An exception in the waiting thread (Ctrl-C above all) cancels the coroutine, waits for it to
    put its things in order, and is raised.
    """
    try:
        loop = _bridge.loop()
    except RuntimeError:
        coroutine.close()
        raise
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        return future.result()
    except BaseException:
        if future.cancel():
            # The task hears of it in the loop; give it the time to keep what it has.
            with contextlib.suppress(TimeoutError):
                asyncio.run_coroutine_threadsafe(_settle(), loop).result(timeout=5)
        raise


async def _settle() -> None:
    """Wait until every task that was cancelled has ended."""
    current = asyncio.current_task()
    cancelled = [task for task in asyncio.all_tasks() if task is not current and task.cancelling()]
    await asyncio.gather(*cancelled, return_exceptions=True)


class Closing(ABC):
    """What is closed at the end of an `async with`, or by hand."""

    async def __aenter__(self) -> Self:
        """Return itself; `aclose` is called at the end of the block."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close as `aclose` does."""
        await self.aclose()

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connections that were opened for this event loop."""

    def aclose_sync(self) -> None:
        """Close the connections that synchronous calls opened; later calls open others."""
        run_sync(self.aclose())


def _after_fork() -> None:
    # The child has neither the thread nor a use for the parent's loop, but keeps it: a loop that
    # is collected takes its sockets out of the selector, which the parent shares.
    global _bridge  # noqa: PLW0603
    _of_parents.append(_bridge)
    _bridge = _Bridge()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
