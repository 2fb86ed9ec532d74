"""Run the async core from synchronous code: one event loop in one background thread a process."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["run_sync"]

T = TypeVar("T")


class _Bridge:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(
                    target=self._loop.run_forever, name="tollway-sync", daemon=True
                ).start()
            return self._loop


_bridge = _Bridge()


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in the background loop; works inside a running loop too.

    An exception in the waiting thread (Ctrl-C above all) cancels the coroutine, waits for it to
    put its things in order, and is raised.
    """
    future = asyncio.run_coroutine_threadsafe(coroutine, _bridge.loop())
    try:
        return future.result()
    except BaseException:
        if future.cancel():
            # The task hears of it in the loop; give it the time to keep what it has.
            asyncio.run_coroutine_threadsafe(_settle(), _bridge.loop()).result(timeout=5)
        raise


async def _settle() -> None:
    """Wait until every task that was cancelled has ended."""
    current = asyncio.current_task()
    cancelled = [task for task in asyncio.all_tasks() if task is not current and task.cancelling()]
    await asyncio.gather(*cancelled, return_exceptions=True)


def _after_fork() -> None:
    # The child has neither the thread nor a use for the parent's loop.
    global _bridge  # noqa: PLW0603
    _bridge = _Bridge()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
