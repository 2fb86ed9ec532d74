"""Ends what a task awaits, as `asyncio.timeout` does, and tells that from what ended by itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tollway.errors import APIConnectionError
from tollway.retry import sleeper

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

__all__ = ["Deadline", "Interruption", "failure_of"]


class Interruption:
    """A context in which `interrupt` cancels the task, and which then raises what `error` returns.

    A cancellation that comes from elsewhere, before or with it, stays one.
    """

    __slots__ = ("_cancelling", "_error", "_inside", "_interrupted", "_task", "loop")

    def __init__(self, error: Callable[[], Exception]) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.loop = task.get_loop()
        self._task = task
        self._error = error
        self._cancelling = task.cancelling()
        self._inside = False
        self._interrupted = False

    def __enter__(self) -> Self:
        """Begin to be interruptible."""
        self._inside = True
        return self

    def interrupt(self) -> None:
        """Cancel the task if it is still inside; in its loop's thread."""
        if self._inside:
            self._interrupted = True
            self._task.cancel()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Raise what `error` returns in the place of the cancellation by `interrupt`."""
        self._inside = False
        if (
            self._interrupted
            and self._task.uncancel() <= self._cancelling
            and kind is not None
            and issubclass(kind, asyncio.CancelledError)
        ):
            raise self._error()


class Deadline(Interruption):
    """Interrupts after `seconds`, behind the one timer that the loop's sleepers have."""

    __slots__ = ("_cancel", "_seconds")

    def __init__(self, seconds: float, error: Callable[[], Exception]) -> None:
        super().__init__(error)
        self._seconds = seconds

    def __enter__(self) -> Self:
        """Set the alarm."""
        future = self.loop.create_future()
        future.add_done_callback(lambda _: self.interrupt())
        self._cancel = sleeper.resolve_after(future, self._seconds)
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Take the alarm back, and end as an interruption does."""
        self._cancel()
        super().__exit__(kind, error, traceback)


def failure_of(error: BaseException) -> BaseException:
    """Return what ended an attempt: where it was cancelled, but not by way of this task, an error.

    Passed on, such a cancellation would end its caller without a word.
    """
    if not isinstance(error, asyncio.CancelledError):
        return error
    task = _current_task()
    if task is None or task.cancelling():
        return error
    failure = APIConnectionError("the attempt was cancelled from within")
    failure.__cause__ = error
    return failure


def _current_task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        # A sync function's attempt, in a thread without a loop.
        return None
