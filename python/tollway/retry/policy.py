"""Retrying calls: what to wait between attempts, and when to give up."""

from __future__ import annotations

import functools
import inspect
import logging
import math
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict, TypeVar, get_args, overload

from tollway import _core
from tollway.errors import (
    APITimeoutError,
    ConfigurationError,
    DeadlineExceededError,
    RetriesExhaustedError,
    TollwayError,
)
from tollway.types import Attempt

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any, Unpack

__all__ = ["Jitter", "RetryPolicy", "Strategy", "retry"]

T = TypeVar("T")
F = TypeVar("F", bound="Callable[..., Any]")

Strategy = Literal[
    "exponential_backoff", "incremental", "linear", "fixed", "random", "decorrelated", "native"
]
Jitter = Literal["none", "full", "equal", "proportional", "additive"]

_logger = logging.getLogger("tollway.retry")
# A program that sets up no logging sees no lines of ours between its own.
_logger.addHandler(logging.NullHandler())


async def _sleep(seconds: float) -> None:
    import asyncio  # noqa: PLC0415 - a third of the time `import tollway` may take

    await asyncio.sleep(seconds)


class _Clock(NamedTuple):
    """Where time comes from; tests pass their own."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = _sleep
    sleep_sync: Callable[[float], None] = time.sleep


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """When to try again after a failure, and when to give up.

    Retried are errors whose `retryable` is true (see `tollway.errors`) and those of `retry_on`.
    Every other error, and cancellation, passes through untouched and at once.

    The wait before retry n = 1, 2, … is d by `strategy`, spread by `jitter`, then capped at
    `max_delay` (twice that after a time-out). What the server asks for (`error.retry_after`) is a
    floor and wins over the cap; more than 600 s of it is not waited for.

    Attributes:
        strategy: `exponential_backoff` base·2^(n-1); `incremental` and `linear` base·n; `fixed`
            base; `random` uniform in [base, max_delay]; `decorrelated` uniform in
            [base, 3·previous wait]; `native` what the server asks for, and where it asks for
            nothing as `exponential_backoff`.
        max_retries: Attempts after the first; 0 for none.
        base_delay: Seconds; None for 1.0, for `linear` 10.0, for `fixed` 60.0.
        max_delay: Seconds.
        jitter: `none` d; `full` uniform in [0, d]; `equal` in [d/2, d]; `proportional` in
            [0.5 d, 1.5 d]; `additive` in [d, 1.1 d]. `random` and `decorrelated` take none.
        deadline: Seconds from the start of a call after which no attempt begins; an attempt that
            runs is not interrupted. None for no limit.
        seed: Makes the waits repeatable.
        retry_on: Further classes of error to retry; those of tollway decide for themselves.
        on_retry: Called before each wait with the failed attempt, its error and the wait in
            seconds. What it raises ends the call.

    Raises:
        ConfigurationError: A value is out of range; names the field, the value and what is allowed.
    """

    strategy: Strategy = "exponential_backoff"
    max_retries: int = 10
    base_delay: float | None = None
    max_delay: float = 60.0
    jitter: Jitter = "full"
    deadline: float | None = None
    seed: int | None = None
    retry_on: tuple[type[Exception], ...] = (ConnectionError, TimeoutError)
    on_retry: Callable[[Attempt, Exception, float], object] | None = None
    _clock: _Clock = field(default=_Clock(), repr=False, compare=False)
    _draw: Callable[[], float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check every field and settle the base delay."""
        _check_name("strategy", self.strategy, get_args(Strategy))
        _check_name("jitter", self.jitter, get_args(Jitter))
        if self.base_delay is None:
            object.__setattr__(self, "base_delay", _core.retry_base(self.strategy))
        for name in ("base_delay", "max_delay", "deadline"):
            _check_seconds(name, getattr(self, name), optional=name == "deadline")
        _check_count("max_retries", self.max_retries)
        # The module's generator is seeded anew in a forked child: siblings do not wait in step.
        draw = random.random if self.seed is None else random.Random(self.seed).random  # noqa: S311 - a wait is no secret
        object.__setattr__(self, "_draw", draw)

    async def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Await `function()` until an attempt succeeds, and return its result.

        Raises:
            RetriesExhaustedError: No attempt is left, or the server asks to wait more than 600 s;
                carries all attempts, and the last error as its cause.
            DeadlineExceededError: The next wait would leave no time before the deadline; raised
                at once, with the last error as its cause.
            Exception: What is not to be retried, as it was raised.

        Cancellation: passes through at once, in an attempt and in a wait.
        """
        calls = _Attempts(self, self._clock.now, self._draw)
        while True:
            try:
                return await function()
            except Exception as error:
                wait = calls.wait_after(error)
                if wait is None:
                    raise
            await self._clock.sleep(wait)

    def call_sync(self, function: Callable[[], T]) -> T:
        """Call `function()` as `call` does, blocking the thread while it waits."""
        calls = _Attempts(self, self._clock.now, self._draw)
        while True:
            try:
                return function()
            except Exception as error:
                wait = calls.wait_after(error)
                if wait is None:
                    raise
            self._clock.sleep_sync(wait)


class _Attempts:
    """The failed attempts of one call, and what follows each."""

    __slots__ = ("_attempts", "_draw", "_now", "_policy", "_started")

    def __init__(
        self, policy: RetryPolicy, now: Callable[[], float], draw: Callable[[], float]
    ) -> None:
        self._policy = policy
        self._now = now
        self._draw = draw
        self._started = now()
        self._attempts: list[Attempt] = []

    def wait_after(self, error: Exception) -> float | None:
        """Return the seconds to wait, or None where the error is to be raised as it is.

        Raises:
            RetriesExhaustedError: As `RetryPolicy.call` says.
            DeadlineExceededError: As `RetryPolicy.call` says.
        """
        policy = self._policy
        if not _is_retryable(error, policy.retry_on):
            return None
        at = self._now() - self._started
        number = len(self._attempts) + 1
        if number > policy.max_retries:
            self._record(error, at, 0.0)
            raise RetriesExhaustedError(
                f"{_times(number)} failed in {at:.1f} s; the last: {_describe(error)}",
                self._attempts,
            ) from error
        decision = _core.retry_delay(
            policy.strategy,
            policy.jitter,
            policy.base_delay or 0.0,
            policy.max_delay,
            number,
            self._draw(),
            previous=self._attempts[-1].wait if self._attempts else None,
            hint=_hint(error),
            timed_out=isinstance(error, (TimeoutError, APITimeoutError)),
            remaining=None if policy.deadline is None else policy.deadline - at,
        )
        if decision == "deadline":
            self._record(error, at, 0.0)
            raise DeadlineExceededError(
                f"no time for another attempt before the deadline of {policy.deadline:g} s; "
                f"{_times(number)} failed in {at:.1f} s; the last: {_describe(error)}",
                self._attempts,
            ) from error
        if decision == "hint":
            self._record(error, at, 0.0)
            raise RetriesExhaustedError(
                f"given up after {_times(number)}: the server asks to wait {_hint(error):g} s, "
                f"more than 600 s; the last: {_describe(error)}",
                self._attempts,
            ) from error
        attempt = self._record(error, at, decision)
        _logger.warning(
            "attempt %d/%d failed: %s; next in %.2f s",
            number,
            policy.max_retries + 1,
            attempt.error,
            decision,
        )
        if policy.on_retry is not None:
            policy.on_retry(attempt, error, decision)
        return decision

    def _record(self, error: Exception, at: float, wait: float) -> Attempt:
        attempt = Attempt(
            number=len(self._attempts) + 1,
            at=at,
            error=type(error).__name__,
            status=getattr(error, "status", None),
            request_id=getattr(error, "request_id", None),
            wait=wait,
        )
        self._attempts.append(attempt)
        return attempt


def _is_retryable(error: Exception, retry_on: tuple[type[Exception], ...]) -> bool:
    # A DeadlineExceededError is a TimeoutError: without the first test, one call's given-up
    # deadline would be retried by a policy around it.
    if isinstance(error, TollwayError):
        return bool(getattr(error, "retryable", False))
    return bool(getattr(error, "retryable", False)) or isinstance(error, retry_on)


def _hint(error: Exception) -> float | None:
    seconds = getattr(error, "retry_after", None)
    return float(seconds) if isinstance(seconds, (int, float)) else None


def _describe(error: Exception) -> str:
    # Our own messages carry no key and no body; of others only the class is certain not to.
    name = type(error).__name__
    return f"{name}: {error}" if isinstance(error, TollwayError) else name


def _times(number: int) -> str:
    return "1 attempt" if number == 1 else f"{number} attempts"


def _check_name(field_name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigurationError(f"{field_name}={value!r} is not one of {', '.join(allowed)}")


def _check_count(field_name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32:
        raise ConfigurationError(f"{field_name}={value!r} is not a whole number from 0 to 2^32 - 1")


def _check_seconds(field_name: str, value: object, *, optional: bool) -> None:
    if value is None and optional:
        return
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not (math.isfinite(value) and value >= 0)
    ):
        raise ConfigurationError(f"{field_name}={value!r} is not a finite number of seconds ≥ 0")


class _Options(TypedDict, total=False):
    strategy: Strategy
    max_retries: int
    base_delay: float | None
    max_delay: float
    jitter: Jitter
    deadline: float | None
    seed: int | None
    retry_on: tuple[type[Exception], ...]
    on_retry: Callable[[Attempt, Exception, float], object] | None


@overload
def retry(policy: RetryPolicy, /) -> Callable[[F], F]: ...
@overload
def retry(function: F, /) -> F: ...
@overload
def retry(**options: Unpack[_Options]) -> Callable[[F], F]: ...
def retry(
    target: RetryPolicy | Callable[..., Any] | None = None, /, **options: Unpack[_Options]
) -> object:
    """Retry a function, sync or async, each time it is called.

    Use it as `@retry`, as `@retry(policy)`, or with the fields of `RetryPolicy`:
    `@retry(max_retries=3, retry_on=(OSError,))`. Errors are those of `RetryPolicy.call`.

    Raises:
        ConfigurationError: A generator function, whose body runs only after the call; or options
            that `RetryPolicy` refuses.
    """
    if isinstance(target, RetryPolicy):
        return functools.partial(_wrap, target)
    policy = RetryPolicy(**options)
    return functools.partial(_wrap, policy) if target is None else _wrap(policy, target)


def _wrap(policy: RetryPolicy, function: Callable[..., Any]) -> Callable[..., Any]:
    if not callable(function):
        raise ConfigurationError(f"retry decorates functions, not {function!r}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        name = getattr(function, "__qualname__", repr(function))
        raise ConfigurationError(f"{name} is a generator function; retry what it iterates over")
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def call(*args: object, **kwargs: object) -> object:
            return await policy.call(functools.partial(function, *args, **kwargs))

        return call

    @functools.wraps(function)
    def call_sync(*args: object, **kwargs: object) -> object:
        return policy.call_sync(functools.partial(function, *args, **kwargs))

    return call_sync
