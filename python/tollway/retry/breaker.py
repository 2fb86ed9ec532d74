"""Stops asking where an answer has said that asking again is of no use."""

from __future__ import annotations

import contextlib
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
from tollway.retry.hint import LONGEST_HINT, hint_of
from tollway.retry.interrupt import Interruption

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Hashable
    from types import TracebackType
    from typing import Self

__all__ = ["CircuitBreaker", "shared_breaker"]

_logger = logging.getLogger("tollway.retry")


class CircuitBreaker:
    """Fails calls at once after one was refused for good.

    An error of `trips_on` opens it, and so does one of a provider that asks to wait more than
    600 s. Until `cooldown` (or the longer time that the provider names) has passed, calls raise
    `CircuitOpenError` with that error as its cause, those that wait for a retry or a permit
    included. Only what is on the wire goes on. Then it is half-open: one call is let through. If
    that succeeds the breaker closes, if it is refused for good it opens again.

    One breaker may be used from several threads and event loops.

    Args:
        name: What it guards, for messages.
        cooldown: Seconds.
        trips_on: Errors that hold for every request alike, and that time alone does not cure.

    Raises:
        ConfigurationError: `cooldown` is not a number of seconds, or `trips_on` holds something
            else than classes of `ProviderError`.
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
        for kind in trips_on:
            if not (isinstance(kind, type) and issubclass(kind, ProviderError)):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ConfigurationError(f"trips_on={kind!r} is not a class of ProviderError")
        self.name = name
        self.cooldown = cooldown
        self.trips_on = tuple(trips_on)
        self._core = _core.CircuitBreaker(cooldown)
        # The core's state and the reason for it change together.
        self._lock = threading.Lock()
        self._opened: tuple[ProviderError, float] | None = None
        # Tasks that wait for a retry or a permit; of any loop.
        self._watches: set[_Watch] = set()
        _breakers.add(self)

    def __repr__(self) -> str:
        """Show what it guards, and its state."""
        reason = f", {type(self.reason).__name__}" if self.reason is not None else ""
        return f"<CircuitBreaker {self.name or 'without a name'}: {self.state}{reason}>"

    @property
    def state(self) -> Literal["closed", "open", "half_open"]:
        """Whether calls are let through: all, none, or one."""
        return self._core.state(time.monotonic())

    @property
    def reason(self) -> ProviderError | None:
        """What opened it; None while it is closed."""
        opened = self._opened
        return None if opened is None else opened[0]

    def reset(self) -> None:
        """Close it: the key was changed, or credit added."""
        with self._lock:
            self._core.reset()
            self._opened = None

    def check(self) -> None:
        """Do nothing where a call would be let through.

        Raises:
            CircuitOpenError: It would not.
        """
        with self._lock:
            refused = self._core.refusal(time.monotonic()) is not None
        if refused:
            raise self._refusal()

    def enter(self) -> int:
        """Return a pass for one attempt that is sent now.

        It comes back by `succeeded`, `failed` or `released`.

        Raises:
            CircuitOpenError: None is given.
        """
        with self._lock:
            answer = self._core.admit(time.monotonic())
        if isinstance(answer, int):
            return answer
        raise self._refusal()

    def check_pass(self, pass_: int) -> None:
        """Do nothing where a pass still lets its holder send.

        Raises:
            CircuitOpenError: The breaker opened since it was given, or was closed by hand.
        """
        if not self._core.is_valid(pass_):
            raise self._refusal()

    def watch(self) -> _Watch:
        """Return a context to wait in, which raises CircuitOpenError when the breaker opens."""
        return _Watch(self._watches, self._refusal)

    def succeeded(self, pass_: int) -> None:
        """Note that an attempt with this pass succeeded."""
        with self._lock:
            closes = self._core.succeed(pass_)
            if closes:
                self._opened = None
        if closes:
            _logger.warning("%s answers again", self._what)

    def released(self, pass_: int) -> None:
        """Note that an attempt with this pass was not made after all, or proved nothing."""
        self._core.release(pass_)

    def failed(self, pass_: int, error: BaseException) -> None:
        """Note how an attempt with this pass ended, or that it was cancelled."""
        if not self.trip(pass_, error):
            self.released(pass_)

    def trip(self, pass_: int, error: BaseException) -> bool:
        """Open if an attempt with this pass met what holds for all others; whether it did."""
        hint = hint_of(error) or 0.0
        if not isinstance(error, ProviderError):
            return False
        if not (isinstance(error, self.trips_on) or hint > LONGEST_HINT):
            return False
        now = time.monotonic()
        opened = (_without_frames(error), now + max(self.cooldown, hint))
        with self._lock:
            if not self._core.trip(pass_, now, hint):
                return False
            self._opened = opened
        _logger.warning(
            "%s is not asked any more: %s (%s)", self._what, type(error).__name__, error.status
        )
        waiting: dict[asyncio.AbstractEventLoop, list[_Watch]] = {}
        for watch in self._watches.copy():
            waiting.setdefault(watch.loop, []).append(watch)
        for loop, watches in waiting.items():
            # A loop that was closed has nobody left to interrupt.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_interrupt, watches)
        return True

    def forget_attempts(self) -> None:
        """Start a forked child without its parent's attempts and waiters."""
        self._lock = threading.Lock()
        self._watches = set()
        self._core.abandon_probe()

    @property
    def _what(self) -> str:
        return self.name or "the provider"

    def _refusal(self) -> CircuitOpenError:
        reason, until = self._opened or (None, 0.0)
        wait = max(0.0, until - time.monotonic())
        when = f"for {wait:.0f} s" if wait else "while one request tries it"
        why = "it was refused" if reason is None else f"of {type(reason).__name__}: {reason}"
        error = CircuitOpenError(
            f"{self._what} is not asked {when}, because {why}. Nothing was sent; when that is "
            "mended, wait or call reset() on the breaker",
            retry_in=wait,
        )
        error.__cause__ = reason
        return error


class _Watch(Interruption):
    """While inside, the task is interrupted when the breaker opens."""

    __slots__ = ("_watches",)

    def __init__(self, watches: set[_Watch], refusal: Callable[[], CircuitOpenError]) -> None:
        super().__init__(refusal)
        self._watches = watches

    def __enter__(self) -> Self:
        self._watches.add(self)
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._watches.discard(self)
        super().__exit__(kind, error, traceback)


def _interrupt(watches: list[_Watch]) -> None:
    for watch in watches:
        watch.interrupt()


def _without_frames(error: ProviderError) -> ProviderError:
    """Return a twin without the traceback, whose frames hold the request."""
    twin = type(error).__new__(type(error), *error.args)
    twin.__dict__.update(error.__dict__)
    return twin


_breakers: weakref.WeakSet[CircuitBreaker] = weakref.WeakSet()
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
    for breaker in list(_breakers):
        breaker.forget_attempts()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
