"""Stops asking where an answer has said that asking again is of no use."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Literal

from tollway import _core
from tollway.errors import (
    AuthenticationError,
    CircuitOpenError,
    ConfigurationError,
    InsufficientQuotaError,
    ProviderError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from types import TracebackType

__all__ = ["CircuitBreaker", "shared_breaker"]

_logger = logging.getLogger("tollway.retry")


class CircuitBreaker:
    """Fails calls at once after one was refused for good.

    An error of `trips_on` opens it: until `cooldown` (or the longer time that the provider names)
    has passed, calls raise `CircuitOpenError` with that error as its cause, those that wait for a
    retry or a permit included. Only what is on the wire goes on. Then it is half-open: one call is
    let through. If that succeeds the breaker closes, if it is refused for good it opens again.

    One breaker may be used from several threads and event loops.

    Args:
        name: What it guards, for messages.
        cooldown: Seconds.
        trips_on: Errors that hold for every request alike, and that time alone does not cure.

    Raises:
        ConfigurationError: `cooldown` is not a number of seconds.
    """

    def __init__(
        self,
        name: str = "",
        *,
        cooldown: float = 60.0,
        trips_on: tuple[type[ProviderError], ...] = (AuthenticationError, InsufficientQuotaError),
    ) -> None:
        if not 0 <= cooldown < float("inf"):
            raise ConfigurationError(f"cooldown must be seconds >= 0, not {cooldown!r}")
        self.name = name
        self.cooldown = cooldown
        self.trips_on = trips_on
        self._core = _core.CircuitBreaker(cooldown)
        self._reason: ProviderError | None = None
        self._until = 0.0
        # Tasks that wait for a retry or a permit; of any loop.
        self._watches: set[_Watch] = set()

    def __repr__(self) -> str:
        """Show what it guards, and its state."""
        reason = f", {type(self._reason).__name__}" if self._reason is not None else ""
        return f"<CircuitBreaker {self.name or 'without a name'}: {self.state}{reason}>"

    @property
    def state(self) -> Literal["closed", "open", "half_open"]:
        """Whether calls are let through: all, none, or one."""
        return self._core.state(time.monotonic())

    @property
    def reason(self) -> ProviderError | None:
        """What opened it; None while it is closed."""
        return self._reason

    def reset(self) -> None:
        """Close it: the key was changed, or credit added."""
        self._core.reset()
        self._reason = None

    def enter(self) -> int:
        """Return a pass for one call.

        Raises:
            CircuitOpenError: None is given.
        """
        answer = self._core.admit(time.monotonic())
        if isinstance(answer, int):
            return answer
        raise self._refusal()

    def renew(self, pass_: int) -> int:
        """Return a pass that is still good after a wait.

        Raises:
            CircuitOpenError: None is given any more.
        """
        return pass_ if self._core.is_valid(pass_) else self.enter()

    def watch(self) -> _Watch:
        """Return a context to wait in, which raises CircuitOpenError when the breaker opens."""
        return _Watch(self._watches, self._refusal)

    def succeeded(self, pass_: int) -> None:
        """Note that a call with this pass succeeded."""
        if self._core.succeed(pass_):
            self._reason = None
            _logger.warning("%s answers again", self._what)

    def released(self, pass_: int) -> None:
        """Note that a call with this pass was not made after all, or proved nothing."""
        self._core.release(pass_)

    def failed(self, pass_: int, error: BaseException) -> None:
        """Note how a call with this pass failed, or that it was cancelled."""
        if not isinstance(error, self.trips_on):
            self.released(pass_)
            return
        now = time.monotonic()
        if not self._core.trip(pass_, now, error.retry_after):
            return
        self._until = now + max(self.cooldown, error.retry_after or 0.0)
        # Without its traceback, whose frames hold the request.
        self._reason = copy.copy(error)
        _logger.warning(
            "%s is not asked any more: %s (%s)", self._what, type(error).__name__, error.status
        )
        waiting: dict[asyncio.AbstractEventLoop, list[_Watch]] = {}
        for watch in tuple(self._watches):
            waiting.setdefault(watch.loop, []).append(watch)
        for loop, watches in waiting.items():
            # A loop that was closed has nobody left to interrupt.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_interrupt, watches)

    @property
    def _what(self) -> str:
        return self.name or "the provider"

    def _refusal(self) -> CircuitOpenError:
        wait = max(0.0, self._until - time.monotonic())
        until = f"for {wait:.0f} s" if wait else "while one request tries it"
        reason = self._reason
        why = "it was refused" if reason is None else f"of {type(reason).__name__}: {reason}"
        error = CircuitOpenError(
            f"{self._what} is not asked {until}, because {why}. Nothing was sent; when that is "
            "mended, wait or call reset() on the breaker",
            retry_in=wait,
        )
        error.__cause__ = reason
        return error


class _Watch:
    """While inside, the task is interrupted when the breaker opens; as `asyncio.timeout` does."""

    __slots__ = ("_cancelling", "_inside", "_interrupted", "_refusal", "_task", "_watches", "loop")

    def __init__(self, watches: set[_Watch], refusal: Callable[[], CircuitOpenError]) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.loop = task.get_loop()
        self._task = task
        self._watches = watches
        self._refusal = refusal
        self._cancelling = task.cancelling()
        self._inside = False
        self._interrupted = False

    def __enter__(self) -> None:
        self._inside = True
        self._watches.add(self)

    def interrupt(self) -> None:
        """Cancel the task if it still waits; in its loop's thread."""
        if self._inside:
            self._interrupted = True
            self._task.cancel()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._inside = False
        self._watches.discard(self)
        if (
            self._interrupted
            and self._task.uncancel() <= self._cancelling
            and kind is not None
            and issubclass(kind, asyncio.CancelledError)
        ):
            raise self._refusal()


def _interrupt(watches: list[_Watch]) -> None:
    for watch in watches:
        watch.interrupt()


_shared: weakref.WeakValueDictionary[Hashable, CircuitBreaker] = weakref.WeakValueDictionary()
_shared_lock = threading.Lock()


def shared_breaker(key: Hashable, name: str = "") -> CircuitBreaker:
    """Return the process's breaker for `key`: provider, address, credential, model.

    Args:
        key: What is refused together.
        name: For messages, should it be the first.
    """
    with _shared_lock:
        breaker = _shared.get(key)
        if breaker is None:
            breaker = _shared[key] = CircuitBreaker(name)
        return breaker


def _after_fork() -> None:
    global _shared_lock  # noqa: PLW0603
    _shared_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
