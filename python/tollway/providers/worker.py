"""A thread of its own for a model that computes on this machine."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Worker"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Worker:
    """One thread that does one piece of work after the other; begun on first use.

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
